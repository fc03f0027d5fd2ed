"""Searches that never were, for measuring and testing what a searcher does with many trials.

Asking for every one of a thousand trials would take a thousand times as long as what is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from optim.search.base import Generational, Observation, Searcher, slot_name


def invented(
    searcher: Searcher, points: Sequence[tuple[float, ...]], values: Sequence[Sequence[float]]
) -> list[Observation]:
    """Complete trials at these points of the space with these objectives, as many as points or as
    the search has, whatever it would have asked for: what was evaluated is what is learnt from."""
    learnt = searcher._begin() if isinstance(searcher, Generational) else None
    rows: list[Observation] = []
    for generation in itertools.count():
        left = len(points) - len(rows)
        size = searcher._size(learnt) if isinstance(searcher, Generational) else left
        at = range(len(rows), len(rows) + min(size, left))
        born = [
            Observation(slot_name(generation, i), points[j], tuple(values[j]), state="complete")
            for i, j in enumerate(at)
        ]
        rows += born
        if len(rows) == len(points) or not born:
            return rows
        assert isinstance(searcher, Generational)
        learnt = searcher._learn(learnt, generation, born)
    raise AssertionError("unreachable")
