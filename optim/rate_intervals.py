"""95 % intervals of every rate of `optim.compatibility`, each over its own denominator.

Closed forms, fast enough for every trial of a study. Where items share contexts, items are worth
less (`optim.effective`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import numpy as np

from optim.compatibility import FRACTIONS, RATES, Compatibility, Derived, check_same_items
from optim.intervals import (
    CONFIDENCE,
    NONE,
    Clusters,
    Interval,
    cluster_numbers,
    clustered_share,
    wilson,
)
from optim.predictions import Predictions

#: (low, high, n): the interval and the items that it rests on
Bounds = tuple[float | None, float | None, int]
#: rates that are no share of their denominator
ODDS, RELATIVE = "win_loss_ratio", "relative_negative_flip_rate"


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterCounts(Derived):
    """The counts of `Compatibility` in each of C clusters of items: int64 [C]."""

    n: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    both_right: np.ndarray
    both_wrong_alike: np.ndarray
    both_wrong_differently: np.ndarray

    def total(self) -> Compatibility:
        """The counts of all clusters together."""
        return Compatibility(**{f.name: int(getattr(self, f.name).sum()) for f in fields(self)})


def cluster_counts(old: Predictions, new: Predictions, clusters: Clusters | None) -> ClusterCounts:
    """The counts of one suite in every cluster, one label an item; None: each item by itself.

    Raises ValueError for a `text` suite, and when items or labels do not fit.
    """
    check_same_items(old, new)
    if old.form == "text":
        raise ValueError("form: a text suite has no flips")
    assert old.correct is not None
    assert new.correct is not None
    assert old.answer is not None
    assert new.answer is not None
    was, now = old.correct.astype(bool), new.correct.astype(bool)
    if clusters is not None and len(clusters) != len(was):
        raise ValueError(f"clusters: {len(clusters)} labels for {len(was)} items")
    wrong, same = ~was & ~now, old.answer == new.answer
    at, count = (np.arange(len(was)), len(was)) if clusters is None else cluster_numbers(clusters)

    def summed(mask: np.ndarray) -> np.ndarray:
        return np.bincount(at[mask], minlength=count)

    return ClusterCounts(
        n=summed(np.ones(len(was), bool)),
        negative=summed(was & ~now),
        positive=summed(~was & now),
        both_right=summed(was & now),
        both_wrong_alike=summed(wrong & same),
        both_wrong_differently=summed(wrong & ~same),
    )


def joined(parts: Sequence[ClusterCounts]) -> ClusterCounts:
    """The clusters of several suites side by side: suites have no cluster in common."""
    names = [f.name for f in fields(ClusterCounts)]
    return ClusterCounts(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def rate_intervals(counts: Compatibility) -> dict[str, Bounds]:
    """Intervals of independent items, by rate; (None, None, 0) where a rate is undefined.

    Shares: Wilson (1927) over their own denominator. Win-loss ratio: the Wilson interval of the
    share p of positive ones among all flips, as p / (1 − p). Relative NFR: normal on its
    logarithm (delta method), with ½ added to every count where one is 0, so that its upper bound
    is known even without a negative flip.
    """
    found: dict[str, Bounds] = {}
    for name in RATES:
        part, whole = FRACTIONS[name](counts)
        if not whole:
            found[name] = (*NONE, 0)
        elif name == ODDS:
            found[name] = (*_odds(wilson(part, part + whole)), part + whole)
        elif name == RELATIVE:
            found[name] = (*_relative(counts), counts.n)
        else:
            found[name] = (*wilson(part, whole), whole)
    return found


def clustered_rate_intervals(counts: ClusterCounts) -> dict[str, Bounds]:
    """Intervals where items are in clusters, by rate: `intervals.clustered_share` for shares,
    and from it the win-loss ratio's; for the relative NFR the sandwich error of its logarithm.

    n stays the number of items. (None, None) where a rate is undefined; a single cluster says
    nothing: (0, 1), or (0, None) for a ratio.
    """
    total = counts.total()
    found: dict[str, Bounds] = {}
    plain = rate_intervals(total)
    for name in RATES:
        n = plain[name][2]
        part, whole = FRACTIONS[name](counts)
        if not n:
            found[name] = (*NONE, 0)
        elif name == RELATIVE:
            found[name] = (*_relative_clusters(counts, total), n)
        elif name == ODDS:
            found[name] = (*_odds(clustered_share(part, part + whole)), n)
        else:
            found[name] = (*clustered_share(part, whole), n)
    return found


def _odds(share: Interval) -> tuple[float, float | None]:
    """p / (1 − p); None for an end that has no finite value."""
    low, high = share
    return low / (1 - low), high / (1 - high) if high < 1 else None


def _relative(counts: Compatibility) -> Interval:
    cells = np.array(
        [counts.negative, counts.both_right, counts.both_wrong, counts.positive], dtype=np.float64
    )
    if not cells[:3].all():
        cells += 0.5
    broken, kept, wrong, _ = cells
    n, right_before, wrong_after = cells.sum(), broken + kept, broken + wrong
    of_each = 1 / n - np.array([1 / right_before + 1 / wrong_after - 1 / broken,
                                1 / right_before, 1 / wrong_after, 0.0])  # fmt: skip
    error = math.sqrt(float(cells @ of_each**2))
    if not counts.negative:
        return 0.0, float(broken * n / (right_before * wrong_after)) * _times(error)
    value = counts.rate(RELATIVE)
    assert value is not None
    return value / _times(error), value * _times(error)


def _relative_clusters(counts: ClusterCounts, total: Compatibility) -> tuple[float, float | None]:
    if len(counts.n) < 2:
        return 0.0, None
    if not total.negative:
        return _relative(total)
    value = total.rate(RELATIVE)
    assert value is not None
    of_each = (
        counts.negative / total.negative
        + counts.n / total.n
        - counts.right_before / total.right_before
        - counts.wrong_after / total.wrong_after
    )
    clusters = len(counts.n)
    error = math.sqrt(clusters / (clusters - 1) * float(of_each @ of_each))
    return value / _times(error), value * _times(error)


def _times(error: float) -> float:
    return math.exp(NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error)
