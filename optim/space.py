"""The set of weight vectors that a search may suggest.

One row of n weights, {w : Σ w_i = 1, lower_i <= w_i <= upper_i}, or several such rows, one for each
group of tensors. Knows the set's geometry (projection, an orthonormal basis of its hyperplanes, a
grid of writable numbers) and nothing of searchers. It must never return a vector outside the set.
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
    """Weights of n parents in each of `groups` rows; a vector holds the rows one after another.

    (0, 1) is the simplex, wider bounds an affine box, one pair per parent any box. Raises
    ValueError when no weight vector (or, rounded to the grid, none) fits the bounds.
    """

    n: int
    lower: float | tuple[float, ...] = 0.0
    upper: float | tuple[float, ...] = 1.0
    groups: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"space.n: {self.n}, needs at least one parent")
        if self.groups < 1:
            raise ValueError(f"space.groups: {self.groups}, needs at least one")
        for name in ("lower", "upper"):
            given = getattr(self, name)
            if np.ndim(given) and len(given) != self.n:
                raise ValueError(f"space.{name}: {len(given)} bounds for {self.n} parents")
            if not np.isfinite(given).all():
                raise ValueError(f"space.{name}: {given} is not finite")
        if (self.low > self.high).any():
            raise ValueError(f"space.lower: {self.lower} is above space.upper {self.upper}")
        if not self._grid_low.sum() <= GRID <= self._grid_high.sum():
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

    @classmethod
    def task(cls, n: int, base: int, lower: float = 0.0, upper: float = 1.0) -> Space:
        """Task arithmetic, θ_base + Σ w_i (θ_i − θ_base) with w_i in the box (2212.04089).

        As a linear combination the base weighs 1 − Σ w_i, whatever that is.
        """
        if not 0 <= base < n:
            raise ValueError(f"space.base: {base} is not one of 0 to {n - 1}")
        low, high = [lower] * n, [upper] * n
        low[base], high[base] = 1.0 - (n - 1) * upper, 1.0 - (n - 1) * lower
        return cls(n, tuple(low), tuple(high))

    @property
    def size(self) -> int:
        """How many numbers a weight vector has."""
        return self.groups * self.n

    @property
    def dimension(self) -> int:
        """How many of them are free."""
        return self.groups * (self.n - 1)

    @cached_property
    def low(self) -> np.ndarray:
        """float64 [n]: the smallest weight of every parent."""
        return np.broadcast_to(np.asarray(self.lower, dtype=np.float64), (self.n,))

    @cached_property
    def high(self) -> np.ndarray:
        """float64 [n]: the largest weight of every parent."""
        return np.broadcast_to(np.asarray(self.upper, dtype=np.float64), (self.n,))

    @cached_property
    def _grid_low(self) -> np.ndarray:
        return np.ceil(np.round(self.low * GRID, 3)).astype(np.int64)

    @cached_property
    def _grid_high(self) -> np.ndarray:
        return np.floor(np.round(self.high * GRID, 3)).astype(np.int64)

    @cached_property
    def centre(self) -> np.ndarray:
        """float64 [size]: the uniform soup in every row, or the point nearest to it."""
        uniform = np.full(self.size, 1.0 / self.n)
        return uniform if self.contains(uniform) else self.project(uniform)

    @cached_property
    def basis(self) -> np.ndarray:
        """float64 [size, dimension]: orthonormal columns that leave the sum of every row alone.

        Helmert's contrasts, written out rather than decomposed, so that every machine has the
        same ones.
        """
        columns = np.zeros((self.n, self.n - 1))
        for j in range(1, self.n):
            columns[:j, j - 1] = 1.0
            columns[j, j - 1] = -j
            columns[:, j - 1] /= math.sqrt(j * (j + 1))
        return np.kron(np.eye(self.groups), columns)

    def repeated(self, weights: Sequence[float]) -> tuple[float, ...]:
        """[size]: one row [n] in every group, so the same combination of whole models."""
        return tuple(weights) * self.groups

    def embed(self, z: ArrayLike) -> np.ndarray:
        """float64 [..., size], rows that sum to 1, for coordinates z [..., dimension]; not
        clipped."""
        return self.centre + np.asarray(z, dtype=np.float64) @ self.basis.T

    def coordinates(self, w: ArrayLike) -> np.ndarray:
        """float64 [..., dimension]: inverse of `embed`; what is off the hyperplanes is dropped."""
        return (np.asarray(w, dtype=np.float64) - self.centre) @ self.basis

    def contains(self, w: ArrayLike, tolerance: float = TOLERANCE) -> bool:
        """Whether w [size] lies in the set, each bound and sum to within `tolerance`."""
        w_n = np.asarray(w, dtype=np.float64)
        if w_n.shape != (self.size,) or not np.isfinite(w_n).all():
            return False
        rows = w_n.reshape(self.groups, self.n)
        return bool(
            (np.abs(rows.sum(axis=1) - 1.0) <= tolerance * self.n).all()
            and (rows >= self.low - tolerance).all()
            and (rows <= self.high + tolerance).all()
        )

    def project(self, x: ArrayLike) -> np.ndarray:
        """float64 [..., size]: the points of the set nearest to x [..., size] (Euclidean).

        Each row is clip(x − t, lower, upper) for the one t that makes its sum 1: the sum falls
        piecewise linearly in t, with a knot where a weight meets a bound (Held, Wolfe & Crowder
        1974 for the simplex). Raises ValueError for a wrong length or a value that is not finite.
        """
        given = np.asarray(x, dtype=np.float64)
        if given.shape[-1:] != (self.size,) or not np.isfinite(given).all():
            raise ValueError(f"weights: needs {self.size} finite numbers, not {given.tolist()}")
        rows = given.reshape(-1, self.n)
        rows = rows - rows.max(axis=1, keepdims=True)
        knots = np.sort(np.concatenate([rows - self.low, rows - self.high], axis=1), axis=1)
        shifted = rows[:, None, :] - knots[:, :, None]
        sums = np.clip(shifted, self.low, self.high).sum(axis=2)
        # the first knot at which the sum is no more than 1, and the one before it
        right = np.clip((sums > 1.0).sum(axis=1), 1, 2 * self.n - 1)
        each = np.arange(len(rows))
        ends = sums[each, right - 1], sums[each, right]
        fall = ends[0] - ends[1]
        share = np.divide(ends[0] - 1.0, fall, out=np.zeros(len(rows)), where=fall != 0)
        left, width = knots[each, right - 1], knots[each, right] - knots[each, right - 1]
        t = left + np.clip(share, 0.0, 1.0) * width
        w = np.clip(rows - t[:, None], self.low, self.high)
        free = (w > self.low) & (w < self.high)
        # a far x leaves rounding error in the sum
        error = (1.0 - w.sum(axis=1, keepdims=True)) / np.maximum(free.sum(axis=1), 1)[:, None]
        return np.clip(np.where(free, w + error, w), self.low, self.high).reshape(given.shape)

    def round(self, w: ArrayLike) -> tuple[float, ...]:
        """The grid point next to w, a point of the set: what is suggested, stored and published.

        Largest-remainder rounding within the bounds: each weight moves by less than two grid
        steps, the decimals of a row sum to 1 exactly, and differences in a machine's last bits
        vanish.
        """
        rows = np.asarray(w, dtype=np.float64).reshape(self.groups, self.n) * GRID
        return tuple((np.concatenate([self._round_row(row) for row in rows]) / GRID).tolist())

    def _round_row(self, scaled: np.ndarray) -> np.ndarray:
        low, high = self._grid_low, self._grid_high
        whole = np.clip(np.rint(scaled), low, high).astype(np.int64)
        while missing := GRID - int(whole.sum()):
            step = 1 if missing > 0 else -1
            room = whole < high if step > 0 else whole > low
            error = np.where(room, step * (scaled - whole), -np.inf)
            # many ties (the uniform soup): the first parents take the remainder
            whole[np.argsort(-error, kind="stable")[: min(abs(missing), int(room.sum()))]] += step
        return whole

    def place(self, x: ArrayLike) -> tuple[float, ...]:
        """The grid point next to the point of the set that is nearest to x [size]."""
        return self.round(self.project(x))


def check_weights(space: Space, weights: Sequence[float], *, field: str) -> None:
    """Raise ValueError naming `field` unless the weights lie in the space (to 1e-6)."""
    if not space.contains(weights, tolerance=1e-6):
        rows = f"{space.groups} times {space.n}" if space.groups > 1 else f"{space.n}"
        raise ValueError(
            f"{field}: {list(weights)} is not {rows} weights between {space.lower} and "
            f"{space.upper} that sum to 1"
        )
