"""One candidate of a testbed raced against the front so far, as a study would do it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from testbeds import Testbed

from optim.pareto import ranks
from optim.racing import Bets, most_dominating, paired_error
from optim.search import Observation

#: as in a study: probability of a wrong stop, members raced against, share of items after which
#: none is stopped; items of a block
ALPHA, MEMBERS, LATEST, BLOCK = 0.05, 4, 0.75, 8


def raced(
    bed: Testbed, whole: Observation, told: Sequence[Observation], seed: int
) -> tuple[Observation, int]:
    """The candidate as racing leaves it, complete or stopped, and how many items it took."""
    assert whole.signal is not None
    right = whole.signal > 0
    archive = _archive([row for row in told if row.state == "complete"])
    blocks = _blocks(bed, np.random.default_rng(seed))
    bets = _bets(bed, archive, blocks)
    enough = math.log(len(archive) / ALPHA)
    seen = np.zeros(len(right), dtype=bool)
    for at in blocks:
        seen[at] = True
        suite = int(bed.suites[0][at[0]])
        totals = np.zeros((len(archive), bed.objectives))
        totals[:, suite] = [(member[at].astype(int) - right[at]).sum() for member in archive]
        bets.feed(totals.reshape(-1, 1))
        wealth = bets.log_wealth.reshape(len(archive), bed.objectives).min(axis=1)
        if seen.mean() > LATEST:
            break
        if (wealth >= enough).any():
            return _stopped(bed, whole, seen), int(seen.sum())
    return whole, len(right)


def _archive(told: Sequence[Observation]) -> list[np.ndarray]:
    """What the members raced against answer right: bool [items] each."""
    values = [row.values or () for row in told]
    found = ranks(values, [0.0] * len(told))
    front = [i for i, rank in enumerate(found) if rank == 1]
    rest = [values[i] for i, rank in enumerate(found) if rank != 1]
    chosen = most_dominating([values[i] for i in front], rest, MEMBERS)
    return [np.asarray(told[front[i]].signal) > 0 for i in chosen]


def _blocks(bed: Testbed, rng: np.random.Generator) -> list[np.ndarray]:
    """Items of every block, all suites' blocks in one drawn order."""
    found = []
    for suite in range(bed.objectives):
        items = np.flatnonzero(bed.suites[0] == suite)
        found += [items[i : i + BLOCK] for i in range(0, len(items), BLOCK)]
    return [found[i] for i in rng.permutation(len(found))]


def _bets(bed: Testbed, archive: list[np.ndarray], blocks: list[np.ndarray]) -> Bets:
    """Claims "this member is ahead on this suite by no more than one standard error"."""
    suites = bed.suites[0]
    limits, floors, mine = [], [], []
    for member in archive:
        for suite in range(bed.objectives):
            own = suites == suite
            values = np.stack([one[own] for one in archive]).astype(float)
            margin = paired_error(values, np.full(own.sum(), 1 / own.sum()))
            limits.append(own.sum() * margin)
            floors.append([-float((own[at] & ~member[at]).sum()) for at in blocks])
            mine.append([bool(own[at[0]]) for at in blocks])
    return Bets(np.array(limits), np.array(floors), np.array(mine))


def _stopped(bed: Testbed, whole: Observation, seen: np.ndarray) -> Observation:
    assert whole.signal is not None
    assert whole.changed is not None
    right, suites = whole.signal > 0, bed.suites[0]
    estimate = [
        -float(right[seen & (suites == suite)].mean()) if (seen & (suites == suite)).any() else -0.0
        for suite in range(bed.objectives)
    ]
    return replace(
        whole, state="stopped", values=None, estimate=tuple(estimate),
        signal=np.where(seen, whole.signal, np.float32(np.nan)), changed=whole.changed & seen,
    )  # fmt: skip
