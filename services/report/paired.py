"""Differences between two models on the same items, with their intervals: never two intervals
held side by side. Items that share a context are drawn together, as in the study's own metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optim import intervals
from optim.compatibility import Compatibility
from optim.predictions import Predictions
from optim.rate_intervals import cluster_counts, joined
from optim.rates import SHARES, among
from services.report.blocks import Number, Unit
from services.studies.clusters import of_text
from services.studies.judge import mcnemar_of
from services.studies.tell import Value, compared
from services.suites import Suite

#: labels of the items of every suite, as `services.studies.clusters` gives them
Clusters = Mapping[str, np.ndarray | None]
Answers = Mapping[str, Predictions]


@dataclass(frozen=True, kw_only=True)
class Flips:
    """How the answers of one suite, or of several together, change."""

    counts: Compatibility
    #: shares of all items, of those right before, and of those wrong before
    negative: Number
    positive: Number
    churn: Number
    broken: Number
    mended: Number
    #: exact McNemar p-value; of clusters by the sign of their net flips
    p: float


def difference(old: Predictions, new: Predictions, clusters: np.ndarray | None) -> Number:
    """new − old of one suite's score; items of one cluster are resampled together."""
    if old.form != "text":
        assert old.correct is not None
        assert new.correct is not None
        return _change(new.correct.astype(np.float64) - old.correct, clusters)
    low, high = intervals.difference_interval(old, new, clusters=of_text(clusters))
    value = new.score() - old.score()
    return Number(value=value, low=low, high=high, n=len(new), unit="nats change")


def _change(moved: np.ndarray, clusters: np.ndarray | None) -> Number:
    """The mean of 1 (now a hit), 0 and −1 (now none) over items; undefined without items. A single
    cluster says nothing, as of a share."""
    if not len(moved):
        return Number(value=None, n=0, unit="points")
    drawn = len(moved) if clusters is None else len(np.unique(clusters))
    low, high = intervals.ratio_interval(moved, clusters=clusters)
    if low is None:
        low, high = -1.0, 1.0
    elif not moved.any():
        # no item differs: the bootstrap knows nothing, at most so many would have
        high = intervals.wilson(0, drawn)[1]
        low = -high
    return Number(value=float(moved.mean()), low=low, high=high, n=len(moved), unit="points")


def refusals(name: str, old: Predictions, new: Predictions, clusters: np.ndarray | None) -> Number:
    """By how much a rate of a refusal suite (`optim.rates.REFUSAL_RATES`) grows."""
    assert old.correct is not None
    assert new.correct is not None
    mine = among(SHARES[name].among, len(old), old.refuse)
    wrong = (~new.correct[mine]).astype(np.float64) - ~old.correct[mine]
    return _change(wrong, None if clusters is None else clusters[mine])


def mean_difference(parts: Sequence[Number]) -> Number:
    """Mean of several suites' differences, every suite weighing the same.

    Suites have no items in common, so the distances from value to bound add in squares (MOVER,
    Zou & Donner 2008), as for the mean score itself.
    """
    n, unit = sum(part.n or 0 for part in parts), parts[0].unit
    ends = np.array([(p.value, p.low, p.high) for p in parts], dtype=np.float64)
    if np.isnan(ends).any():
        return Number(value=float(ends[:, 0].mean()), n=n, unit=unit)
    value, low, high = map(float, intervals.mover(*ends.T))
    return Number(value=value, low=low, high=high, n=n, unit=unit)


def flips(
    suites: Sequence[Suite], old: Answers, new: Answers, clusters: Clusters
) -> dict[str, Flips]:
    """Of every suite with right and wrong answers, and under '' of all their items together."""
    names = [suite.name for suite in suites if suite.form != "text"]
    found = {name: _flips([(old[name], new[name], clusters[name])]) for name in names}
    if names:
        found[""] = _flips([(old[name], new[name], clusters[name]) for name in names])
    return found


def _flips(parts: Sequence[tuple[Predictions, Predictions, np.ndarray | None]]) -> Flips:
    counted = joined([cluster_counts(*part) for part in parts])
    rates = compared(parts)
    return Flips(
        counts=counted.total(),
        negative=number_of(rates["negative_flip_rate"]),
        positive=number_of(rates["positive_flip_rate"]),
        churn=number_of(rates["churn"]),
        broken=_rest(rates["backward_trust"]),
        mended=_rest(rates["backward_error"]),
        p=mcnemar_of(counted),
    )


def _rest(kept: Value) -> Number:
    """1 − a share."""
    value, low, high = (
        None if one is None else 1 - one for one in (kept.value, kept.high, kept.low)
    )
    return Number(value=value, low=low, high=high, n=kept.n)


def number_of(value: Value, unit: Unit = "share") -> Number:
    """A measured value as a cell."""
    return Number(value=value.value, low=value.low, high=value.high, n=value.n, unit=unit)


def share(k: int, n: int) -> Number:
    """k of n with its Wilson interval; undefined of none."""
    if not n:
        return Number(value=None, n=0)
    low, high = intervals.wilson(k, n)
    return Number(value=k / n, low=low, high=high, n=n)
