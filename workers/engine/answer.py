"""Running requests in lm-eval's terms through the live model.

Log-likelihoods come with the flag that lm-eval wants beside them: whether the continuation is what
greedy decoding would have said. How requests are put into batches never changes an answer beyond
floating-point noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.engine.compile import LikelihoodPlan, compile_requests
from workers.engine.generate import Tick, generation_batches, left_padded
from workers.engine.model import LiveModel
from workers.engine.requests import Encoded, Open
from workers.engine.score import log_likelihoods


@dataclass(frozen=True, kw_only=True)
class RequestPlan:
    """Encoded requests, and the forward passes that score their continuations."""

    encoded: Encoded
    likelihoods: LikelihoodPlan
    #: most tokens of a batch in which answers are generated
    generation_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens that are shown, and the most that may be generated."""
        opened = sum(len(prompt.ids) + prompt.how.most for prompt in self.encoded.prompts)
        return self.likelihoods.tokens + opened

    @property
    def keys(self) -> list[int]:
        """What the model may have kept something under."""
        return [scored.batch.key for scored in self.likelihoods.scored]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One answer a request: (log-likelihood, whether it is the greedy continuation), rolling
    log-likelihood, or text; and the tokens scored or generated for each, int32 [R]."""

    values: list[Any]
    tokens: np.ndarray


def plan_requests(
    encoded: Encoded, model: LiveModel, *, batch_tokens: int, generation_tokens: int | None = None
) -> RequestPlan:
    """Batch requests for a model that has been told to `begin`; token bounds as in
    `compile_suite`."""
    likelihoods = compile_requests(
        encoded.continuations,
        batch_tokens=batch_tokens,
        vocabulary=model.encoder.vocabulary,
        sharing=model.sharing,
    )
    return RequestPlan(
        encoded=encoded,
        likelihoods=likelihoods,
        generation_tokens=generation_tokens or batch_tokens,
    )


@torch.inference_mode()
def answer_requests(model: LiveModel, plan: RequestPlan, *, where: str, tick: Tick) -> Answers:
    """Run a plan; `tick` gets the tokens done so far. TrialRejected if a score is not finite."""
    encoded = plan.encoded
    values: list[Any] = [None] * len(encoded.kinds)
    tokens = np.zeros(len(values), dtype=np.int32)
    sums, greedy = score_continuations(model, plan.likelihoods, where=where, tick=tick)
    np.add.at(tokens, encoded.owners, plan.likelihoods.lengths)
    totals = np.zeros(len(values))
    np.add.at(totals, encoded.owners, sums)
    always = np.ones(len(values), dtype=bool)
    np.logical_and.at(always, encoded.owners, greedy)
    for number, kind in enumerate(encoded.kinds):
        if kind == "loglikelihood":
            values[number] = (float(totals[number]), bool(always[number]))
        elif kind == "loglikelihood_rolling":
            values[number] = float(totals[number])
    done = plan.likelihoods.tokens
    for batch in generation_batches(
        [(len(prompt.ids), prompt.how.most) for prompt in encoded.prompts],
        plan.generation_tokens,
        equal_lengths=not model.takes_positions,
    ):
        prompts = [encoded.prompts[number] for number in batch]
        found = _continued(model, prompts, tick, done)
        for prompt, (text, count) in zip(prompts, found, strict=True):
            values[prompt.request], tokens[prompt.request] = text, count
        done += sum(len(prompt.ids) + prompt.how.most for prompt in prompts)
    return Answers(values=values, tokens=tokens)


def score_continuations(
    model: LiveModel, plan: LikelihoodPlan, *, where: str, tick: Tick
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each of C continuations, float64 [C], and whether each of its tokens is the
    likeliest one, bool [C]."""
    missed = torch.zeros(len(plan.lengths), dtype=torch.int64)
    sums = log_likelihoods(model, plan, where, tick, missed)
    return sums, (missed == 0).numpy()


def _continued(
    model: LiveModel, prompts: Sequence[Open], tick: Tick, done: int
) -> list[tuple[str, int]]:
    """Greedy text after each prompt, cut before its first stop string, and its tokens."""
    inputs, mask = left_padded([prompt.ids for prompt in prompts])
    width = inputs.shape[1]
    tokenizer = model.encoder.tokenizer
    # lm-eval stops at the tokenizer's end token too, whatever the generation config says
    ends = {*model.end_tokens, tokenizer.eos_token_id}
    stopped = [False] * len(prompts)

    def enough(ids: Tensor, scores: Any = None, **_: object) -> Tensor:
        new = ids[:, width:]
        tick(done + new.shape[0] * new.shape[1])
        for row, prompt in enumerate(prompts):
            if not stopped[row]:
                tail = new[row, -prompt.how.looks_back :].tolist()
                text = tokenizer.decode(tail) if prompt.how.until else ""
                full = new.shape[1] >= prompt.how.most
                stopped[row] = full or tail[-1] in ends or prompt.how.stops(text)
        return torch.tensor(stopped, device=ids.device)

    out = model.generate(inputs, mask, max(prompt.how.most for prompt in prompts), enough)
    found = []
    for row, prompt in enumerate(prompts):
        ids = out[row, : prompt.how.most].tolist()
        end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        found.append((prompt.how.cut(text), min(end + 1, len(ids))))
    return found
