"""One search of one testbed, and what was found there is worth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from race import raced
from testbeds import Testbed

from optim.pareto import hypervolume, ranks
from optim.search import METHODS, Observation, make_searcher, quality


@dataclass
class Run:
    """What a search evaluated, and what that took."""

    bed: Testbed
    rows: list[Observation] = field(default_factory=list)
    #: items scored up to and with each evaluation
    items: list[int] = field(default_factory=list)
    #: CPU seconds of the searcher
    seconds: float = 0.0

    @property
    def all(self) -> list[Observation]:
        """The baselines first."""
        return [*self.bed.baselines, *self.rows]

    @cached_property
    def volumes(self) -> list[float]:
        """Hypervolume beyond the worst single checkpoint after every evaluation."""
        baselines, found = self.bed.baselines, [row.values for row in self.all]
        reference = self._beyond([row.values or () for row in baselines[: self.bed.n]])
        counts = range(len(baselines) + 1, len(found) + 1)
        return [hypervolume(found[:count], [0.0] * count, reference) for count in counts]

    def held_out(self) -> float:
        """The same on held-out items, of the front of the searched ones."""
        singles = [self._held_out(row) for row in self.bed.baselines[: self.bed.n]]
        values = [self._held_out(row) for row in self._front()]
        return hypervolume(values, [0.0] * len(values), self._beyond(singles))

    def truth(self) -> float:
        """One objective: its value on held-out items where the search saw the best, NaN if that
        breaks the constraint by more than a point. Several: hypervolume there of the front that the
        search saw, beyond the worst baseline."""
        if self.bed.objectives == 1:
            (value,), violation = self.bed.judged(min(self.all, key=quality).weights, 1)
            return -value if violation <= 0.01 else float("nan")
        values = [self._held_out(row) for row in self._front()]
        worst = np.max([self._held_out(row) for row in self.bed.baselines], axis=0)
        return hypervolume(values, [0.0] * len(values), worst.tolist())

    def _held_out(self, row: Observation) -> tuple[float, ...]:
        return self.bed.judged(row.weights, 1)[0]

    def _front(self) -> list[Observation]:
        """Complete candidates that none dominates, feasible ones first."""
        rows = [row for row in self.all if row.state == "complete"]
        found = ranks([row.values for row in rows], [row.violation for row in rows])
        return [row for row, rank in zip(rows, found, strict=True) if rank == 1]

    @staticmethod
    def _beyond(values: Sequence[Sequence[float]]) -> list[float]:
        """A point behind the worst in every objective."""
        return list((np.array(values).max(axis=0) + 0.01).tolist())


def search(
    bed: Testbed,
    method: str,
    seed: int,
    trials: int,
    *,
    options: Mapping[str, Any] | None = None,
    race: bool = False,
) -> Run:
    """At most so many trials after the baselines; a sweep may end earlier."""
    run = Run(bed)
    given = {
        "start": [row.weights for row in sorted(bed.baselines, key=quality)],
        "reference": bed.baselines[bed.reference].weights,
    }
    takes = {option.name for option in METHODS[method].options}
    searcher = make_searcher(
        method,
        space=bed.space,
        objectives=bed.objectives,
        seed=seed,
        options={name: value for name, value in given.items() if name in takes} | (options or {}),
        question=bed.question,
        known=bed.baselines,
    )
    while len(run.rows) < trials:
        begun = time.process_time()
        asked = searcher.ask(run.rows, trials - len(run.rows))
        run.seconds += time.process_time() - begun
        if not asked:
            break
        told = run.all
        for one in asked:
            result, items = bed.observe(one.slot, one.weights), len(bed.suites[0])
            if race:
                result, items = raced(bed, result, told, 1000 * seed + len(run.rows))
            run.rows.append(result)
            run.items.append(items + (run.items[-1] if run.items else 0))
    return run
