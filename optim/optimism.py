"""Optimism of the best of K: by how much the winner's own score flatters it.

Who wins among many is also who was lucky with the items. Scores on other items (validation after
the search, test after validation) are free of it.
"""

from __future__ import annotations

import numpy as np


def optimism_bound(errors: np.ndarray) -> float | None:
    """What the expected optimism of the best of K cannot exceed, in the unit of `errors`.

    errors: float [K], standard errors of the candidates' scores, each against the same comparator
    on the same items (√(v/n), v the variance per item of the difference). With equal errors this
    is √(2 ln K · v/n) (the maximal inequality for sub-Gaussian sums, e.g. Boucheron, Lugosi &
    Massart 2013, 2.5); in general the least of (ln Σ exp(b²·error²/2)) / b over b > 0, so that
    one noisy candidate does not widen it for all. True optimism is about 0.7 to 0.9 of it, and
    less the more alike the candidates are. 0 for K = 1; None for K = 0.
    Raises ValueError for errors below 0 or not finite.
    """
    known = np.asarray(errors, dtype=np.float64)
    if known.ndim != 1 or not np.isfinite(known).all() or (known < 0).any():
        raise ValueError(f"errors: not finite numbers of at least 0: {known}")
    if not len(known):
        return None
    largest = float(known.max())
    if len(known) == 1 or largest == 0:
        return 0.0
    return largest * _least(known / largest)


def _least(shares: np.ndarray) -> float:
    """min over b of ln Σ exp(b²s²/2) / b, for s in [0, 1] with maximum 1.

    The sum's logarithm is convex in b, so the quotient falls and then rises: a search by thirds
    finds its lowest point, which for equal s is b = √(2 ln K).
    """
    low, high = np.log(0.1), np.log(20.0 + 2 * np.sqrt(2 * np.log(len(shares))))

    def at(log_b: float) -> float:
        b = float(np.exp(log_b))
        return float(np.logaddexp.reduce(b * b * shares**2 / 2) / b)

    for _ in range(80):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if at(first) < at(second):
            high = second
        else:
            low = first
    return at((low + high) / 2)


def standard_errors(resampled: np.ndarray) -> np.ndarray:
    """float64 [K]: of K candidates' scores against their common mean, from float [B, K] of B
    resamples of the items; what moves all of them alike flatters nobody."""
    if resampled.ndim != 2 or len(resampled) < 2:
        raise ValueError(f"resampled: {resampled.shape} is not [B, K] with B > 1")
    return np.asarray((resampled - resampled.mean(axis=1, keepdims=True)).std(axis=0, ddof=1))
