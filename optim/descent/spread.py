"""Preference vectors: shares of several aims that sum to 1, spread evenly over the simplex."""

from __future__ import annotations

import itertools

import numpy as np

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
    lattice = _lattice(aims, count)
    chosen = [np.full(aims, 1.0 / aims)]
    distance = np.linalg.norm(lattice - chosen[0], axis=1)
    while len(chosen) < count and distance.max() > 1e-9:
        point = lattice[int(np.argmax(np.round(distance, 9)))]
        chosen.append(point)
        distance = np.minimum(distance, np.linalg.norm(lattice - point, axis=1))
    return [tuple(map(float, point)) for point in chosen]


def _lattice(aims: int, count: int) -> np.ndarray:
    """float64 [points, aims]: all multiples of 1/H that sum to 1, several times `count` of them."""
    parts, points = 1, _points(aims, 1)
    while len(points) < 4 * count or parts < 4:
        finer = _points(aims, parts + 1)
        if len(finer) > LATTICE:
            break
        parts, points = parts + 1, finer
    return points / parts


def _points(aims: int, parts: int) -> np.ndarray:
    bars = itertools.combinations(range(parts + aims - 1), aims - 1)
    rows = [np.diff([-1, *places, parts + aims - 1]) - 1 for places in bars]
    # corners in the order of the aims
    return np.array(rows, dtype=float)[::-1]
