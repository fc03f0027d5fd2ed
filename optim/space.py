"""The set of weight vectors that a search may suggest: {w : Σ w_i = 1, lower <= w_i <= upper}.

Knows the set's geometry (projection, an orthonormal basis of its hyperplane, a grid of writable
numbers) and nothing of searchers. It must never return a vector outside the set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

#: suggested weights are multiples of 1/GRID, so the number that people read is the one used
GRID = 1_000_000
#: how far from the set a vector may lie and still count as inside (rounding of stored floats)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Space:
    """Weights of n parents; (0, 1) is the simplex, wider bounds an affine box.

    Raises ValueError when no weight vector (or, rounded to the grid, none) fits the bounds.
    """

    n: int
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"space.n: {self.n}, needs at least one parent")
        for name in ("lower", "upper"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"space.{name}: {getattr(self, name)} is not finite")
        if self.lower > self.upper:
            raise ValueError(f"space.lower: {self.lower} is above space.upper {self.upper}")
        if not self._grid_lower * self.n <= GRID <= self._grid_upper * self.n:
            raise ValueError(
                f"space: {self.n} weights between {self.lower} and {self.upper} cannot sum to 1"
            )

    @classmethod
    def simplex(cls, n: int) -> Space:
        """Convex combinations: no weight below 0."""
        return cls(n, 0.0, 1.0)

    @classmethod
    def affine(cls, n: int, lower: float = -0.5, upper: float = 1.5) -> Space:
        """Weights may leave the simplex on both sides, as far as the box allows."""
        return cls(n, lower, upper)

    @property
    def _grid_lower(self) -> int:
        return math.ceil(round(self.lower * GRID, 3))

    @property
    def _grid_upper(self) -> int:
        return math.floor(round(self.upper * GRID, 3))

    @cached_property
    def centre(self) -> np.ndarray:
        """float64 [n]: the uniform soup, which every non-empty space of this form contains."""
        return np.full(self.n, 1.0 / self.n)

    @cached_property
    def basis(self) -> np.ndarray:
        """float64 [n, n-1]: orthonormal columns spanning {d : Σ d_i = 0} (Helmert's contrasts).

        Written out rather than decomposed, so that every machine has the same one.
        """
        columns = np.zeros((self.n, self.n - 1))
        for j in range(1, self.n):
            columns[:j, j - 1] = 1.0
            columns[j, j - 1] = -j
            columns[:, j - 1] /= math.sqrt(j * (j + 1))
        return columns

    def embed(self, z: ArrayLike) -> np.ndarray:
        """float64 [n] on the hyperplane Σ w_i = 1 for coordinates z [n-1]; not clipped."""
        return self.centre + self.basis @ np.asarray(z, dtype=np.float64)

    def coordinates(self, w: ArrayLike) -> np.ndarray:
        """float64 [n-1]: inverse of `embed`; the part of w off the hyperplane is dropped."""
        return self.basis.T @ (np.asarray(w, dtype=np.float64) - self.centre)

    def contains(self, w: ArrayLike, tolerance: float = TOLERANCE) -> bool:
        """Whether w [n] lies in the set, each bound and the sum to within `tolerance`."""
        w_n = np.asarray(w, dtype=np.float64)
        return bool(
            w_n.shape == (self.n,)
            and np.isfinite(w_n).all()
            and abs(w_n.sum() - 1.0) <= tolerance * self.n
            and w_n.min() >= self.lower - tolerance
            and w_n.max() <= self.upper + tolerance
        )

    def project(self, x: ArrayLike) -> np.ndarray:
        """float64 [n]: the point of the set nearest to x [n] in Euclidean distance.

        It is clip(x − t, lower, upper) for the one t that makes the sum 1: the sum falls
        piecewise linearly in t, with a knot where a weight meets a bound (Held, Wolfe & Crowder
        1974 for the simplex). Raises ValueError for a wrong length or a value that is not finite.
        """
        x_n = np.asarray(x, dtype=np.float64)
        if x_n.shape != (self.n,) or not np.isfinite(x_n).all():
            raise ValueError(f"weights: needs {self.n} finite numbers, not {x_n.tolist()}")
        x_n = x_n - x_n.max()
        knots = np.sort(np.concatenate([x_n - self.lower, x_n - self.upper]))
        sums = np.clip(x_n - knots[:, None], self.lower, self.upper).sum(axis=1)
        right = int(np.searchsorted(-sums, -1.0))
        if right == 0 or sums[min(right, 2 * self.n - 1)] == 1.0:
            t = knots[right]
        elif right == 2 * self.n:
            t = knots[-1]
        else:
            left = right - 1
            share = (sums[left] - 1.0) / (sums[left] - sums[right])
            t = knots[left] + share * (knots[right] - knots[left])
        w_n = np.clip(x_n - t, self.lower, self.upper)
        free = (w_n > self.lower) & (w_n < self.upper)
        if free.any():  # a far x leaves rounding error in the sum
            w_n[free] += (1.0 - w_n.sum()) / free.sum()
        return np.clip(w_n, self.lower, self.upper)

    def round(self, w: ArrayLike) -> tuple[float, ...]:
        """The grid point next to w, a point of the set: what is suggested, stored and published.

        Largest-remainder rounding within the bounds: each weight moves by less than two grid
        steps, the decimals sum to 1 exactly, and differences in a machine's last bits vanish.
        """
        scaled = np.asarray(w, dtype=np.float64) * GRID
        whole = np.clip(np.rint(scaled), self._grid_lower, self._grid_upper).astype(np.int64)
        while missing := GRID - int(whole.sum()):
            step = 1 if missing > 0 else -1
            room = whole < self._grid_upper if step > 0 else whole > self._grid_lower
            error = np.where(room, step * (scaled - whole), -np.inf)
            # many ties (the uniform soup): the first parents take the remainder
            whole[np.argsort(-error, kind="stable")[: min(abs(missing), int(room.sum()))]] += step
        return tuple((whole / GRID).tolist())


def check_weights(space: Space, weights: Sequence[float], *, field: str) -> None:
    """Raise ValueError naming `field` unless the weights lie in the space (to 1e-6)."""
    if not space.contains(weights, tolerance=1e-6):
        raise ValueError(
            f"{field}: {list(weights)} is not {space.n} weights between {space.lower} and "
            f"{space.upper} that sum to 1"
        )
