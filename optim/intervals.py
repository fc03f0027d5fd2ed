"""How sure a number is: intervals and tests for scores, flips, and differences on the same items.

Fast enough to be called for every trial (a fraction of a millisecond each). Whatever resamples is
seeded, so a number shown twice has the same interval twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from optim.effective import ClusterSums, size_of, wilson_ends
from optim.predictions import Predictions

Interval = tuple[float, float]
#: one label an item: items with the same label share a context
Clusters = Sequence[Hashable] | np.ndarray
NONE = (None, None)
CONFIDENCE = 0.95
RESAMPLES = 1000
#: above so many clusters the linearised normal interval is used: it agrees with the bootstrap
BOOTSTRAP_CLUSTERS = 1024


def wilson(k: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Two-sided Wilson (1927) interval of a share of k in n; (0, 1) for n = 0."""
    if not 0 <= k <= n:
        raise ValueError(f"k: {k} is not between 0 and n = {n}")
    z = _z((1 + _checked(confidence)) / 2)
    if n == 0:
        return 0.0, 1.0
    low, high = (float(end) for end in _wilson_ends(k, n, z))
    return 0.0 if k == 0 else max(0.0, low), 1.0 if k == n else min(1.0, high)


def wilson_bound(
    k: ArrayLike,
    n: ArrayLike,
    sign: float,
    confidence: float,
    *,
    worth: ArrayLike | None = None,
) -> np.ndarray:
    """One-sided Wilson bounds of shares of k in n, arrays of any shapes that fit: upper ones for a
    sign above 0, else lower; 1 and 0 for n = 0.

    k may be expected counts; such as are a rounding error outside 0 to n are taken as at the end.
    `worth`: the effective size of items in clusters, by which the counts are scaled.
    """
    z = _z(_checked(confidence))
    found, size = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if worth is not None:
        share = np.clip(found / np.maximum(size, 1), 0, 1)
        return np.asarray(wilson_ends(share, np.asarray(worth), z)[int(sign > 0)])
    low, high = _wilson_ends(found, np.maximum(size, 1), z)
    if sign > 0:
        return np.where(found >= size, 1.0, np.minimum(1.0, high))
    return np.where(found <= 0, 0.0, np.maximum(0.0, low))


def rescaled(
    value: float, low: float, high: float, confidence: float, *, given: float = CONFIDENCE
) -> Interval:
    """A `given` interval as one of another confidence, each side stretched as a normal's."""
    factor = _z((1 + _checked(confidence)) / 2) / _z((1 + _checked(given)) / 2)
    return value - (value - low) * factor, value + (high - value) * factor


def paired_interval(
    negative: ArrayLike,
    positive: ArrayLike,
    n: ArrayLike,
    confidence: float = CONFIDENCE,
    *,
    worth: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided interval of (negative − positive) / n: by how much a share of n items is worse than
    another of the same items, which differ in `negative` and `positive` flips.

    Wald's, with half an item more in each of the four cells (Agresti & Min 2005), for arrays of any
    shape; not cut off at ±1, so that its middle is the adjusted difference. (0, 0) for n = 0.
    `worth`: the effective size of items in clusters, by which all counts are scaled.
    """
    z = _z((1 + _checked(confidence)) / 2)
    b, c, size = (np.asarray(x, dtype=np.float64) for x in (negative, positive, n))
    if worth is not None:
        share = np.asarray(worth) / np.maximum(size, 1)
        b, c, size = b * share, c * share, size * share
    middle = (b - c) / (size + 2)
    half = z * np.sqrt(np.maximum(b + c + 1 - (b - c) * middle, 0.0)) / (size + 2)
    return np.where(size > 0, middle - half, 0.0), np.where(size > 0, middle + half, 0.0)


def mover(values: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> tuple[Any, Any, Any]:
    """(value, low, high) of the mean of K independent quantities, along the first axis, from their
    intervals: distances from value to bound add in squares (MOVER, Zou & Donner 2008)."""
    v, low, high = (np.asarray(x, dtype=np.float64) for x in (values, lows, highs))
    value = v.mean(axis=0)
    below, above = (np.sqrt(((v - end) ** 2).sum(axis=0)) / len(v) for end in (low, high))
    return value, value - below, value + above


def upper_bound(value: Any, low: Any, high: Any, confidence: float | None) -> np.ndarray:
    """One-sided upper bound from a two-sided 95 % interval: its half width stretched as a normal's,
    about its own middle, and never below the estimate; the estimate where confidence is None."""
    if confidence is None:
        return np.asarray(value)
    factor = _z(_checked(confidence)) / _z((1 + CONFIDENCE) / 2)
    middle, half = (np.asarray(low) + high) / 2, (np.asarray(high) - low) / 2
    return np.maximum(value, middle + factor * half)


def mcnemar(negative: int, positive: int) -> float:
    """Two-sided exact McNemar p-value of two models' flips on the same items; 1 without flips."""
    if negative < 0 or positive < 0:
        raise ValueError(f"flips: {negative} and {positive} are not both 0 or more")
    flips = negative + positive
    if not flips:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(negative, positive), flips, 0.5)))


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike | None = None,
    *,
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | tuple[None, None]:
    """Percentile bootstrap interval of Σ numerators / Σ denominators over N items.

    Items are resampled, or whole clusters (one label per item) where items share a context;
    without denominators the ratio is the mean. Deviations are stretched by √(C/(C−1)) for C
    clusters. Above 1,024 clusters the linearised (sandwich) normal interval stands in.
    (None, None) for fewer than two clusters. Raises ValueError naming what is not usable.
    """
    parts = _by_cluster(numerators, denominators, clusters)
    tails = (1 - _checked(confidence)) / 2
    count = len(parts)
    if count < 2:
        return NONE
    total, size = parts.sum(axis=0)
    value = total / size
    if count > BOOTSTRAP_CLUSTERS:
        residuals = parts[:, 0] - value * parts[:, 1]
        error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / size
        half = -_z(tails) * error
        return float(value - half), float(value + half)
    draws = _resample_counts(count, resamples, seed) @ parts
    sizes = draws[:, 1]
    ratios = np.divide(draws[:, 0], sizes, out=np.full(len(draws), value), where=sizes > 0)
    low, high = np.quantile(ratios, [tails, 1 - tails]) - value
    stretch = math.sqrt(count / (count - 1))
    return float(value + stretch * low), float(value + stretch * high)


def clustered_share(
    hits: np.ndarray, items: np.ndarray, *, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of Σ hits / Σ items over C clusters: Wilson's, of as many items as they are worth.

    The bootstrap of clusters is too narrow where few of them are hit. (0, 1) for fewer than two
    clusters, which say nothing. hits, items: [C], with Σ items above 0.
    """
    sums = ClusterSums.of_shares(hits, items)
    z = _z((1 + _checked(confidence)) / 2)
    low, high = wilson_ends(sums.total / sums.n, sums.shares(), z)
    return (float(low), float(high)) if sums.clusters > 1 else (0.0, 1.0)


def share_bounds(
    value: float, low: float, high: float, n: int, confidence: float
) -> tuple[float, float]:
    """One-sided bounds of a share of n items, each with `confidence`, from its 95 % interval.

    Wilson's: of n items where the interval is Wilson's of n, else of as many as it says.
    """
    two_sided, k = 2 * _checked(confidence) - 1, round(value * n)
    if (low, high) == wilson(k, n):
        return wilson(k, n, two_sided)
    size = size_of(value, low, high, _z((1 + CONFIDENCE) / 2))
    ends = wilson_ends(value, min(size, n), _z(confidence))
    return float(ends[0]), float(ends[1])


def share_interval(
    hits: np.ndarray, *, clusters: Clusters | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the share of hits, bool [N]: Wilson, or `clustered_share` where items share
    contexts."""
    if clusters is None:
        return wilson(int(hits.sum()), len(hits), confidence)
    parts = _by_cluster(hits, None, clusters)
    return clustered_share(parts[:, 0], parts[:, 1], confidence=confidence)


def score_interval(
    predictions: Predictions,
    *,
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
) -> Interval | tuple[None, None]:
    """Interval of `predictions.score()`: Wilson for accuracy, ratio bootstrap for nats per token.

    With clusters, `clustered_share`, and the bootstrap of whole clusters.
    """
    if predictions.form == "text":
        return ratio_interval(
            _filled(predictions.nll),
            _filled(predictions.tokens),
            clusters=clusters,
            confidence=confidence,
        )
    return share_interval(_filled(predictions.correct), clusters=clusters, confidence=confidence)


def difference_interval(
    old: Predictions,
    new: Predictions,
    *,
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | tuple[None, None]:
    """Paired bootstrap interval of new.score() − old.score() on the same items.

    Raises ValueError when the tables are not of the same items, or a text's tokens differ.
    """
    if (old.form, old.items, len(old)) != (new.form, new.items, len(new)):
        raise ValueError(f"items: {new.form} {new.items} is not {old.form} {old.items}")
    sizes = None
    if old.form == "text":
        sizes = _filled(old.tokens)
        if not np.array_equal(sizes, _filled(new.tokens)):
            raise ValueError("tokens: the two models counted different tokens in the same texts")
        before, after = _filled(old.nll), _filled(new.nll)
    else:
        before, after = _filled(old.correct), _filled(new.correct)
    return ratio_interval(
        after.astype(np.float64) - before,
        sizes,
        clusters=clusters,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def macro_interval(
    suites: Sequence[Predictions],
    *,
    clusters: Sequence[Clusters | None] | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[float, float | None, float | None]:
    """(value, low, high) of the mean of several suites' scores, every suite weighing the same.

    `clusters`: for each suite its items' labels, or None where they are independent.

    Combines the suites' own intervals by MOVER (Zou & Donner 2008): the distances from value to
    bound add in squares, as suites have no items in common. Unlike a normal interval it stays
    inside the scores' range and is not empty where a suite is all right or all wrong.
    """
    if not suites:
        raise ValueError("suites: none to average")
    scores = [suite.score() for suite in suites]
    value = math.fsum(scores) / len(scores)
    below = above = 0.0
    labels = clusters or [None] * len(suites)
    for suite, score, own in zip(suites, scores, labels, strict=True):
        low, high = score_interval(suite, clusters=own, confidence=confidence)
        if low is None or high is None:
            return value, None, None
        below += (score - low) ** 2
        above += (high - score) ** 2
    return value, value - math.sqrt(below) / len(scores), value + math.sqrt(above) / len(scores)


def sums_interval(
    parts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | tuple[None, None]:
    """Interval of a smooth statistic of sums over items, such as an agreement beyond chance.

    parts: float [N, k]; `statistic` maps sums, float64 [B, k], to B values, NaN where undefined
    (such resamples do not count). Percentile bootstrap of items, or of whole clusters; above
    1,024 of them the normal interval of the delete-one jackknife (Efron & Stein 1981), which
    agrees with it. (None, None) for fewer than two clusters, or where the value is undefined.
    """
    parts = np.asarray(parts, dtype=np.float64)
    if not np.isfinite(parts).all():
        raise ValueError("items: a value is not finite")
    if clusters is not None:
        parts = np.stack([_by_cluster(column, None, clusters)[:, 0] for column in parts.T], axis=1)
    count, total = len(parts), parts.sum(axis=0)
    value = float(statistic(total[None])[0])
    if count < 2 or not math.isfinite(value):
        return NONE
    tails = (1 - _checked(confidence)) / 2
    if count > BOOTSTRAP_CLUSTERS:
        left = statistic(total - parts)
        left = left[np.isfinite(left)]
        half = -_z(tails) * math.sqrt((count - 1) / count * float(((left - value) ** 2).sum()))
        return value - half, value + half
    found = statistic(_resample_counts(count, resamples, seed) @ parts)
    found = found[np.isfinite(found)]
    if not len(found):
        return NONE
    low, high = np.quantile(found, [tails, 1 - tails]) - value
    stretch = math.sqrt(count / (count - 1))
    return float(value + stretch * low), float(value + stretch * high)


def _wilson_ends(k: Any, n: Any, z: float) -> tuple[Any, Any]:
    """Of a count, or of arrays of them; rounding may leave them outside 0 to 1."""
    share, z2 = k / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return centre - half, centre + half


def _by_cluster(
    numerators: ArrayLike, denominators: ArrayLike | None, clusters: Clusters | None
) -> np.ndarray:
    """float64 [C, 2]: sums of numerators and denominators per cluster, in order of appearance."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top):
        raise ValueError(f"items: {top.shape} numerators for {bottom.shape} denominators")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise ValueError("items: a value is not finite")
    if bottom.min() < 0 or not bottom.sum() > 0:
        raise ValueError("denominators: none is above 0, or one is below")
    parts = np.stack([top, bottom], axis=1)
    if clusters is None:
        return parts
    if len(clusters) != len(top):
        raise ValueError(f"clusters: {len(clusters)} labels for {len(top)} items")
    at, count = cluster_numbers(clusters)
    return np.stack([np.bincount(at, column, minlength=count) for column in parts.T], axis=1)


def cluster_numbers(clusters: Clusters) -> tuple[np.ndarray, int]:
    """(int64 [N], C): every item's cluster by number, in order of appearance, and how many."""
    index: dict[Hashable, int] = {}
    labels = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    at = np.array([index.setdefault(label, len(index)) for label in labels], dtype=np.int64)
    return at, len(index)


@lru_cache(maxsize=4)
def _resample_counts(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """float64 [resamples, clusters]: how often each is drawn with replacement; read only.

    Kept because every trial of a study resamples the same items: at most 8 MB each.
    """
    drawn = np.random.default_rng(seed).integers(0, clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters).astype(np.float64)
    counts.flags.writeable = False
    return counts.reshape(resamples, clusters)


def _filled(array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise ValueError("predictions: the array that the score is the mean of is missing")
    return array


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not between 0 and 1")
    return confidence
