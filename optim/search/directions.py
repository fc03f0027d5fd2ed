"""Even spreads of weightings of the objectives: which trade-offs a search looks for.

A weighting is a point of the simplex, one share per objective; more of it means that the objective
counts for more.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def lattice(axes: int, steps: int) -> np.ndarray:
    """float64 [C(steps + axes − 1, axes − 1), axes]: all weightings in multiples of 1/steps.

    The simplex lattice of Das & Dennis (1998), the first objective's corner first.
    """
    bars = itertools.combinations(range(steps + axes - 1), axes - 1)
    edges = np.array([(-1, *bar, steps + axes - 1) for bar in bars])
    return (np.diff(edges, axis=1) - 1)[::-1] / steps


def directions(axes: int, most: int) -> np.ndarray:
    """float64 [d <= max(most, 1), axes]: equal shares first, then the rest of the finest lattice
    for which there is room."""
    centre = np.full((1, axes), 1.0 / axes)
    found = centre
    for steps in itertools.count(1):
        # every axes-th lattice has the centre among its points
        extra = 0 if steps % axes == 0 else 1
        if axes == 1 or math.comb(steps + axes - 1, axes - 1) + extra > most:
            return found
        points = lattice(axes, steps)
        apart = np.abs(points - centre).max(axis=1) > 1e-9
        found = np.concatenate([centre, points[apart]])
    raise AssertionError("unreachable")
