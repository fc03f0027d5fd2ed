"""One GPU: forming against a copy on the device, evaluating against bare forward passes, and
candidates a minute against merging to disk and loading; and that a GPU finds what a CPU finds.

    python bench/gpu.py [--real POOL SUITES] [--parents 8] [--only forming,loop,tiers,offload,real]

Makes random bfloat16 checkpoints of Llama-3.2-1B's shape (1.24B parameters, 2.5 GB each) in a
temporary folder. `--real` is a small pool with its suites, evaluated on GPU and CPU.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_layers import compiled_layers, less_rounding
from pools import make_pool, make_suites
from rows import Rows
from safetensors.torch import load_file, save_file

from optim.merge import linear_
from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import Suite, parse_suite
from workers.engine.candidate import Candidate
from workers.engine.client import Engine, SuiteResult
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.group import Group
from workers.engine.lower import Activations
from workers.engine.model import LiveModel
from workers.engine.process import Compute
from workers.engine.score import score_suite

#: Llama-3.2-1B's
SHAPE: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
VALUES, CANDIDATES, ITEMS = 1_000_000_000, 4, 2000
Pair = tuple[str, Path]


def main() -> None:
    """Measure, print, write; what fails is shown, and the rest is measured still."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--real", type=Path, nargs=2, metavar=("POOL", "SUITES"))
    parser.add_argument("--parents", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch")
    parser.add_argument("--only", default="real,forming,loop,tiers,offload")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",")
    rows = Rows("gpu", device=torch.cuda.get_device_name(0))
    with tempfile.TemporaryDirectory(prefix="remelt-gpu-") as root:
        home = Path(root)
        parts: dict[str, Callable[[], Any]] = {
            "forming": lambda: [
                forming(rows, options.parents, dtype) for dtype in (torch.bfloat16, torch.float32)
            ]
        }
        if options.real:
            parts["real"] = lambda: real(rows, home, *options.real)
        if {"loop", "tiers", "offload"} & set(wanted):
            started = time.perf_counter()
            folders = make_pool(
                home / "pool", SHAPE, options.parents, dtype="bfloat16", moved_blocks=None,
                device="cuda",
            )  # fmt: skip
            free()
            pairs = [(read_checkpoint(f, check_values=False).digest, f) for f in folders]
            print(f"pool made and hashed in {time.perf_counter() - started:.0f} s", flush=True)
            parts["loop"] = lambda: loop(rows, home, pairs, options.tokens)
            parts["tiers"] = lambda: tiers(rows, home, pairs[:4])
            parts["offload"] = lambda: offload(rows, home, pairs)
        for name in wanted:
            try:
                if name in parts:
                    parts[name]()
            except Exception:
                traceback.print_exc()
                for log in home.glob("engine-*.log"):
                    print(log.read_text()[-3000:])
            free()
            rows.write(options.out)


def forming(rows: Rows, parents: int, dtype: torch.dtype) -> None:
    """One candidate on the device against a copy of as many bytes, and what it needs besides."""
    values = VALUES if dtype == torch.bfloat16 else VALUES // 4
    sources = [torch.randn(values, device="cuda").to(dtype) for _ in range(parents)]
    out = torch.full((values,), float("nan"), device="cuda", dtype=dtype)
    size = (parents + 1) * values * dtype.itemsize // 2
    block = torch.randint(0, 255, (size,), device="cuda", dtype=torch.uint8)
    copy = partial(torch.empty_like(block).copy_, block)
    form = partial(linear_, out, sources, [1 / parents] * parents)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    form()
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    formed, copied = device_seconds(form), device_seconds(copy)
    name = f"one candidate, {parents} x {values / 1e9:g}B {str(dtype).split('.')[1]}"
    rows.add(name, formed, "s")
    rows.add(f"{name}: copy of the same bytes", copied, "s")
    rows.add(f"{name}: over the copy", formed / copied, "×", at_most=1.25)
    rows.add(f"{name}: memory besides", extra, "MiB", at_most=64)
    few = [tensor[-1_000_003:].cpu() for tensor in sources]
    here = torch.empty_like(few[0])
    linear_(here, few, [1 / parents] * parents)
    same = float((here == out[-1_000_003:].cpu()).float().mean())
    rows.add(f"{name}: values as on a CPU", same, "share", at_least=1.0)


def loop(rows: Rows, home: Path, pairs: list[Pair], tokens: int) -> None:
    """Candidates formed and evaluated in the engine, against bare forward passes and the disk."""
    files = make_suites(home, ITEMS)
    suites = [parse_suite(name, file.read_text(), where=name) for name, file in files.items()]
    with engine(home, batch_tokens=tokens) as started:
        begun = time.perf_counter()
        started.load(pairs, "bfloat16")
        rows.add("loading the pool", time.perf_counter() - begun, "s")
        print(started.about["pool"], flush=True)
        found = [candidate(started, r, suites) for r in recipes(pairs, CANDIDATES)]
    best = min(found[1:], key=lambda one: one["wall"])
    for phase, name in PHASES.items():
        rows.add(f"a candidate: {name}", best[phase], "s")
    for suite in suites:
        rows.add(f"{suite.name}, {len(suite)} items", len(suite) / best[suite.name], "items/s")
    model = live_model(pairs[:2])
    scored = [suite for suite in suites if suite.form != "exact"]
    bare, whole = bare_passes(model, scored, tokens)
    rows.add("suites of log-likelihoods, their forward passes alone", bare, "s")
    rows.add("suites of log-likelihoods, scored", whole, "s")
    rows.add("scoring over its forward passes", whole / bare, "×", at_most=1.1)
    eager = compiled_layers(rows, model, suites, tokens)
    disk = by_disk([path for _, path in pairs], home / "merged")
    rows.add("merging to disk and loading", disk, "s")
    mine = best["wall"] - best["score"]
    rows.add("forming and all else that is not scoring", mine, "s")
    rows.add("candidates a minute over the disk", (disk + best["score"]) / best["wall"], "×")
    less_rounding(rows, model, suites, tokens, eager)


PHASES = {
    "wall": "all of it", "form": "forming", "score": "scoring", "digest": "waiting for the digest",
}  # fmt: skip


def live_model(pairs: list[Pair]) -> LiveModel:
    """The live model of one candidate, in this process."""
    nothing = Candidate(
        Group(0, 1), device=torch.device("cuda", 0), compute="auto", parallel="auto", meeting=None,
        tier=None, activations=Activations(0), plain=False, tell=lambda *_, **__: None,
        forget=lambda: None,
    )  # fmt: skip
    nothing.load(pairs, "bfloat16")
    recipe = recipes(pairs, 1)[0]
    model = nothing.become(recipe)
    nothing.begin(recipe)
    print(f"prefixes shared up to {model.sharing}", flush=True)
    return model


def bare_passes(model: LiveModel, suites: list[Suite], tokens: int) -> tuple[float, float]:
    """Seconds of the live model's forward passes of the plans' batches, and of scoring them."""
    found = np.zeros(2)
    for suite in suites:
        plan = compile_suite(
            suite, suite.items, model.encoder, batch_tokens=tokens, generation_tokens=tokens,
            sharing=model.sharing,
        )  # fmt: skip
        assert isinstance(plan, LikelihoodPlan)

        @torch.inference_mode()
        def passes(plan: LikelihoodPlan = plan) -> None:
            for scored in plan.scored:
                model.logits(scored.batch)
            torch.cuda.synchronize()

        def score(suite: Suite = suite, plan: LikelihoodPlan = plan) -> None:
            score_suite(model, suite, suite.items, plan, lambda done: None)
            torch.cuda.synchronize()

        found += [min(wall_seconds(work) for _ in range(3)) for work in (passes, score)]
    return float(found[0]), float(found[1])


def by_disk(folders: list[Path], out: Path) -> float:
    """Seconds of a merge saved and loaded again, everything imported and on the GPU before."""
    from transformers import AutoModelForCausalLM

    def work() -> None:
        merge_to_disk(folders, out)
        AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).to("cuda")
        torch.cuda.synchronize()
        shutil.rmtree(out)

    return min(wall_seconds(work) for _ in range(2))


def wall_seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def merge_to_disk(folders: list[Path], out: Path) -> None:
    """A linear merge as it is done by hand: load, add up on the GPU, save."""
    shutil.copytree(folders[0], out, ignore=shutil.ignore_patterns("*.safetensors"))
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        for name, tensor in load_file(folder / "model.safetensors", device="cuda").items():
            part = tensor.float() / len(folders)
            total[name] = total[name].add_(part) if name in total else part
    save_file(
        {name: tensor.to(torch.bfloat16).cpu().contiguous() for name, tensor in total.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )


def tiers(rows: Rows, home: Path, pairs: list[Pair]) -> None:
    """Forming from pinned host memory and from mapped files, against a copy from pinned memory."""
    size = sum((path / "model.safetensors").stat().st_size for _, path in pairs)
    part = torch.empty(2**30, dtype=torch.uint8, pin_memory=True)
    copy = partial(torch.empty_like(part, device="cuda").copy_, part, non_blocking=True)
    copied = device_seconds(copy) * size / 2**30
    del part, copy
    rows.add("copy of the pool from pinned memory", copied, "s")
    suite = parse_suite("choice", make_suites(home, 8)["choice"].read_text(), where="choice")
    for tier, goal in (("host", 1.25), ("mapped", None)):
        with engine(home, pool_tier=tier) as started:
            started.load(pairs, "bfloat16")
            found = [candidate(started, r, [suite])["form"] for r in recipes(pairs, CANDIDATES)]
            seconds = min(found[1:])
            rows.add(f"forming, tier {tier}", seconds, "s")
            rows.add(f"forming, tier {tier}: over the copy", seconds / copied, "×", at_most=goal)


def offload(rows: Rows, home: Path, pairs: list[Pair]) -> None:
    """A candidate whose model passes through the GPU layer by layer."""
    suite = parse_suite("choice", make_suites(home, 200)["choice"].read_text(), where="choice")
    found: dict[str, list[SuiteResult]] = {}
    for parallel in ("auto", "zero3-offload"):
        with engine(home, engine_parallel=parallel) as started:
            started.load(pairs[:2], "bfloat16")
            several = [
                candidate(started, r, [suite], found, parallel) for r in recipes(pairs[:2], 3)
            ]
            best = min(several[1:], key=lambda one: one["wall"])
            rows.add(f"{parallel}, a candidate", best["wall"], "s")
            rows.add(f"{parallel}, forming", best["form"], "s")
            rows.add(f"{parallel}, memory of the GPU", best["peak"] / 2**30, "GiB")
    both = [[r.predictions.answer for r in found[name]] for name in found]
    same = float(np.mean([a == b for a, b in zip(*both, strict=True)]))
    rows.add("zero3-offload, answers as of one GPU", same, "share")


def real(rows: Rows, home: Path, pool: Path, suites: Path) -> None:
    """The same candidates of a small real pool on GPU and CPU, in float32."""
    folders = sorted(path.parent for path in pool.glob("*/config.json"))
    pairs = [(read_checkpoint(f, check_values=False).digest, f) for f in folders]
    dtype = read_checkpoint(folders[0], check_values=False).dtype
    asked = [parse_suite(f.stem, f.read_text(), where=f.stem) for f in suites.glob("*.jsonl")]
    found: dict[str, list[SuiteResult]] = {}
    digests: dict[str, list[str]] = {}
    for device in ("cpu", "cuda"):
        with engine(home, engine_device=device, compute="float32") as started:
            started.load(pairs, dtype)
            wall = []
            for recipe in recipes(pairs, 3, dtype):
                one = candidate(started, recipe, asked, found, device)
                digests.setdefault(device, []).append(one["weights_digest"])
                wall.append(one["wall"])
            rows.add(f"small pool, {device}, a candidate", min(wall), "s")
    rows.add(
        "small pool, digests as on a CPU",
        float(np.mean([a == b for a, b in zip(*digests.values(), strict=True)])),
        "share",
        at_least=1.0,
    )
    pairs_of = list(zip(found["cpu"], found["cuda"], strict=True))
    answers = [(a.predictions.answer, b.predictions.answer) for a, b in pairs_of]
    equal = np.concatenate([a == b for a, b in answers if a is not None and b is not None])
    rows.add("small pool, answers as on a CPU", float(equal.mean()), "share", at_least=0.999)
    margins = [(a.predictions.margin, b.predictions.margin) for a, b in pairs_of]
    apart = [np.abs(a.astype(float) - b).max() for a, b in margins if a is not None]
    rows.add("small pool, largest difference of margins", max(apart), "nats", at_most=1e-2)


def candidate(
    started: Engine,
    recipe: Recipe,
    suites: list[Suite],
    into: dict[str, list[SuiteResult]] | None = None,
    name: str = "",
) -> dict[str, Any]:
    """Evaluate one; its wall seconds, phases, seconds of each suite, digest, peak memory."""
    several: list[SuiteResult] = []
    begun = time.perf_counter()
    done = started.evaluate(recipe, suites, None, on_suite=several.append)
    wall = time.perf_counter() - begun
    if into is not None:
        into.setdefault(name, []).extend(several)
    return {
        **done.phases,
        "wall": wall,
        "peak": done.peak_memory_bytes,
        "weights_digest": done.weights_digest,
        **{one.suite: one.seconds for one in several},
    }


def recipes(pairs: list[Pair], count: int, dtype: str = "bfloat16") -> list[Recipe]:
    """Different random weights that sum to 1."""
    rows = np.random.default_rng(0).dirichlet(np.ones(len(pairs)), count)
    digests = tuple(digest for digest, _ in pairs)
    return [Recipe(parents=digests, weights=tuple(row / row.sum()), dtype=dtype) for row in rows]


@contextmanager
def engine(home: Path, *, compute: Compute = "auto", **more: Any) -> Iterator[Engine]:
    """An engine of one rank on the GPU unless `more` says otherwise."""
    settings = Settings(**{"home": home, "engine_device": "cuda", "engine_threads": 4, **more})
    with Engine(settings, log_dir=home, compute=compute) as started:
        yield started


def device_seconds(work: Callable[[], Any], tries: int = 10) -> float:
    """The median by the device's own clock, after three to warm up."""
    found = []
    for number in range(tries + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= 3:
            found.append(begin.elapsed_time(end) / 1000)
    return float(np.median(found))


def free() -> None:
    """Give unused memory of the device back: the engine is another process."""
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
