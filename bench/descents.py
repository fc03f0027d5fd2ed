"""Searches with gradients against one without, at equal cost, on a pool and its suites.

    python bench/descents.py [--pool DIR --suites DIR]

Costs are item evaluations: a pass forwards and backwards counts as three forwards, a teacher's pass
as one, and the evaluation of every candidate on the search split is on top for all. What is climbed
is the mean score of the suites with right and wrong answers; the candidate that is best on the
search split is scored on the validation split. Without --pool and --suites, random weights of
stories260K's shape, which say nothing about quality. One thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pools import SMALL, make_pool, make_suites
from rows import Rows

from optim.descent import DESCENTS, Job, Task
from optim.recipe import Recipe
from optim.search import Observation, make_searcher
from optim.search.baselines import single_weights, uniform
from optim.space import Space
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import Suite, parse_suite
from workers.engine.client import Engine

GRAINS = ("model", "layers", "columns")
#: what the search without gradients may spend beside its own baselines, in candidates
MORE_CANDIDATES = 40


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pool", type=Path, help="folder of checkpoints")
    parser.add_argument("--suites", type=Path, help="folder of JSONL suites")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("descents")
    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        home = Path(root)
        if options.pool:
            folders = sorted(path.parent for path in options.pool.glob("*/config.json"))
            files = {path.stem: path for path in sorted(options.suites.glob("*.jsonl"))}
        else:
            folders = make_pool(home / "pool", SMALL, 6, dtype="float32", moved_blocks=None)
            files = {n: f for n, f in make_suites(home, 120).items() if n != "few_shot"}
        suites = [parse_suite(name, file.read_text(), where=name) for name, file in files.items()]
        settings = Settings(home=home, engine_device="cpu")
        with Engine(settings, log_dir=home) as engine:
            heads = [read_checkpoint(folder, check_values=False) for folder in folders]
            engine.load([(head.digest, head.path) for head in heads], heads[0].dtype)
            scored = [suite for suite in suites if suite.form != "text"]
            compare(rows, Ground(engine, tuple(h.digest for h in heads), heads[0].dtype, scored))
    rows.write(options.out)


@dataclass(frozen=True)
class Ground:
    """A pool in an engine, and the suites with right and wrong answers."""

    engine: Engine
    parents: tuple[str, ...]
    dtype: str
    suites: list[Suite]

    @property
    def items(self) -> int:
        """Items of one evaluation on the search split."""
        return sum(len(suite.split("search")) for suite in self.suites)

    def scores(self, recipe: Recipe, split: str = "search") -> dict[str, float]:
        """The score on every suite."""
        found: dict[str, float] = {}
        self.engine.evaluate(
            recipe,
            self.suites,
            split,
            on_suite=lambda one: found.update({one.suite: one.predictions.score()}),
        )
        return found

    def macro(self, recipe: Recipe, split: str = "search") -> float:
        """Their mean."""
        return float(np.mean(list(self.scores(recipe, split).values())))

    def recipe(self, weights: tuple[float, ...]) -> Recipe:
        """Weights of whole models."""
        return Recipe(parents=self.parents, weights=weights, dtype=self.dtype)


def compare(rows: Rows, ground: Ground) -> None:
    """Baselines, every kind of descent, and CMA-ES at the cost of the first and for longer."""
    n, items = len(ground.parents), ground.items
    singles = [ground.scores(ground.recipe(single_weights(n, i))) for i in range(n)]
    means = [float(np.mean(list(one.values()))) for one in singles]
    best = ground.recipe(single_weights(n, int(np.argmax(means))))
    show(rows, ground, "best single", best, n * items, 0.0)
    soup = ground.recipe(uniform(n))
    show(rows, ground, "uniform soup", soup, items, 0.0)
    costs = []
    for name, job in jobs(ground, singles):
        started = time.perf_counter()
        found = ground.engine.descend(job, ground.suites)
        seconds = time.perf_counter() - started
        cost = found.state.passes + items
        costs.append(cost)
        show(rows, ground, name, found.recipe, cost, seconds)
    for budget in (round(costs[0] / items), MORE_CANDIDATES):
        started = time.perf_counter()
        weights, count = climbed(ground, means, budget)
        seconds = time.perf_counter() - started
        show(rows, ground, f"cma-es, {count} candidates", ground.recipe(weights), count * items,
             seconds)  # fmt: skip


def show(rows: Rows, ground: Ground, name: str, recipe: Recipe, cost: int, seconds: float) -> None:
    """A candidate's score on two splits, and what it took to find it."""
    rows.add(f"{name}, search split", ground.macro(recipe), "mean score")
    rows.add(f"{name}, validation split", ground.macro(recipe, "validation"), "mean score")
    rows.add(f"{name}, cost", cost, "item evaluations")
    if seconds:
        rows.add(f"{name}, time", seconds, "s")


def jobs(ground: Ground, singles: list[dict[str, float]]) -> list[tuple[str, Job]]:
    """Descents with the defaults of the methods."""
    n = len(ground.parents)
    base: dict[str, Any] = {"parents": ground.parents, "dtype": ground.dtype}
    names = ("steps", "batch", "rate")
    own = DESCENTS["gradient"].settings({})
    gradient = {name: own[name] for name in names}
    bounds = {"low": (-0.5,) * n, "high": (1.5,) * n, "start": (1 / n,) * n}

    def tasks(loss: Any) -> tuple[Task, ...]:
        share = 1 / len(ground.suites)
        return tuple(Task(suite=s.name, loss=loss, weight=share) for s in ground.suites)

    found = [
        (f"gradient, {grain}", Job(tasks=tasks("supervised"), grain=grain, **gradient, **bounds,
                                   **base))
        for grain in GRAINS
    ]  # fmt: skip
    undecided = Job(tasks=tasks("entropy"), **gradient, **bounds, **base)
    found.append(("gradient, entropy, model", undecided))
    own = DESCENTS["dam"].settings({})
    more = {name: own[name] for name in (*names, "temperature", "similarity")}
    experts = tuple(
        Task(
            suite=suite.name,
            loss="imitate",
            teacher=int(np.argmax([one[suite.name] for one in singles])),
        )
        for suite in ground.suites
    )
    dam = Job(tasks=experts, grain="columns", start=(1 / n,) * n, **more, **base)
    return [*found, ("dam", dam)]


def climbed(ground: Ground, singles: list[float], budget: int) -> tuple[tuple[float, ...], int]:
    """(best weights, candidates) of CMA-ES in the affine box, from the singles, best first."""
    n = len(singles)
    order = sorted(range(n), key=lambda i: -singles[i])
    searcher = make_searcher(
        "cma-es",
        space=Space.affine(n),
        objectives=1,
        seed=0,
        options={"start": [list(single_weights(n, i)) for i in order]},
    )
    seen: list[Observation] = []
    while len(seen) < budget:
        for one in searcher.ask(seen, budget - len(seen)):
            value = ground.macro(ground.recipe(one.weights))
            seen.append(Observation(one.slot, one.weights, (-value,), 0.0, "complete"))
    best = min(seen, key=lambda row: row.values or (0.0,))
    return best.weights, len(seen)


if __name__ == "__main__":
    main()
