"""Racing: how soon a bad candidate is stopped, how often a good one is, and what the order costs.

    python bench/racing.py [--pool POOL --suites SUITES] [--out bench/results/racing.json]

Items until a candidate of 500 items that is 40, 20 or 10 points behind is stopped, items by
themselves and in blocks of 8 and 16 (the engine's batches); the share of candidates exactly as far
behind as is allowed that are stopped; CPU seconds of scoring suites in blocks in a drawn order
against suite after suite, on one thread. Without a pool, a random one of stories260K's shape.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from pools import SMALL, make_pool, make_suites
from rows import Rows

from optim.racing import Bets
from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import parse_suite
from workers.engine.client import Engine

ALPHA, ITEMS, RUNS = 0.05, 500, 2000
SIZES = (1, 8, 16)
#: share of items on which two models differ beyond the deficit itself
DISCORDANCE = 0.2
CANDIDATES = 8


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--suites", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("racing")
    for size in SIZES:
        for points in (40, 20, 10):
            died, items = power(points, size)
            name = f"{points} points behind, blocks of {size}"
            rows.add(f"{name}, median items until stopped", items, f"of {ITEMS}")
            rows.add(f"{name}, stopped before the end", died, "share")
        worst = max(wrong(discordance, size) for discordance in (0.05, 0.2, 0.6))
        bound = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
        rows.add(f"false stops at worst, blocks of {size}", worst, "share", at_most=bound)
    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        whole, drawn, blocks = order(Path(root), options.pool, options.suites)
    rows.add("a candidate, suite after suite", whole, "CPU s")
    rows.add("a candidate, in drawn order", drawn, "CPU s")
    rows.add("blocks of all suites", blocks, "blocks")
    rows.add("what the drawn order costs", drawn / whole - 1, "share", at_most=0.05)
    rows.write(options.out)


def clusters(deficit: float, discordance: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Totals and floors [C]: so far behind an incumbent that is right on 70 % of the items."""
    rng = np.random.default_rng(1)
    behind = round(ITEMS * (discordance + deficit) / 2 + ITEMS * deficit / 2)
    ahead = behind - round(ITEMS * deficit)
    right = round(0.7 * ITEMS)
    x = np.zeros(ITEMS)
    x[:behind], x[right : right + ahead] = 1, -1
    floors = np.where(np.arange(ITEMS) < right, 0.0, -1.0)
    at, starts = rng.permutation(ITEMS), np.arange(0, ITEMS, size)
    return np.add.reduceat(x[at], starts), np.add.reduceat(floors[at], starts)


def race(totals: np.ndarray, floors: np.ndarray, limit: float) -> np.ndarray:
    """The block with which each of RUNS orders is stopped; the number of blocks for never."""
    rng = np.random.default_rng(2)
    orders = np.array([rng.permutation(len(totals)) for _ in range(RUNS)])
    bets = Bets(np.full(RUNS, limit), floors[orders])
    died = np.full(RUNS, len(totals))
    for block in range(len(totals) - 1):
        bets.feed(totals[orders][:, block : block + 1])
        reached = bets.log_wealth >= math.log(1 / ALPHA)
        died[reached & (died == len(totals))] = block + 1
    return died


def power(points: int, size: int) -> tuple[float, float]:
    """(share stopped before the last block, median items scored), margin one paired error."""
    totals, floors = clusters(points / 100, DISCORDANCE, size)
    died = race(totals, floors, math.sqrt(DISCORDANCE * ITEMS))
    return float((died < len(totals)).mean()), float(np.median(np.minimum(died * size, ITEMS)))


def wrong(discordance: float, size: int) -> float:
    """Share stopped of candidates that are exactly as far behind as is allowed."""
    totals, floors = clusters(0.02, discordance, size)
    return float((race(totals, floors, float(totals.sum())) < len(totals)).mean())


class Order:
    """A race that stops nothing."""

    def __init__(self, seed: int, suites: list[str]) -> None:
        self.seed, self.suites, self.blocks = seed, suites, 0

    def order(self, drawn: Any) -> None:
        self.blocks = len(drawn)

    def block(self, *_: Any) -> bool:
        return True

    def suite(self, *_: Any) -> bool:
        return True


def order(root: Path, pool: Path | None, files: Path | None) -> tuple[float, float, int]:
    """Median CPU seconds of scoring a candidate whole and in drawn order, by turns; blocks."""
    if pool is None or files is None:
        pool, files = root / "pool", root / "suites"
        make_pool(pool, SMALL, 4, dtype="float32", moved_blocks=None)
        files.mkdir()
        make_suites(files, 500)
    members = [read_checkpoint(p.parent) for p in sorted(pool.glob("*/config.json"))]
    suites = [
        parse_suite(f.stem, f.read_text(), where=f.stem, require_splits=False)
        for f in sorted(files.glob("*.jsonl"))
    ]
    scored = [suite.name for suite in suites if suite.form != "text"]
    config = Settings(home=root, engine_device="cpu", engine_threads=1)
    rng = np.random.default_rng(0)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    # of the process: other work on the machine counts less than on the clock
    with Engine(config, log_dir=root) as engine:
        engine.load([(m.digest, m.path) for m in members], members[0].dtype)
        watcher, process = Order(0, scored), psutil.Process(engine.pid)
        for number in range(CANDIDATES):
            recipe = Recipe(
                parents=tuple(m.digest for m in members),
                weights=tuple(rng.dirichlet(np.ones(len(members))).tolist()),
                dtype=members[0].dtype,
            )
            for raced in (number % 2 == 0, number % 2 == 1):
                watcher = Order(number, scored) if raced else watcher
                before = process.cpu_times()
                engine.evaluate(recipe, suites, "search", race=watcher if raced else None)
                after = process.cpu_times()
                spent = after.user - before.user + after.system - before.system
                seconds[raced].append(spent)
    # the first two compile and learn answers
    return median(seconds[False][2:]), median(seconds[True][2:]), watcher.blocks


if __name__ == "__main__":
    main()
