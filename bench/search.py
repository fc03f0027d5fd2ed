"""Which searcher finds the better front from fewer evaluations.

    python bench/search.py [--pool DIR --suites DIR] [--seeds 5] [--trials 200] [--beds NAME ...]

Every searcher gets the same baselines (each checkpoint alone, the uniform soup) and then as many
evaluations as --trials; surrogates get 60. Hypervolume is taken beyond the worst single checkpoint
of each objective. The target of a seed is what the best of nsga-ii, tpe and cma-es has reached
after all trials; counted are the evaluations until a searcher passes it. Held-out: hypervolume, on
items no search saw, of the front that each had found on its own items.

Testbeds: five networks for digits (5 objectives), five synthetic pools (3 objectives) and, with
--pool and --suites, five searches of a real pool on its choice suites through the engine. `costs`:
what searchers take themselves.

    python bench/search.py --beds cases [--methods METHOD[:OPTION=VALUE] ...] [--cases ...]
        [--seeds 16] [--trials 110]

Prints a table of what each searcher finds of what may be asked of a pool with skills: a macro
average with and without a constraint, and fronts; in the simplex and in the affine box. What a
search saw on 250 items a suite is scored on 4,000 others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from asking import costs
from rows import RESULTS, Rows
from searching import Run, search
from stories import stories
from testbeds import CASES, Testbed, digits, skilled, synthetic

from optim.search import METHODS

PEERS = ("nsga-ii", "tpe", "cma-es")
BEDS = ("digits", "synthetic", "stories", "costs")
RACED = "margin-surrogate"
SURROGATES = ("margin-surrogate", "metric-surrogate")
OTHERS = ("nsga-iii", "random")
#: evaluations of a surrogate, and those after which all are compared
SHORT, LOOK = 60, 40


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pool", type=Path, help="folder of checkpoints, one named deployed")
    parser.add_argument("--suites", type=Path, help="folder of JSONL suites")
    parser.add_argument("--items", type=int, default=250, help="most items of each of its suites")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--beds", nargs="*", default=BEDS, choices=(*BEDS, "cases"))
    parser.add_argument("--methods", nargs="*", default=sorted(METHODS), help="of cases")
    parser.add_argument("--cases", nargs="*", default=CASES[1:], choices=CASES)
    options = parser.parse_args()
    # a file for each, so that what is done is kept
    for bed in options.beds:
        rows = Rows("search")
        if bed == "digits":
            compare(rows, bed, cache(digits), options)
        elif bed == "synthetic":
            compare(rows, bed, cache(synthetic), options)
        elif bed == "costs":
            costs(rows)
        elif bed == "cases":
            cases(options)
        elif options.pool:
            with stories(options.pool, options.suites, items=options.items) as pool:
                compare(rows, bed, lambda _, pool=pool: pool, options, others=())
        if rows.rows:
            rows.write(RESULTS / f"search-{bed}.json")


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
        shares = share(found, targets, LOOK)
        rows.add(f"{name}, share of the target after {LOOK}, {method}", *shares)
        held = float(np.median([run.held_out() for run in found]))
        rows.add(f"{name}, held-out hypervolume after {most}, {method}", held, "volume")
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
        / (len(run.bed.suites[0]) * trials)
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
    stopped = [np.mean([row.state == "stopped" for row in run.rows]) for run in raced]
    median = float(np.median(stopped))
    rows.add(f"{name}, candidates that racing stopped, {RACED}", median, "share")


def share(found: list[Run], targets: list[float], after: int) -> tuple[float, str]:
    """Median share of the target after some evaluations, with its unit."""
    shares = [run.volumes[after - 1] / t for run, t in zip(found, targets, strict=True)]
    return float(np.median(shares)), "share"


def cases(options: argparse.Namespace) -> None:
    """A table in Markdown: means over the pools and their standard errors, in both spaces."""
    made = [skilled(seed) for seed in range(options.seeds)]
    asked = [(case, simplex) for case in options.cases for simplex in (True, False)]
    heads = [f"{case}, {'simplex' if simplex else 'affine'}" for case, simplex in asked]
    print(f"| method | {' | '.join(heads)} | trials | s a search |")
    print(f"|---|{'---|' * (len(heads) + 2)}", flush=True)
    for name in options.methods:
        method, _, text = name.partition(":")
        given = dict(pair.split("=") for pair in text.split(",") if pair)
        given = {key: yaml.safe_load(value) for key, value in given.items()}
        cells, used, seconds = [], [], 0.0
        for case, simplex in asked:
            beds = [replace(bed, case=case, simplex=simplex) for bed in made]
            runs = [search(bed, method, 0, options.trials, options=given) for bed in beds]
            used += [len(run.rows) for run in runs]
            seconds += sum(run.seconds for run in runs)
            cells.append(cell([run.truth() for run in runs]))
        trials = f"{min(used)}–{max(used)}" if min(used) < max(used) else f"{used[0]}"
        spent = f"{seconds / len(used):.2f}"
        print(f"| {name} | {' | '.join(cells)} | {trials} | {spent} |", flush=True)


def cell(found: Sequence[float]) -> str:
    """Mean and standard error of the searches that kept the constraint, and how many did not."""
    kept = np.array(found)[np.isfinite(found)]
    lost = f", {len(found) - len(kept)} lost" if len(kept) < len(found) else ""
    return f"{kept.mean():.4f} ± {kept.std(ddof=1) / len(kept) ** 0.5:.4f}{lost}"


if __name__ == "__main__":
    main()
