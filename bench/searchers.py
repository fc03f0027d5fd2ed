"""Which searcher finds what: synthetic pools whose true scores are known.

The margin of an item is its suite's skill at w, plus an own part, plus a tilt along w; skill is
linear in w less a penalty on distance, so scores saturate. A searcher sees 250 items a suite;
what it found is scored on 4,000 others. Baselines (every parent, the uniform soup) come first.

    python bench/searchers.py [METHOD[:OPTION=VALUE] ...] [--pools N] [--trials N] [--cases ...]

Prints a table in Markdown: means over the pools and their standard errors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from optim.pareto import hypervolume, ranks
from optim.search import METHODS, Observation, make_searcher, quality
from optim.search.baselines import single_weights, uniform
from optim.space import Space

PARENTS, SUITES, ITEMS, TRUTH = 12, 5, 250, 4000
#: share of the reference's right answers that may be lost where that is a constraint
FLIPS = 0.03
CASES = ("macro", "macro, few flips", "macro and flips", "four suites")


@dataclass
class Pool:
    """A synthetic pool; items are [suites, items]."""

    skill: np.ndarray
    own: np.ndarray
    tilt: np.ndarray
    reference: np.ndarray

    def right(self, weights: Sequence[float]) -> np.ndarray:
        """bool [suites, items]: which the mixture answers right."""
        w = np.array(weights)
        level = self.skill @ w + 0.5 * (1 - float(w @ w))
        return level[:, None] + self.own + self.tilt @ w > 0

    def values(self, weights: Sequence[float], case: str) -> tuple[tuple[float, ...], float]:
        """Objectives, minimised, and violation."""
        right = self.right(weights)
        macro, flips = float(right.mean()), float((self.reference & ~right).mean())
        if case == "macro and flips":
            return (-macro, flips), 0.0
        if case == "four suites":
            return tuple((-right.mean(axis=1)[:4]).tolist()), 0.0
        return (-macro,), max(flips - FLIPS, 0.0) if case == "macro, few flips" else 0.0


def pools(seed: int) -> tuple[Pool, Pool]:
    """What the searcher sees, and the truth; parent 0 is the reference."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(-0.8, 0.1, size=(SUITES, PARENTS))
    skill[np.arange(SUITES), np.arange(SUITES)] = rng.uniform(0.3, 0.8, size=SUITES)
    skill[:, 0] = rng.uniform(0.0, 0.4, size=SUITES)
    found = []
    for items in (ITEMS, TRUTH):
        own = rng.normal(size=(SUITES, items))
        pool = Pool(skill, own, 0.6 * rng.normal(size=(SUITES, items, PARENTS)), own > 0)
        pool.reference = pool.right(single_weights(PARENTS, 0))
        found.append(pool)
    return found[0], found[1]


def search(
    method: str, options: dict[str, object], pool: Pool, space: Space, case: str, trials: int
) -> list[Observation]:
    """Baselines, then at most `trials` candidates of the searcher."""

    def judged(slot: str, weights: tuple[float, ...]) -> Observation:
        values, violation = pool.values(weights, case)
        return Observation(slot, weights, values, violation, "complete")

    corners = [single_weights(PARENTS, i) for i in range(PARENTS)]
    base = [judged(f"b{i}", w) for i, w in enumerate([*corners, uniform(PARENTS)])]
    known = {option.name for option in METHODS[method].options}
    given = {
        "start": [row.weights for row in sorted(base, key=quality)],
        "reference": corners[0],
    }
    searcher = make_searcher(
        method,
        space=space,
        objectives=len(base[0].values or ()),
        seed=0,
        options={name: value for name, value in given.items() if name in known} | options,
        known=base,
    )
    rows: list[Observation] = []
    while len(rows) < trials:
        asked = searcher.ask(rows, trials - len(rows))
        if not asked:
            break
        rows += [judged(one.slot, one.weights) for one in asked]
    return base + rows


def worth(rows: Sequence[Observation], truth: Pool, case: str) -> float:
    """One objective: its true value where the search saw the best. Several: the true hypervolume
    of the front that the search saw, beyond the worst baseline."""
    if len(rows[0].values or ()) == 1:
        values, violation = truth.values(min(rows, key=quality).weights, case)
        return -values[0] if violation <= 0.01 else float("nan")
    rank = ranks([row.values for row in rows], [row.violation for row in rows])
    front = [row for row, r in zip(rows, rank, strict=True) if r == 1]
    values = [truth.values(row.weights, case)[0] for row in front]
    worst = np.max([truth.values(row.weights, case)[0] for row in rows[: PARENTS + 1]], axis=0)
    return hypervolume(values, [0.0] * len(values), worst.tolist())


def main() -> None:
    """Measure every method on every case, in both spaces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=sorted(METHODS))
    parser.add_argument("--pools", type=int, default=20)
    parser.add_argument("--trials", type=int, default=110)
    parser.add_argument("--cases", nargs="*", default=CASES)
    asked = parser.parse_args()
    made = [pools(seed) for seed in range(asked.pools)]
    spaces = {"simplex": Space.simplex(PARENTS), "affine": Space.affine(PARENTS)}
    heads = [f"{case}, {label}" for case in asked.cases for label in spaces]
    print(f"| method | {' | '.join(heads)} | trials | s a search |")
    print(f"|---|{'---|' * (len(heads) + 2)}", flush=True)
    for name in asked.methods:
        method, _, text = name.partition(":")
        options = dict(pair.split("=") for pair in text.split(",") if pair)
        options = {key: yaml.safe_load(value) for key, value in options.items()}
        began, cells, used = time.process_time(), [], []
        for case in asked.cases:
            for space in spaces.values():
                tried = [
                    search(method, options, seen, space, case, asked.trials) for seen, _ in made
                ]
                used += [len(rows) - PARENTS - 1 for rows in tried]
                cells.append(
                    cell([worth(r, t, case) for r, (_, t) in zip(tried, made, strict=True)])
                )
        seconds = (time.process_time() - began) / len(used)
        trials = f"{min(used)}–{max(used)}" if min(used) < max(used) else f"{used[0]}"
        print(f"| {name} | {' | '.join(cells)} | {trials} | {seconds:.2f} |", flush=True)


def cell(found: Sequence[float]) -> str:
    """Mean and standard error of the searches that kept the constraint, and how many did not."""
    kept = np.array(found)[np.isfinite(found)]
    lost = f", {len(found) - len(kept)} lost" if len(kept) < len(found) else ""
    return f"{kept.mean():.4f} ± {kept.std(ddof=1) / len(kept) ** 0.5:.4f}{lost}"


if __name__ == "__main__":
    main()
