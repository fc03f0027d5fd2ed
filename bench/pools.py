"""Pools and suites to measure with where no real ones are given: random weights, real shapes.

Speed does not depend on what weights say. `large` has the shape of SmolLM2-135M with all but the
last three blocks frozen, `small` that of stories260K; the suites have their forms and sizes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

LARGE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}  # fmt: skip
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dogs",
    "ran",
    "over",
    "hills",
    "when",
    "rain",
    "fell",
    "in",
    "spring",
    "at",
    "dawn",
]


def make_pool(
    root: Path,
    shape: dict[str, Any],
    parents: int,
    *,
    dtype: str,
    moved_blocks: int | None,
    device: str = "cpu",
) -> list[Path]:
    """`parents` checkpoints that differ in the last `moved_blocks` blocks and the norm behind them
    (None: in everything)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**shape, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    first = shape["num_hidden_layers"] - (moved_blocks or 0)
    moving = [
        p
        for name, p in model.named_parameters()
        if moved_blocks is None
        or name == "model.norm.weight"
        or (".layers." in name and int(name.split(".")[2]) >= first)
    ]
    tokenizer = make_tokenizer(shape["vocab_size"])
    folders = []
    for number in range(parents):
        for parameter in moving if number else ():
            parameter.data.add_(torch.randn_like(parameter) * 0.01)
        folder = root / f"model-{number}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    return folders


def make_tokenizer(size: int) -> Any:
    """Byte-level BPE; most of a large vocabulary stays unused, which costs the same."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, 512),
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_suites(
    root: Path, items: int, *, few_shot: int = 160, heads: int = 4, shots: int = 5
) -> dict[str, Path]:
    """Files by name: choice, exact and text of `items` items, and `few_shot` items behind `heads`
    different heads."""
    rng = random.Random(0)

    def words(n: int) -> str:
        return " ".join(rng.choices(WORDS, k=n))

    def question() -> str:
        return f"Question: {words(12)} ?\n" + "".join(f"{c}. {words(6)}\n" for c in "ABCD")

    topics = ["".join(f"{question()}Answer: A\n\n" for _ in range(shots)) for _ in range(heads)]
    suites: dict[str, list[dict[str, Any]]] = {
        "choice": [],
        "exact": [],
        "text": [],
        "few_shot": [],
    }
    for number in range(items):
        name = str(number)
        choices = [f" {word}" for word in rng.sample(WORDS, 4)]
        suites["choice"].append(
            {"id": name, "context": f"Review: {words(14)} .", "choices": choices, "gold": 0}
        )
        suites["exact"].append(
            {"id": name, "prompt": f"Verb: {words(2)} =", "target": f" {words(1)}"}
        )
        suites["text"].append({"id": name, "text": words(90)})
    for number in range(few_shot):
        context = topics[number * heads // few_shot] + question() + "Answer:"
        suites["few_shot"].append(
            {"id": str(number), "context": context, "choices": [f" {c}" for c in "ABCD"], "gold": 0}
        )
    files = {}
    for name, many in suites.items():
        files[name] = root / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(item) + "\n" for item in many))
    return files
