"""How alike two models err, beyond what their accuracies alone would give.

From the probabilities of the options (CAPA), or from right and wrong alone (error consistency).
1: they err alike; 0: as often as independent models; below 0: they make each other's errors good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optim.intervals import Clusters, sums_interval

#: 1 − expected agreement below this is 0 but for rounding
NOTHING_LEFT = 1e-9


@dataclass(frozen=True)
class Agreement:
    """An agreement beyond chance with its 95 % interval over n items; all None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def option_probabilities(options: np.ndarray) -> np.ndarray:
    """float64 [..., K]: each item's options, summing to 1, from `Predictions.options`.

    0 beyond an item's options; float16 rounding is divided out. Raises ValueError for an item
    without options, or one that is not a number.
    """
    found = np.exp(options.astype(np.float64))
    sums = found.sum(axis=-1, keepdims=True)
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise ValueError("options: an item has none, or a probability is not a number")
    return np.asarray(found / sums)


def gold_probability(options: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """float64 [..., N]: probability of the gold option, from options [..., N, K] and int [N].

    Raises ValueError where gold is not the index of an option.
    """
    _check_gold(options, gold)
    index = np.broadcast_to(gold[:, None], (*options.shape[:-1], 1))
    return np.take_along_axis(option_probabilities(options), index, axis=-1)[..., 0]


def capa(
    old: np.ndarray,
    new: np.ndarray,
    gold: np.ndarray,
    *,
    clusters: Clusters | None = None,
) -> Agreement:
    """κ_p, chance adjusted probabilistic alignment (Goel et al. 2025, 2502.04313), with bootstrap.

    κ_p = (c_obs − c_exp) / (1 − c_exp); c_obs = mean over items of Σ_o p1(o)·p2(o); c_exp = P1·P2
    + (1 − P1)(1 − P2) · mean 1 / (|O_x| − 1), P the mean probability of the gold option and |O_x|
    the number of an item's options. old, new: float16 [N, K], `Predictions.options`; gold: int
    [N]. Undefined without items, where an item has a single option, and where nothing is left to
    chance (c_exp = 1: both are sure of gold everywhere).
    Raises ValueError where the options or gold do not fit.
    """
    if old.shape != new.shape or old.ndim != 2:
        raise ValueError(f"options: {new.shape} for {old.shape} of the other model, not [N, K]")
    n = len(old)
    if not n:
        return Agreement(None, None, None, 0)
    many = (old > -np.inf).sum(axis=1)
    if not np.array_equal(many, (new > -np.inf).sum(axis=1)):
        raise ValueError("options: the two models ranked different options of the same items")
    if many.min() < 2:
        return Agreement(None, None, None, n)
    p, q = option_probabilities(old), option_probabilities(new)
    parts = np.stack(
        [
            (p * q).sum(axis=1),
            gold_probability(old, gold),
            gold_probability(new, gold),
            1 / (many - 1),
            np.ones(n),
        ],
        axis=1,
    )

    def kappa(sums: np.ndarray) -> np.ndarray:
        observed, first, second, chance = sums.T[:4] / sums.T[4]
        return _beyond(observed, first * second + (1 - first) * (1 - second) * chance)

    return _agreement(parts, kappa, clusters)


def error_consistency(
    old: np.ndarray, new: np.ndarray, *, clusters: Clusters | None = None
) -> Agreement:
    """Cohen's κ of right and wrong (Geirhos et al. 2020, 2006.16736), with its interval.

    c_obs: share of items that both have right or both wrong; c_exp = a1·a2 + (1 − a1)(1 − a2), a
    the accuracies. old, new: bool [N]. Undefined without items, and where both are right
    everywhere or both wrong everywhere.
    """
    if old.shape != new.shape or old.ndim != 1:
        raise ValueError(f"correct: {new.shape} for {old.shape} of the other model, not [N]")
    if not len(old):
        return Agreement(None, None, None, 0)
    was, now = old.astype(bool), new.astype(bool)
    parts = np.stack([was == now, was, now, np.ones_like(was)], axis=1)

    def kappa(sums: np.ndarray) -> np.ndarray:
        observed, first, second = sums.T[:3] / sums.T[3]
        return _beyond(observed, first * second + (1 - first) * (1 - second))

    return _agreement(parts.astype(np.float64), kappa, clusters)


def _beyond(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(observed − expected) / (1 − expected); NaN where expected is 1."""
    left = 1 - expected
    safe = np.where(left > NOTHING_LEFT, left, np.nan)
    return np.asarray((observed - expected) / safe)


def _agreement(
    parts: np.ndarray,
    kappa: Callable[[np.ndarray], np.ndarray],
    clusters: Clusters | None,
) -> Agreement:
    value = float(kappa(parts.sum(axis=0)[None])[0])
    if not np.isfinite(value):
        return Agreement(None, None, None, len(parts))
    low, high = sums_interval(parts, kappa, clusters=clusters)
    return Agreement(value, low, high, len(parts))


def _check_gold(options: np.ndarray, gold: np.ndarray) -> None:
    many = (options > -np.inf).sum(axis=-1)
    if gold.shape != options.shape[-2:-1] or (gold < 0).any() or (gold >= many).any():
        raise ValueError(f"gold: not one option's index for each of {options.shape[-2]} items")
