"""What forming a candidate costs, against a plain copy of as many bytes and against mergekit.

    python bench/forming.py [--peers PYTHON] [--out bench/results/forming.json]

Random bfloat16 checkpoints of 134.5M parameters are made in a temporary folder (4 GB of disk, 5 GB
of memory, under three minutes). Every figure is the best of several tries that alternate with what
it is compared with, because machines are noisy. `--peers` (or REMELT_PEERS_PYTHON) names a Python
in whose environment mergekit is installed; without it that row is left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pools import LARGE, make_pool
from rows import Rows

PARENTS, VALUES, CANDIDATES = 8, 134_515_008, 12
PEER = Path(__file__).parent / "peers/mergekit_linear.py"


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rival(tries: int, *works: Callable[[], Any]) -> list[float]:
    """The best time of each, tried in turn."""
    found = [[timed(work) for work in works] for _ in range(tries + 1)][1:]
    return [min(column) for column in zip(*found, strict=True)]


def parents(count: int, values: int) -> list[torch.Tensor]:
    """Different random bfloat16 tensors."""
    base = torch.randn(values, generator=torch.Generator().manual_seed(0))
    return [(base.roll(i) * (1 + i / 100)).to(torch.bfloat16) for i in range(count)]


def copier(count: int, values: int) -> Callable[[], Any]:
    """A copy that reads and writes as many bytes as forming one candidate does."""
    source = torch.ones((count + 1) * values, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def bench_one(rows: Rows) -> None:
    """One candidate against the copy, and by torch's own operations."""
    from optim import merge

    sources, out = parents(PARENTS, VALUES), torch.empty(VALUES, dtype=torch.bfloat16)
    weights, copy = [1 / PARENTS] * PARENTS, copier(PARENTS, VALUES)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        formed, copied = rival(7, lambda: merge.linear_(out, sources, weights), copy)
        name = f"one candidate, {PARENTS} x 134.5M bfloat16, {threads} thread(s)"
        rows.add(name, formed, "s")
        rows.add(f"{name}: copy of the same bytes", copied, "s")
        rows.add(f"{name}: over the copy", formed / copied, "×", at_most=1.25)
    torch.set_num_threads(1)
    compiled, merge.COMPILED_DTYPES = merge.COMPILED_DTYPES, frozenset()
    slow = timed(lambda: merge.linear_(out, sources, weights))
    merge.COMPILED_DTYPES = compiled
    rows.add("one candidate by torch's operations, 1 thread", slow, "s")


def bench_many(rows: Rows) -> None:
    """A generation at once against one after the other."""
    from optim.merge import linear_, linear_many_

    torch.set_num_threads(1)
    values = VALUES // 4
    sources = parents(PARENTS, values)
    outs = [torch.empty(values, dtype=torch.bfloat16) for _ in range(CANDIDATES)]
    weights = np.random.default_rng(0).dirichlet(np.ones(PARENTS), CANDIDATES).tolist()
    at_once, single = rival(
        3,
        lambda: linear_many_(outs, sources, weights),
        lambda: [linear_(out, sources, row) for out, row in zip(outs, weights, strict=True)],
    )
    name = f"{CANDIDATES} candidates at once, {PARENTS} x 33.6M, 1 thread"
    rows.add(name, at_once, "s")
    rows.add(f"{name}: one by one", single, "s")
    rows.add(f"{name}: faster by", single / at_once, "×", at_least=1.0)


def bench_pool(rows: Rows, pools: dict[str, list[Path]]) -> None:
    """A pool of files against one whose blocks are mostly frozen, on both tiers of a CPU."""
    from optim.recipe import Recipe
    from services.checkpoints import read_checkpoint
    from workers.engine.loading import load_pool

    torch.set_num_threads(1)
    weights = np.random.default_rng(1).dirichlet(np.ones(PARENTS), 8).tolist()
    formed = {}
    for kind, folders in pools.items():
        pairs = [(read_checkpoint(folder, check_values=False).digest, folder) for folder in folders]
        for tier in ("mapped", "host"):
            pool = load_pool(
                pairs, device=torch.device("cpu"), buffer_bytes_per_value=2, tier=tier,
                progress=lambda done, total: None,
            )  # fmt: skip
            out = torch.empty(pool.layout.size, dtype=torch.bfloat16)
            digests = tuple(pool.parents)
            recipes = [Recipe(parents=digests, weights=row, dtype="bfloat16") for row in weights]
            times = [timed(partial(pool.form_, out, recipe)) for recipe in recipes]
            formed[kind, tier] = min(times[1:])
            rows.add(f"Pool.form_, {kind}, {tier}, 1 thread", min(times[1:]), "s")
    for tier in ("mapped", "host"):
        all_blocks, few = (formed[kind, tier] for kind in pools)
        rows.add(f"frozen blocks skipped, {tier}: faster by", all_blocks / few, "×", at_least=5.0)


def merge_once(config: Path, out: Path, home: Path, threads: int) -> float:
    """Seconds of what `remelt merge` does, in this process."""
    from services.cast import cast
    from services.checkpoints import Remembered
    from services.merging import make_merge, read_merge
    from services.parents import place_finder
    from services.settings import Settings

    torch.set_num_threads(threads)
    started = time.perf_counter()
    made = make_merge(
        read_merge(config),
        place_finder(config, Settings(home=home)),
        remembered=Remembered(home / "hashes"),
        where=str(config),
    )
    cast(made.recipe, made.parents, out, read_back=False)
    return time.perf_counter() - started


def merge_alone(work: Path) -> None:
    """Merge four times in this fresh process; print seconds, and bytes that were added at most."""
    for module in ("optim.merge", "optim.kernel", "services.cast", "services.merging"):
        importlib.import_module(module)
    before, seconds, cpu = peak_bytes(), [], []
    for i in range(4):
        busy = time.process_time()
        seconds.append(merge_once(work / "merge.yaml", work / f"ours{i}", work / "home", 1))
        cpu.append(time.process_time() - busy)
        shutil.rmtree(work / f"ours{i}")
    print(json.dumps([seconds, cpu, peak_bytes() - before]))


def peak_bytes() -> int:
    """Most memory that this process has held, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def bench_merge(rows: Rows, folders: list[Path], work: Path, peers: str | None) -> None:
    """`remelt merge` in process, first and again, against mergekit in process; peak memory."""
    config = work / "merge.yaml"
    models = [{"model": str(f), "parameters": {"weight": i + 1}} for i, f in enumerate(folders)]
    text = yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "bfloat16"})
    config.write_text(text)
    time.sleep(2)  # hashes of files that were just written are not remembered
    ours, theirs = [], []
    for _ in range(3):
        ours.append(answer(sys.executable, __file__, "--merge", str(work)))
        if peers:
            theirs.append(answer(peers, str(PEER), str(config), str(work / "mergekit")))
    first, peak = ours[0][0][0], min(found[2] for found in ours) / 2**20
    best, busy = (min(min(found[i]) for found in ours) for i in range(2))
    name = f"remelt merge in process, {PARENTS} x 134.5M bfloat16, 1 thread + 2 that hash"
    rows.add(f"{name}: first time, parents hashed", first, "s")
    rows.add(f"{name}: again", best, "s")
    rows.add(f"{name}: again, CPU time", busy, "s")
    bound = (PARENTS + 2) * (folders[0] / "model.safetensors").stat().st_size / 2**20
    rows.add("its peak memory, mapped parents included", peak, "MiB", at_most=round(bound))
    if not peers:
        print("mergekit: not measured, give --peers PYTHON")
        return
    their_best = min(min(found["seconds"]) for found in theirs)
    their_busy = min(min(found["cpu_seconds"]) for found in theirs)
    rows.add("mergekit, linear, in process, same files, 1 thread", their_best, "s")
    rows.add("mergekit, linear, CPU time", their_busy, "s")
    rows.add("remelt merge: faster than mergekit by", their_best / best, "×", at_least=3.0)
    rows.add("remelt merge: less CPU time than mergekit by", their_busy / busy, "×")


def answer(*command: str) -> Any:
    """What a program prints as JSON on its last line."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def curves() -> dict[str, list[dict[str, float]]]:
    """Seconds of one candidate against parents and against parameters, with those of a copy."""
    from optim.merge import linear_

    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {"parents": [], "parameters": []}
    cases = [("parents", count, 2**20) for count in (2, 4, 8, 16, 32, 64, 128, 200)]
    cases += [("parameters", 8, values) for values in (10**6, 10**7, 10**8)]
    for kind, count, values in cases:
        sources, out = parents(count, values), torch.empty(values, dtype=torch.bfloat16)
        weights, copy = [1 / count] * count, copier(count, values)
        formed, copied = rival(7, partial(linear_, out, sources, weights), copy)
        x = count if kind == "parents" else values
        found[kind].append({"x": x, "seconds": formed, "copy_seconds": copied})
        print(f"{count:3} parents {values:12,} parameters {formed:10.6f} s, copy {copied:10.6f} s")
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", default=os.environ.get("REMELT_PEERS_PYTHON"))
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.merge:
        merge_alone(options.merge)
        return
    rows = Rows("forming")
    bench_one(rows)
    bench_many(rows)
    with tempfile.TemporaryDirectory(prefix="remelt-forming-") as folder:
        work = Path(folder)
        moving = make_pool(work / "moving", LARGE, PARENTS, dtype="bfloat16", moved_blocks=None)
        bench_merge(rows, moving, work, options.peers)
        frozen = make_pool(work / "frozen", LARGE, PARENTS, dtype="bfloat16", moved_blocks=3)
        bench_pool(rows, {"all blocks": moving, "all but three blocks frozen": frozen})
    rows.curves = curves()
    rows.write(options.out)


if __name__ == "__main__":
    main()
