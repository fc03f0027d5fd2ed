"""Where a search starts: points known to be good, usually the baselines, best first.

Halving and log-rank shares are CMA-ES's own recombination, so that one bad order costs little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optim.search.options import Option
from optim.space import Space

START = Option(
    name="start",
    doc="weights to start from, best first, of which the better half is used; unset: no preference",
    kind="points",
    default=None,
)


def better_half(space: Space, points: Sequence[Sequence[float]] | None) -> np.ndarray:
    """float64 [h, size]: the first ⌈len/2⌉ points, moved to the nearest point inside the bounds."""
    half = (points or [])[: math.ceil(len(points or []) / 2)]
    return np.array([space.project(point) for point in half]).reshape(len(half), space.size)


def start_mean(space: Space, points: Sequence[Sequence[float]] | None) -> np.ndarray:
    """float64 [size]: the better half of the points, weighted log(h + ½) − log(rank).

    None or no points: the uniform soup.
    """
    half = better_half(space, points)
    if not len(half):
        return space.centre
    shares = math.log(len(half) + 0.5) - np.log(np.arange(1, len(half) + 1))
    return space.project(shares @ half / shares.sum())
