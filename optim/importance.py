"""Which weights go with an objective: rank correlations over the candidates of a search.

Correlations describe the candidates that were evaluated, not what would happen elsewhere: weights
that sum to 1 cannot move alone, and a search does not spread its points evenly.
"""

from __future__ import annotations

import numpy as np


def rank_correlations(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [d]: Spearman's rank correlation (Spearman 1904) of each column of weights,
    float64 [k, d], with values, float64 [k]. Equal values share their mean rank; 0 for a column
    that never changes, and NaN for fewer than three candidates. Raises ValueError for numbers that
    are not finite."""
    if not (np.isfinite(weights).all() and np.isfinite(values).all()):
        raise ValueError("weights and values must be finite")
    if len(values) < 3:
        return np.full(weights.shape[1], np.nan)
    across = np.column_stack([_ranks(column) for column in weights.T])
    up = _ranks(values)
    across, up = across - across.mean(axis=0), up - up.mean()
    scale = np.sqrt((across**2).sum(axis=0) * (up**2).sum())
    return np.divide(up @ across, scale, out=np.zeros(across.shape[1]), where=scale > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """float64 [k]: ranks from 0, equal values sharing their mean."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[at]
