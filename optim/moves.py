"""Small random moves of a point of a space: its neighbours, which a search did not look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optim.space import Space

#: directions that are tried for each move that is wanted: some are cut to nothing by the bounds
TRIES = 20


def length_of(space: Space, one: Sequence[float], other: Sequence[float]) -> float:
    """How far apart two points are; 1: as far as one checkpoint is from another.

    √(Σ (w − w')² / 2g) over all rows of weights, g of them: from one checkpoint to another every
    row changes by 1 in two places.
    """
    gap = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(np.sqrt(np.square(gap).sum() / (2 * space.groups)))


def small_moves(
    space: Space, point: Sequence[float], count: int, *, step: float, seed: int = 0
) -> list[tuple[float, ...]]:
    """Up to `count` different points of the space, `step` away from a point in random directions.

    Lengths are those of `length_of`. A move that leaves the bounds goes to the nearest point inside
    instead, which is nearer; fewer points come back where the space has no more. The first moves
    stay the same when more are asked for. Raises ValueError for a point outside, or a step that is
    not between 0 and 1.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step: {step} is not between 0 and 1")
    if not space.contains(point, tolerance=1e-6):
        raise ValueError(f"point: {list(point)} is not in the space")
    if not space.dimension:
        return []
    rng, start = np.random.default_rng(seed), np.asarray(point, dtype=np.float64)
    found: dict[tuple[float, ...], None] = {}
    for _ in range(TRIES * count):
        z = rng.normal(size=(space.groups, space.n - 1))
        z *= step * math.sqrt(2 * space.groups) / np.linalg.norm(z)
        moved = space.place(start + (z @ space.basis.T).ravel())
        if moved != tuple(point):
            found.setdefault(moved)
        if len(found) == count:
            break
    return list(found)
