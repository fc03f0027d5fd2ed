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
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from random_pool import freeze, write_checkpoints

PARENTS, VALUES, CANDIDATES = 8, 134_515_008, 12
MERGEKIT = """
import json, shutil, sys, time, torch, yaml
torch.set_num_threads(1)
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
config = MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[1])))
seconds, cpu = [], []
for i in range(4):
    started, busy = time.perf_counter(), time.process_time()
    options = MergeOptions(write_model_card=False, quiet=True, copy_tokenizer=True)
    run_merge(config, f"{sys.argv[2]}{i}", options)
    seconds.append(time.perf_counter() - started)
    cpu.append(time.process_time() - busy)
    shutil.rmtree(f"{sys.argv[2]}{i}")
print(json.dumps([seconds, cpu]))
"""


class Report:
    """Rows as they are measured."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.machine = machine()

    def add(
        self, name: str, value: float, unit: str, goal: str = "", met: bool | None = None
    ) -> None:
        """Print a row and keep it."""
        row = {
            "name": name, "value": round(value, 4), "unit": unit, "goal": goal, "met": met,
            "machine": self.machine, "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }  # fmt: skip
        self.rows.append(row)
        sign = {True: "met", False: "MISSED", None: ""}[met]
        print(f"{name:66} {value:10.4f} {unit:6} {goal:24} {sign}", flush=True)


def machine() -> str:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    return f"{cpu}, {len(os.sched_getaffinity(0))} CPUs, torch {torch.__version__}"


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


def bench_one(report: Report) -> None:
    """One candidate against the copy, and by torch's own operations."""
    from optim import merge

    sources, out = parents(PARENTS, VALUES), torch.empty(VALUES, dtype=torch.bfloat16)
    weights, copy = [1 / PARENTS] * PARENTS, copier(PARENTS, VALUES)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        formed, copied = rival(7, lambda: merge.linear_(out, sources, weights), copy)
        name = f"one candidate, {PARENTS} x 134.5M bfloat16, {threads} thread(s)"
        report.add(name, formed, "s")
        report.add(f"{name}: copy of the same bytes", copied, "s")
        report.add(
            f"{name}: over the copy", formed / copied, "x", "<= 1.25", formed <= 1.25 * copied
        )
    torch.set_num_threads(1)
    compiled, merge.COMPILED_DTYPES = merge.COMPILED_DTYPES, frozenset()
    slow = timed(lambda: merge.linear_(out, sources, weights))
    merge.COMPILED_DTYPES = compiled
    report.add("one candidate by torch's operations, 1 thread", slow, "s")


def bench_many(report: Report) -> None:
    """A generation at once against one after the other."""
    from optim.merge import linear_, linear_many_

    torch.set_num_threads(1)
    values = VALUES // 4
    sources = parents(PARENTS, values)
    outs = [torch.empty(values, dtype=torch.bfloat16) for _ in range(CANDIDATES)]
    rows = np.random.default_rng(0).dirichlet(np.ones(PARENTS), CANDIDATES).tolist()
    at_once, single = rival(
        3,
        lambda: linear_many_(outs, sources, rows),
        lambda: [linear_(out, sources, row) for out, row in zip(outs, rows, strict=True)],
    )
    name = f"{CANDIDATES} candidates at once, {PARENTS} x 33.6M, 1 thread"
    report.add(name, at_once, "s")
    report.add(f"{name}: one by one", single, "s")
    report.add(f"{name}: faster by", single / at_once, "x", "> 1", at_once < single)


def bench_pool(report: Report, folders: list[Path]) -> None:
    """A pool of files against the kernel's own time; then one whose layers are mostly frozen."""
    from optim.recipe import Recipe
    from services.checkpoints import read_checkpoint
    from workers.engine.resident import load_pool

    torch.set_num_threads(1)
    rows = np.random.default_rng(1).dirichlet(np.ones(PARENTS), 8).tolist()
    formed = {}
    for kind in ("all layers", "all but three layers frozen"):
        if kind != "all layers":
            freeze(folders)
        pairs = [(read_checkpoint(folder, check_values=False).digest, folder) for folder in folders]
        for tier in ("mapped", "host"):
            pool = load_pool(
                pairs, device=torch.device("cpu"), buffer_bytes_per_value=2, tier=tier,
                progress=lambda done, total: None,
            )  # fmt: skip
            out = torch.empty(pool.layout.size, dtype=torch.bfloat16)
            digests = tuple(pool.parents)
            recipes = [Recipe(parents=digests, weights=row, dtype="bfloat16") for row in rows]
            times = [timed(partial(pool.form_, out, recipe)) for recipe in recipes]
            formed[kind, tier] = min(times[1:])
            report.add(f"Pool.form_, {kind}, {tier}, 1 thread", min(times[1:]), "s")
    for tier in ("mapped", "host"):
        gain = formed["all layers", tier] / formed["all but three layers frozen", tier]
        report.add(f"frozen layers skipped, {tier}: faster by", gain, "x", ">= 5", gain >= 5)


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


def bench_merge(report: Report, folders: list[Path], work: Path, peers: str | None) -> None:
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
            theirs.append(answer(peers, "-c", MERGEKIT, str(config), str(work / "mergekit")))
    first, peak = ours[0][0][0], min(found[2] for found in ours) / 2**20
    best, busy = (min(min(found[i]) for found in ours) for i in range(2))
    name = f"remelt merge in process, {PARENTS} x 134.5M bfloat16, 1 thread + 2 that hash"
    report.add(f"{name}: first time, parents hashed", first, "s")
    report.add(f"{name}: again", best, "s")
    report.add(f"{name}: again, CPU time", busy, "s")
    bound = (PARENTS + 2) * (folders[0] / "model.safetensors").stat().st_size / 2**20
    goal = f"<= {bound:.0f}"
    report.add("its peak memory, mapped parents included", peak, "MiB", goal, peak <= bound)
    if not peers:
        print("mergekit: not measured, give --peers PYTHON")
        return
    their_best, their_busy = (min(min(found[i]) for found in theirs) for i in range(2))
    report.add("mergekit, linear, in process, same files, 1 thread", their_best, "s")
    report.add("mergekit, linear, CPU time", their_busy, "s")
    gain = their_best / best
    report.add("remelt merge: faster than mergekit by", gain, "x", ">= 3", gain >= 3)
    report.add("remelt merge: less CPU time than mergekit by", their_busy / busy, "x")


def answer(*command: str) -> Any:
    """What a program prints as JSON on its last line."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def curves() -> dict[str, list[dict[str, float]]]:
    """Seconds of one candidate against parents and against parameters, with those of a copy."""
    from optim.merge import linear_

    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {"parents": [], "parameters": []}
    cases = [("parents", count, 2**20) for count in (2, 4, 8, 12, 16, 24, 32, 48, 64)]
    cases += [("parameters", 8, values) for values in (10**5, 10**6, 10**7, 10**8)]
    for kind, count, values in cases:
        sources, out = parents(count, values), torch.empty(values, dtype=torch.bfloat16)
        weights, copy = [1 / count] * count, copier(count, values)
        formed, copied = rival(7, partial(linear_, out, sources, weights), copy)
        found[kind].append(
            {"parents": count, "parameters": values, "seconds": formed, "copy_seconds": copied}
        )
        print(f"{count:3} parents {values:12,} parameters {formed:10.6f} s, copy {copied:10.6f} s")
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", default=os.environ.get("REMELT_PEERS_PYTHON"))
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/forming.json"))
    options = parser.parse_args()
    if options.merge:
        merge_alone(options.merge)
        return
    report = Report()
    bench_one(report)
    bench_many(report)
    with tempfile.TemporaryDirectory(prefix="remelt-forming-") as folder:
        work = Path(folder)
        folders = write_checkpoints(work, PARENTS)
        bench_merge(report, folders, work, options.peers)
        bench_pool(report, folders)
    data = {"rows": report.rows, "curves": curves()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"written to {options.out}; this process took {peak_bytes() / 2**30:.1f} GiB at most")


if __name__ == "__main__":
    main()
