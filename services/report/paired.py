"""Differences between two models on the same items, with their intervals: never two intervals
held side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optim import intervals
from optim.compatibility import Compatibility, compare, pooled
from optim.predictions import Predictions
from services.report.blocks import Number, Unit
from services.studies.record import Split
from services.suites import Suite

#: resampling fewer clusters than this says nothing; items then stand for themselves, as they do in
#: the study's own metrics
FEWEST_CLUSTERS = 5


def difference(suite: Suite, split: Split, old: Predictions, new: Predictions) -> Number:
    """new − old of one suite's score; items of one cluster are resampled together."""
    low, high = intervals.difference_interval(old, new, clusters=_clusters(suite, split))
    if suite.form != "text" and low == high == 0:
        # no item differs: the bootstrap knows nothing, at most so many would have
        high = intervals.wilson(0, len(new))[1]
        low = -high
    unit: Unit = "nats change" if suite.form == "text" else "points"
    return Number(value=new.score() - old.score(), low=low, high=high, n=len(new), unit=unit)


def mean_difference(parts: Sequence[Number]) -> Number:
    """Mean of several suites' differences, every suite weighing the same.

    Suites have no items in common, so the distances from value to bound add in squares (MOVER,
    Zou & Donner 2008), as for the mean score itself.
    """
    values = [part.value or 0.0 for part in parts]
    value, count = math.fsum(values) / len(parts), len(parts)
    n = sum(part.n or 0 for part in parts)
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    if len(lows) < count or len(highs) < count:
        return Number(value=value, n=n, unit=parts[0].unit)
    below = math.sqrt(math.fsum((v - low) ** 2 for v, low in zip(values, lows, strict=True)))
    above = math.sqrt(math.fsum((v - high) ** 2 for v, high in zip(values, highs, strict=True)))
    low, high = value - below / count, value + above / count
    return Number(value=value, low=low, high=high, n=n, unit=parts[0].unit)


def counts(
    suites: Sequence[Suite], old: Mapping[str, Predictions], new: Mapping[str, Predictions]
) -> dict[str, Compatibility]:
    """Flips of every suite with right and wrong answers."""
    scored = [suite.name for suite in suites if suite.form != "text"]
    return {name: compare(old[name], new[name]) for name in scored}


def together(found: Mapping[str, Compatibility]) -> Compatibility:
    """Flips over all suites: every item weighs the same."""
    return pooled(found.values())


def share(k: int, n: int) -> Number:
    """k of n with its Wilson interval; undefined of none."""
    if not n:
        return Number(value=None, n=0)
    low, high = intervals.wilson(k, n)
    return Number(value=k / n, low=low, high=high, n=n)


def _clusters(suite: Suite, split: Split) -> list[tuple[str, str]] | None:
    """A label per item; None where every item stands for itself."""
    items = suite.split(split)
    found = [("cluster", i.cluster) if i.cluster else ("item", i.id) for i in items]
    shared = any(item.cluster for item in items)
    return found if shared and len(set(found)) >= FEWEST_CLUSTERS else None
