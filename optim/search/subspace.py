"""Where a model looks: along few directions of a space, as far as its points go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optim.space import Space

#: how far outside [0, 1] a model looks for weights, where the bounds allow it
MARGIN = 0.1
#: a basis vector shorter than this, before it is made a unit one, is a mix of earlier ones
DEPENDENT = 1e-6


def subspace(
    space: Space, points: Sequence[Sequence[float]] | None, most: int, rng: np.random.Generator
) -> np.ndarray:
    """float64 [dimension, min(dimension, most)]: orthonormal columns; all of the space's own
    coordinates when they are few enough.

    Else of a subspace that holds as many of the points as fit, then the combinations of whole
    models, then random directions (after Wang et al. 1301.1942)."""
    if space.dimension <= most:
        return np.eye(space.dimension)
    whole = np.tile(np.eye(space.n - 1), (1, space.groups))
    tried = [*(space.coordinates(p) for p in points or ()), *whole]
    tried += list(rng.normal(size=(most, space.dimension)))
    columns = np.zeros((space.dimension, 0))
    for vector in tried:
        for _ in range(2):  # once is not enough for nearly dependent ones
            vector = vector - columns @ (columns.T @ vector)
        length = np.linalg.norm(vector)
        if length > DEPENDENT and columns.shape[1] < most:
            columns = np.column_stack([columns, vector / length])
    return columns


def extent(space: Space, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [d] each: smallest and largest coordinate on each axis of the space's points whose
    weights lie between −0.1 and 1.1."""
    low, high = np.maximum(space.low, -MARGIN), np.minimum(space.high, 1 + MARGIN)
    if (low > high).any() or not low.sum() <= 1 <= high.sum():
        low, high = space.low, space.high
    slopes = (space.embed(axes.T) - space.centre).reshape(-1, space.groups, space.n)
    offset = slopes.reshape(len(slopes), -1) @ space.centre

    def largest(slope: np.ndarray) -> np.ndarray:
        """The most that the weights can make of a slope: they fill up where it is steepest."""
        order = np.argsort(-slope, axis=2, kind="stable")
        room = (high - low)[order]
        before = np.cumsum(room, axis=2) - room
        filled = np.clip(1.0 - low.sum() - before, 0.0, room)
        return (np.take_along_axis(slope, order, axis=2) * (low[order] + filled)).sum((1, 2))

    return -largest(-slopes) - offset, largest(slopes) - offset
