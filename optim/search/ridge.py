"""Kernel ridge regression of many targets on the same points: one factorisation for all of them.

Targets are the items of a study (margins) or its objectives, points are weight vectors. Gives
leave-one-out predictions exactly and for free, which is what tells whether to believe the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: prior variance of a constant, as a multiple of that of the rest: next to no penalty on the mean
CONSTANT = 1e3


@dataclass(frozen=True)
class Kernel:
    """k(x, y) = constant + x·y + quadratic · (x·y)² + bumps · Matérn_5/2(|x − y| / scale).

    Distances are in units of `spread`, the root mean square distance of the fitted points from
    their mean, so that one set of constants fits narrow and wide searches.
    """

    quadratic: float
    bumps: float
    scale: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float64 [a, b] for points [a, d] and [b, d], centred and in units of the spread."""
        dot = x @ y.T
        found = CONSTANT + dot + self.quadratic * dot**2
        if self.bumps:
            square = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * dot
            r = np.sqrt(5.0 * np.maximum(square, 0.0)) / self.scale
            found += self.bumps * (1 + r + r**2 / 3) * np.exp(-r)
        return found

    def own(self, x: np.ndarray) -> np.ndarray:
        """float64 [a]: k(x, x)."""
        square = (x**2).sum(1)
        return CONSTANT + square + self.quadratic * square**2 + self.bumps


#: what is tried: a quadratic, and two that have room for more
KERNELS = (Kernel(0.1, 0.0, 1.0), Kernel(0.0, 3.0, 2.0), Kernel(0.0, 10.0, 3.0))
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Factors:
    """The points and the factorised kernel; fits any targets."""

    kernel: Kernel
    ridge: float
    points: np.ndarray
    mean: np.ndarray
    spread: float
    #: float64 [n, n]: (K + ridge · I)⁻¹
    inverse: np.ndarray

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float64 [n, t]: dual weights of targets [n, t]; large numbers that nearly cancel, so
        nothing narrower will do."""
        return self.inverse @ targets

    def left_out(self, targets: np.ndarray, dual: np.ndarray) -> np.ndarray:
        """[n, t]: every point's targets as predicted from all others."""
        return targets - dual / np.diag(self.inverse)[:, None]

    def rows(self, points: np.ndarray) -> np.ndarray:
        """float64 [m, n]: times dual weights, the predictions at points [m, d]."""
        return self.kernel((points - self.mean) / self.spread, self.points)

    def variance(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float64 [m]: how far from knowledge a point is, in units of the average fitted point
        when it is left out; 1 is as uncertain as the leave-one-out errors say."""
        prior = self.kernel.own((points - self.mean) / self.spread)
        known = np.einsum("mn,mn->m", rows @ self.inverse, rows)
        # of a left-out point it is 1 / (K + ridge I)⁻¹_ii, the ridge included
        usual = np.median(1.0 / np.diag(self.inverse))
        return np.maximum(prior - known + self.ridge, self.ridge) / usual


def factorised(
    points: np.ndarray,
    kernels: Sequence[Kernel] = KERNELS,
    ridges: Sequence[float] = RIDGES,
) -> Iterator[Factors]:
    """Every kernel with every ridge, on points float64 [n, d]."""
    mean = points.mean(axis=0)
    spread = float(np.sqrt(((points - mean) ** 2).sum(axis=1).mean())) or 1.0
    centred = (points - mean) / spread
    for kernel in kernels:
        values, vectors = np.linalg.eigh(kernel(centred, centred))
        for ridge in ridges:
            inverse = (vectors / (np.maximum(values, 0.0) + ridge)) @ vectors.T
            yield Factors(kernel, ridge, centred, mean, spread, inverse)
