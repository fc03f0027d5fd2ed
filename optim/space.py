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
        """float64 [n, n − 1]: orthonormal columns that leave the sum of a row alone.

        Helmert's contrasts, written out rather than decomposed, so that every machine has the
        same ones.
        """
        columns = np.zeros((self.n, self.n - 1))
        for j in range(1, self.n):
            columns[:j, j - 1] = 1.0
            columns[j, j - 1] = -j
            columns[:, j - 1] /= math.sqrt(j * (j + 1))
        return columns

    def repeated(self, weights: Sequence[float]) -> tuple[float, ...]:
        """[size]: one row [n] in every group, so the same combination of whole models."""
        return tuple(weights) * self.groups

    def embed(self, z: ArrayLike) -> np.ndarray:
        """float64 [..., size], rows that sum to 1, for coordinates z [..., dimension]; not
        clipped."""
        z_n = np.asarray(z, dtype=np.float64)
        rows = z_n.reshape(*z_n.shape[:-1], self.groups, self.n - 1) @ self.basis.T
        return self.centre + rows.reshape(*z_n.shape[:-1], self.size)

    def coordinates(self, w: ArrayLike) -> np.ndarray:
        """float64 [..., dimension]: inverse of `embed`; what is off the hyperplanes is dropped."""
        w_n = np.asarray(w, dtype=np.float64) - self.centre
        rows = w_n.reshape(*w_n.shape[:-1], self.groups, self.n) @ self.basis
        return rows.reshape(*w_n.shape[:-1], self.dimension)

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
        """float64 [..., size]: the points of the set nearest, by Euclid, to x [..., size].

        Raises ValueError for a wrong length or a value that is not finite.
        """
        x_n = np.asarray(x, dtype=np.float64)
        if x_n.shape[-1:] != (self.size,) or not np.isfinite(x_n).all():
            raise ValueError(f"weights: needs {self.size} finite numbers, not {x_n.tolist()}")
        return self._project_rows(x_n.reshape(-1, self.n)).reshape(x_n.shape)

    def _project_rows(self, x: np.ndarray) -> np.ndarray:
        """clip(x − t, lower, upper) of rows [r, n], for the one t a row that makes its sum 1: the
        sum falls piecewise linearly in t, with a knot where a weight meets a bound (Held, Wolfe &
        Crowder 1974 for the simplex)."""
        x = x - x.max(axis=1, keepdims=True)
        knots = np.concatenate([x - self.high, x - self.low], axis=1)
        order = np.argsort(knots, axis=1, kind="stable")
        knots = np.take_along_axis(knots, order, axis=1)
        # a weight leaves its upper bound at its first knot and meets its lower one at its second
        free = np.cumsum(np.where(order < self.n, 1, -1), axis=1)
        falls = np.cumsum(free[:, :-1] * np.diff(knots, axis=1), axis=1)
        sums = self.high.sum() - np.concatenate([np.zeros((len(x), 1)), falls], axis=1)
        right = np.clip((sums > 1.0).sum(axis=1), 1, 2 * self.n - 1)[:, None]
        at, before = (np.take_along_axis(knots, i, axis=1) for i in (right, right - 1))
        low, high = (np.take_along_axis(sums, i, axis=1) for i in (right, right - 1))
        fall = np.where(high > low, high - low, 1.0)
        w = np.clip(
            x - before - np.clip((high - 1.0) / fall, 0, 1) * (at - before), self.low, self.high
        )
        inside = (w > self.low) & (w < self.high)  # a far x leaves rounding error in the sum
        missing = (1.0 - w.sum(axis=1)) / np.maximum(inside.sum(axis=1), 1)
        return np.clip(np.where(inside, w + missing[:, None], w), self.low, self.high)

    def round(self, w: ArrayLike) -> tuple[float, ...]:
        """The grid point next to w, a point of the set: what is suggested, stored and published.

        Largest-remainder rounding within the bounds: each weight moves by less than two grid
        steps, the decimals of a row sum to 1 exactly, and differences in a machine's last bits
        vanish.
        """
        return self._round_all(np.asarray(w, dtype=np.float64))[0]

    def _round_all(self, w: np.ndarray) -> list[tuple[float, ...]]:
        scaled = w.reshape(-1, self.n) * GRID
        low, high = self._grid_low, self._grid_high
        whole = np.clip(np.rint(scaled), low, high).astype(np.int64)
        while (missing := GRID - whole.sum(axis=1, keepdims=True)).any():
            step = np.sign(missing)
            room = np.where(step > 0, whole < high, whole > low)
            error = np.where(room, step * (scaled - whole), -np.inf)
            # many ties (the uniform soup): the first parents take the remainder
            place = np.argsort(np.argsort(-error, axis=1, kind="stable"), axis=1, kind="stable")
            whole += step * (room & (place < np.abs(missing)))
        return [tuple(row) for row in (whole / GRID).reshape(-1, self.size).tolist()]

    def place(self, x: ArrayLike) -> tuple[float, ...]:
        """The grid point next to the point of the set that is nearest to x [size]."""
        return self.round(self.project(x))

    def place_all(self, points: ArrayLike) -> list[tuple[float, ...]]:
        """`place` of points [k, size], all at once."""
        return self._round_all(self.project(points))


def check_weights(space: Space, weights: Sequence[float], *, field: str) -> None:
    """Raise ValueError naming `field` unless the weights lie in the space (to 1e-6)."""
    if not space.contains(weights, tolerance=1e-6):
        rows = f"{space.groups} times {space.n}" if space.groups > 1 else f"{space.n}"
        raise ValueError(
            f"{field}: {list(weights)} is not {rows} weights between {space.lower} and "
            f"{space.upper} that sum to 1"
        )
