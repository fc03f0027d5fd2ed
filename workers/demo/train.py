"""The training loop of the demo: AdamW, a constant learning rate, short padded batches.

The same stage from the same weights gives the same result, however busy the machine; only a time
limit that cuts a stage short can change that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workers.demo.data import Example
from workers.demo.plan import Plan, Stage
from workers.demo.tokenizer import MAX_TOKENS

WARM_UP_STEPS = 15
#: weight of the word's characters in the loss, beside 1 for the answer's tokens
WORD_WEIGHT = 0.1
#: tokens before the word: <s> and the tag
HEAD_TOKENS = 2


def new_model(plan: Plan, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A randomly initialised fp32 Llama of the plan's shape."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


class Examples:
    """Draws of training examples: tasks by the mixture, examples without repeats until used up."""

    def __init__(self, train: Mapping[str, Sequence[Example]], stage: Stage) -> None:
        self._random = random.Random(stage.seed)
        self._train = train
        self._tasks, self._shares = list(stage.mixture), list(stage.mixture.values())
        self._left: dict[str, list[Example]] = {task: [] for task in self._tasks}

    def draw(self, count: int) -> list[Example]:
        """The next `count` examples."""
        drawn = []
        for task in self._random.choices(self._tasks, self._shares, k=count):
            if not self._left[task]:
                self._left[task] = list(self._train[task])
                self._random.shuffle(self._left[task])
            drawn.append(self._left[task].pop())
        return drawn


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> list[tuple[list[int], int]]:
    """Tokens of prompt, answer and end, and how many of them are the prompt's."""
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    answers = tokenizer([example.answer for example in examples], add_special_tokens=False)
    return [
        ([*prompt, *answer, tokenizer.eos_token_id], len(prompt))
        for prompt, answer in zip(prompts, answers["input_ids"], strict=True)
    ]


def gradients(
    model: LlamaForCausalLM, encoded: Sequence[tuple[list[int], int]]
) -> tuple[torch.Tensor, ...]:
    """Gradients, one per parameter, of the weighted cross entropy (nats) summed over a part.

    Padding stands on the right of a causal model, so no attention mask is needed.
    """
    longest = max(len(tokens) for tokens, _ in encoded)
    tokens_BT = torch.zeros(len(encoded), longest, dtype=torch.long)
    weight_BT = torch.zeros(len(encoded), longest)
    for row, (tokens, prompt) in enumerate(encoded):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        weight_BT[row, HEAD_TOKENS : prompt - 1] = WORD_WEIGHT
        weight_BT[row, prompt : len(tokens)] = 1
    logits_BTV = model(tokens_BT[:, :-1], use_cache=False).logits
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")
    loss = (nats * weight_BT[:, 1:].flatten()).sum()
    return torch.autograd.grad(loss, list(model.parameters()))


def halves(encoded: list[tuple[list[int], int]]) -> list[list[tuple[list[int], int]]]:
    """The shorter and the longer examples, cut where padding makes both about as costly."""
    ordered = sorted(encoded, key=lambda pair: len(pair[0]))
    longest = len(ordered[-1][0])
    cut = min(
        range(1, len(ordered)),
        key=lambda cut: abs(cut * len(ordered[cut - 1][0]) - (len(ordered) - cut) * longest),
        default=1,
    )
    return [part for part in (ordered[:cut], ordered[cut:]) if part]


def train_stage(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    train: Mapping[str, Sequence[Example]],
    stage: Stage,
    *,
    batch: int,
    seconds: float,
    on_step: Callable[[int, float], None],
) -> int:
    """Trains in place until the stage's steps or the time (s) are used up; returns steps done.

    `on_step` gets the number of steps done and the share of the stage that is over, in (0, 1].
    """
    examples = Examples(train, stage)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    started = time.monotonic()
    model.train()
    # Two halves in two threads meet once a step; torch's own threads would meet at every
    # operation, which on a busy machine is many times slower, and sum in another order.
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(1, stage.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * min(1.0, step / WARM_UP_STEPS)
            parts = halves(encode(tokenizer, examples.draw(batch)))
            sums = pool.map(lambda part: gradients(model, part), parts)
            for parameter, *found in zip(model.parameters(), *sums, strict=True):
                parameter.grad = sum(found[1:], start=found[0]) / batch
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            over = min(1.0, max(step / stage.steps, (time.monotonic() - started) / seconds))
            on_step(step, over)
            if over == 1:
                break
    model.eval()
    return step
