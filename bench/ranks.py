"""Two ranks against one on a Llama-shaped model of 134.5M random parameters (SmolLM2's shape).

    python bench/ranks.py [--out bench/results/ranks.json] [--layers 30] [--device cpu]

One engine after the other forms and scores the same candidates of the same pool: one rank, tensor
parallelism, ZeRO-3, ZeRO-3 with everything at home in host memory. Predictions and weights digests
must be those of one rank; seconds and memory are what it costs. Each rank has one thread.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows

from optim.recipe import Recipe
from services.settings import Settings
from services.suites import Item, Suite
from workers.engine.client import Engine, SuiteResult

LETTERS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz =."]
PARENTS = 3
#: candidates scored by each engine; the quickest counts
WEIGHTS = ((0.5, 0.3, 0.2), (0.9, 0.4, -0.3))
LAYOUTS = (("one rank", 1, "auto"), ("tensor", 2, "tensor"), ("zero3", 2, "zero3"),
           ("zero3-offload", 2, "zero3-offload"))  # fmt: skip


def main() -> None:
    """Measure, print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="instead of bench/results/ranks.json")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="remelt-bench-"))
    rows = Rows("ranks", device="CPU only" if options.device == "cpu" else "CUDA")
    try:
        measure(rows, home, options.layers, options.device)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    rows.write(options.out)


def measure(rows: Rows, home: Path, layers: int, device: str) -> None:
    """All rows, in the order of `LAYOUTS`."""
    members, suites = write_pool(home, layers), make_suites()
    alone: dict[str, Any] = {}
    for name, ranks, parallel in LAYOUTS:
        one = run(home / name, members, suites, ranks, parallel, device)
        rows.add(f"{name}, an evaluation", one["seconds"], "s")
        rows.add(f"{name}, of which forming", one["form"], "s")
        rows.add(f"{name}, of which waiting for the digest", one["digest_seconds"], "s")
        rows.add(f"{name}, start and load", one["load"], "s")
        rows.add(f"{name}, most memory of a rank", one["memory"] / 2**20, "MiB")
        if ranks == 1:
            alone = one
            continue
        rows.add(f"{name}, time over one rank", one["seconds"] / alone["seconds"], "×")
        rows.add(f"{name}, memory over one rank", one["memory"] / alone["memory"], "×")
        same = one["digests"] == alone["digests"]
        rows.add(f"{name}, same digests as one rank", float(same), "(1: yes)", at_least=1)
        pairs = zip(one["answers"], alone["answers"], strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        rows.add(f"{name}, same answers as one rank", float(same), "(1: yes)", at_least=1)
        pairs = zip(one["margins"], alone["margins"], strict=True)
        apart = max(float(np.abs(a - b).max()) for a, b in pairs)
        rows.add(f"{name}, margins off one rank", apart, "nats", at_most=1e-3)


def run(
    home: Path,
    members: list[tuple[str, Path]],
    suites: list[Suite],
    ranks: int,
    parallel: str,
    device: str,
) -> dict[str, Any]:
    """What one engine found, and what it took."""
    home.mkdir()
    settings = Settings(
        home=home, engine_device=device, engine_ranks=ranks, engine_parallel=parallel,
        engine_threads=1, pool_tier="host",
    )  # type: ignore[arg-type]  # fmt: skip
    out: dict[str, Any] = {"digests": [], "answers": [], "margins": [], "memory": 0}
    costs = []

    def look(_: object) -> bool:
        """Called a few times a second."""
        if engine.pid is not None:
            group = [engine.pid, *children(engine.pid)]
            out["memory"] = max(out["memory"], *map(own_memory, group))
        return True

    with Engine(settings, log_dir=home) as engine:
        started = time.monotonic()
        engine.load(members, "bfloat16", look)
        out["load"] = time.monotonic() - started
        for weights in WEIGHTS:
            recipe = Recipe(
                parents=tuple(digest for digest, _ in members), weights=weights, dtype="bfloat16"
            )
            results: list[SuiteResult] = []
            done = engine.evaluate(recipe, suites, None, on_suite=results.append, on_tick=look)
            out["digests"].append(done.weights_digest)
            out["answers"] += [result.predictions.answer for result in results]
            out["margins"] += [r.margins for r in results if r.margins is not None]
            costs.append((done.seconds, done.phases))
    out["seconds"], phases = min(costs, key=lambda cost: cost[0])
    out["form"], out["digest_seconds"] = phases["form"], phases["digest"]
    return out


def write_pool(home: Path, layers: int) -> list[tuple[str, Path]]:
    """Random checkpoints, and a tokenizer of single letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from services.checkpoints import read_checkpoint

    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(LETTERS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=256,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.05,
    )  # fmt: skip
    members = []
    for seed in range(PARENTS):
        torch.manual_seed(seed)
        folder = home / f"parent-{seed}"
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        wrapped.save_pretrained(folder)
        members.append((read_checkpoint(folder).digest, folder))
    return members


def make_suites() -> list[Suite]:
    """Some hundred tokens of each kind of work: scored options, and generated answers."""
    rng = np.random.default_rng(1)

    def text(length: int) -> str:
        return "".join(rng.choice(list("abcdefgh "), length))

    choice = [
        Item(id=str(i), context=text(24), choices=(" a", " b", " c", " d"), gold=i % 4)
        for i in range(16)
    ]
    exact = [Item(id=str(i), prompt=text(16), target=" ab") for i in range(4)]
    return [
        Suite(name="choice", form="choice", items=tuple(choice)),
        Suite(name="exact", form="exact", items=tuple(exact)),
    ]


def own_memory(pid: int) -> int:
    """Resident bytes that a process shares with nobody: the pages of checkpoint files are not
    counted, which stay in the page cache once for all."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return 0


def children(pid: int) -> list[int]:
    """Processes started by another."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    main()
