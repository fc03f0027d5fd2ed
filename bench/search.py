"""Which searcher finds the better front from fewer evaluations.

    python bench/search.py [--pool DIR --suites DIR] [--seeds 5] [--trials 200] [--beds NAME ...]

Every searcher gets the same baselines (each checkpoint alone, the uniform soup) and then as many
evaluations as --trials; surrogates get 60. Hypervolume is taken beyond the worst single checkpoint
of each objective. The target of a seed is what the best of nsga-ii, tpe and cma-es has reached
after all trials; counted are the evaluations until a searcher passes it. Held-out: hypervolume, on
items no search saw, of the front that each had found on its own items.

Testbeds: five networks for digits (5 objectives), five synthetic pools (3 objectives) and, with
--pool and --suites, five searches of a real pool on its choice suites through the engine.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from race import raced
from rows import RESULTS, Rows
from testbeds import Stories, Testbed, digits, synthetic

from optim.pareto import hypervolume, ranks
from optim.search import (
    METHODS,
    Axis,
    ItemSuite,
    Observation,
    Question,
    Searcher,
    make_searcher,
)
from optim.search.base import Generational, slot_name
from optim.search.model import ItemModel
from optim.space import Space

PEERS = ("nsga-ii", "tpe", "cma-es")
BEDS = ("digits", "synthetic", "stories", "costs")
RACED = "margin-surrogate"
SURROGATES = ("margin-surrogate", "metric-surrogate")
OTHERS = ("nsga-iii", "random")
#: evaluations of a surrogate, and those after which held-out items are looked at
SHORT, LOOKS = 60, (40, 200)


@dataclass
class Run:
    """One search: hypervolume after every evaluation, and of its fronts on held-out items."""

    volumes: list[float] = field(default_factory=list)
    #: items scored up to and with each evaluation, and of one whole candidate
    items: list[int] = field(default_factory=list)
    items_each: int = 0
    stopped: int = 0
    held_out: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pool", type=Path, help="folder of checkpoints, one named deployed")
    parser.add_argument("--suites", type=Path, help="folder of JSONL suites")
    parser.add_argument("--items", type=int, default=250, help="most items of each of its suites")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--beds", nargs="*", default=BEDS, choices=BEDS, help="which testbeds")
    options = parser.parse_args()
    # a file for each, so that what is done is kept
    for bed in options.beds:
        rows = Rows("search")
        if bed == "digits":
            compare(rows, bed, fresh(digits), options)
        elif bed == "synthetic":
            compare(rows, bed, fresh(synthetic), options)
        elif bed == "costs":
            costs(rows)
        elif options.pool:
            with Stories(options.pool, options.suites, items=options.items) as pool:
                compare(rows, bed, lambda _, pool=pool: pool, options, others=())
        if rows.rows:
            rows.write(RESULTS / f"search-{bed}.json")


def fresh(make: Callable[[int], Testbed]) -> Callable[[int], Testbed]:
    """Another pool for every seed."""
    made: dict[int, Testbed] = {}
    return lambda seed: made.setdefault(seed, make(seed))


def compare(
    rows: Rows,
    name: str,
    bed_of: Callable[[int], Testbed],
    options: argparse.Namespace,
    others: tuple[str, ...] = OTHERS,
) -> None:
    """All searchers on one kind of testbed."""
    runs: dict[str, list[Run]] = {}
    for method in (m for m in (*PEERS, *SURROGATES, *others) if m in METHODS):
        trials = SHORT if method in SURROGATES else options.trials
        runs[method] = [search(bed_of(s), method, s, trials) for s in range(options.seeds)]
    with_races = [search(bed_of(s), RACED, s, SHORT, race=True) for s in range(options.seeds)]
    peers = [runs[method] for method in PEERS if method in runs]
    targets = [max(found[s].volumes[-1] for found in peers) for s in range(options.seeds)]
    for method, found in runs.items():
        reached = [
            next((i + 1 for i, v in enumerate(run.volumes) if v >= target), np.inf)
            for run, target in zip(found, targets, strict=True)
        ]
        never = sum(np.isinf(reached))
        most = len(found[0].volumes)
        capped = [min(r, most) for r in reached]
        rows.add(
            f"{name}, evaluations to the target, {method}",
            float(np.median(capped)),
            "evaluations",
            note=f"{min(capped)} to {max(capped)}; {never} of {len(found)} never within {most}",
            **({"at_most": 40.0} if method == "margin-surrogate" else {}),
        )
        shares = share(found, targets, LOOKS[0])
        rows.add(f"{name}, share of the target after {LOOKS[0]}, {method}", *shares)
        last = max(found[0].held_out)
        held = float(np.median([run.held_out[last] for run in found]))
        rows.add(f"{name}, held-out hypervolume after {last}, {method}", held, "volume")
        spent = float(np.median([run.seconds / len(run.volumes) for run in found]))
        rows.add(f"{name}, ask and tell, {method}", spent, "s a trial")
        rows.curves[f"{name}: {method}"] = [
            {"x": i + 1, "share": round(share(found, targets, i + 1)[0], 4)}
            for i in range(0, most, 1 if most <= SHORT else 4)
        ]

    saved(rows, name, with_races, targets, options.trials)


def saved(rows: Rows, name: str, raced: list[Run], targets: list[float], trials: int) -> None:
    """Item evaluations until the target with racing, over those of so many whole candidates."""
    shares = [
        next((i for i, v in zip(run.items, run.volumes, strict=True) if v >= target), run.items[-1])
        / (run.items_each * trials)
        for run, target in zip(raced, targets, strict=True)
    ]
    never = sum(run.volumes[-1] < t for run, t in zip(raced, targets, strict=True))
    rows.add(
        f"{name}, item evaluations to the target, {RACED} with racing, over {trials} candidates",
        float(np.median(shares)),
        "share",
        at_most=0.1,
        note=f"{min(shares):.3f} to {max(shares):.3f}; {never} of {len(raced)} never",
    )
    stopped = float(np.median([run.stopped / len(run.volumes) for run in raced]))
    rows.add(f"{name}, candidates that racing stopped, {RACED}", stopped, "share")


def share(found: list[Run], targets: list[float], after: int) -> tuple[float, str]:
    """Median share of the target after some evaluations, with its unit."""
    shares = [run.volumes[after - 1] / t for run, t in zip(found, targets, strict=True)]
    return float(np.median(shares)), "share"


def search(bed: Testbed, method: str, seed: int, trials: int, *, race: bool = False) -> Run:
    """One search of one testbed."""
    known, run = bed.baselines(), Run(items_each=len(bed.suites[0]))
    singles = np.array([row.values for row in known[: bed.n]])
    reference = (singles.max(axis=0) + 0.01).tolist()
    options = {}
    if any(option.name == "start" for option in METHODS[method].options):
        options["start"] = [row.weights for row in sorted(known, key=lambda r: sum(r.values or ()))]
    searcher = make_searcher(
        method, space=bed.space, objectives=bed.objectives, seed=seed, options=options,
        question=bed.question(), known=known,
    )  # fmt: skip
    rows: list[Observation] = []
    while len(rows) < trials:
        begun = time.process_time()
        asked = searcher.ask(rows, trials - len(rows))
        run.seconds += time.process_time() - begun
        told = [*known, *rows]
        for one in asked:
            result, items = bed.observe(one.slot, one.weights), run.items_each
            if race:
                result, items = raced(bed, result, told, 1000 * seed + len(rows))
            rows.append(result)
            run.items.append(items + (run.items[-1] if run.items else 0))
            run.stopped += result.state == "stopped"
            found = [row.values for row in (*known, *rows)]
            run.volumes.append(hypervolume(found, [0.0] * len(found), reference))
    for look in {*(n for n in LOOKS if n <= trials), trials}:
        run.held_out[look] = held_out(bed, [*known, *rows[:look]])
    return run


def held_out(bed: Testbed, rows: list[Observation]) -> float:
    """Hypervolume on held-out items of the front of the searched ones."""
    rows = [row for row in rows if row.state == "complete"]
    found = ranks([row.values for row in rows], [0.0] * len(rows))
    front = [row.weights for row, rank in zip(rows, found, strict=True) if rank == 1]
    values = [bed.values(bed.margins(weights)[1], 1) for weights in front]
    singles = [bed.values(bed.margins(row.weights)[1], 1) for row in rows[: bed.n]]
    reference = (np.array(singles).max(axis=0) + 0.01).tolist()
    return hypervolume(values, [0.0] * len(values), reference)


def costs(rows: Rows) -> None:
    """What the searchers themselves take at the largest sizes that are promised."""
    rng = np.random.default_rng(0)
    space = Space(16, -0.5, 1.5, groups=32)
    points = [space.place(rng.normal(1 / 16, 0.3, size=space.size)) for _ in range(1000)]
    values = rng.normal(size=(1000, 3)).tolist()
    for method in METHODS:
        searcher = make_searcher(method, space=space, objectives=3, seed=0)
        told = invented(searcher, points, values)
        with timed() as spent:
            searcher.ask(told, 4)
        rows.add(f"ask after 1,000 trials x 16 x 32, {method}", spent[0], "s", at_most=1.0)
    with timed() as spent:
        ItemModel.fit(*large_study(rng))
    rows.add("margin surrogate, refit on 200 trials x 10,000 items", spent[0], "s", at_most=2.0)


def invented(
    searcher: Searcher, points: list[tuple[float, ...]], values: list[list[float]]
) -> list[Observation]:
    """Rows of a search of as many trials (or of all it has), whatever it would have asked for."""
    learnt = searcher._begin() if isinstance(searcher, Generational) else None
    rows: list[Observation] = []
    for generation in itertools.count():
        left = len(points) - len(rows)
        size = searcher._size(learnt) if isinstance(searcher, Generational) else left
        born = [
            Observation(
                slot_name(generation, i), points[len(rows) + i], tuple(values[len(rows) + i]),
                0.0, "complete",
            )
            for i in range(min(size, left))
        ]  # fmt: skip
        rows += born
        if len(rows) == len(points) or not born:
            break
        assert isinstance(searcher, Generational)
        learnt = searcher._learn(learnt, generation, born)
    return rows


def large_study(rng: np.random.Generator) -> tuple[Space, Question, list[Observation]]:
    """200 trials of 16 parents on five suites of 2,000 items, margins linear in the weights."""
    space, size = Space.affine(16), 2000
    names = [f"s{i}" for i in range(5)]
    question = Question(
        suites=tuple(
            ItemSuite(name=name, form="choice", reference=rng.random(size) < 0.6) for name in names
        ),
        axes=tuple(Axis(metric="score", suite=name) for name in names),
    )
    slopes, heights = rng.normal(size=(5 * size, 15)), rng.normal(size=5 * size)
    rows = []
    for i in range(200):
        weights = space.place(rng.normal(1 / 16, 0.2, 16))
        signal = (heights + slopes @ space.coordinates(weights)).astype(np.float32)
        values = tuple((-(signal > 0).reshape(5, size).mean(axis=1)).tolist())
        rows.append(Observation(f"r{i}", weights, values, 0.0, "complete", signal, signal > 0))
    return space, question, rows


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of CPU of the block, in a list once it has ended."""
    spent: list[float] = []
    begun = time.process_time()
    yield spent
    spent.append(time.process_time() - begun)


if __name__ == "__main__":
    main()
