"""Preference vectors: shares of several aims that sum to 1, spread evenly over the simplex."""

from __future__ import annotations

import math

import numpy as np

from optim.search.directions import lattice

#: points of the lattice that preferences are taken from, at most
LATTICE = 20_000


def preferences(aims: int, count: int) -> list[tuple[float, ...]]:
    """`count` vectors of shares, fewer where the simplex is a point; the same every time.

    The first is the centre; each of the others is the point of a simplex lattice (Das & Dennis
    1998) that is farthest from all before it, so corners come early and every number of vectors is
    a spread.
    """
    if aims < 1 or count < 1:
        raise ValueError(f"preferences: {count} of {aims} aims, both must be above 0")
    if aims == 1:
        return [(1.0,)]
    points = _lattice(aims, count)
    chosen = [np.full(aims, 1.0 / aims)]
    distance = np.linalg.norm(points - chosen[0], axis=1)
    while len(chosen) < count and distance.max() > 1e-9:
        point = points[int(np.argmax(np.round(distance, 9)))]
        chosen.append(point)
        distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
    return [tuple(map(float, point)) for point in chosen]


def _lattice(aims: int, count: int) -> np.ndarray:
    """float64 [points, aims]: all multiples of 1/H that sum to 1, several times `count` of them,
    corners in the order of the aims."""
    parts, points = 1, lattice(aims, 1)
    while len(points) < 4 * count or parts < 4:
        if math.comb(parts + aims, aims - 1) > LATTICE:
            break
        parts += 1
        points = lattice(aims, parts)
    return points
