"""From per-item predictions to a study's objectives and constraints.

The same definitions as for measured candidates, with probabilities where those have answers: an
item is right with some probability, its answer differs from the reference's with some other.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from optim.search.question import Axis, Bound, Metric, Question

Rates = dict[tuple[str, Metric], np.ndarray]


def forecast(
    question: Question, right: np.ndarray, changed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Objectives [m, k], all minimised, and violations [m] of m candidates.

    `right` float [m, items]: probability of a right answer, or for texts nats per token;
    `changed` float [m, items]: probability of another answer than the reference's (None: not
    needed by any axis or bound).
    """
    rates = _rates(question, right, changed)
    values = np.stack([axis.sign * rates[axis.suite, axis.metric] for axis in question.axes], 1)
    return values, _violations(question, rates)


def needs_changed(question: Question) -> bool:
    """Whether an objective or constraint asks how many answers change."""
    parts: Sequence[Axis | Bound] = (*question.axes, *question.bounds)
    return any(part.metric in ("churn", "inconsistency") for part in parts)


def _rates(question: Question, right: np.ndarray, changed: np.ndarray | None) -> Rates:
    found: Rates = {}
    totals: dict[Metric, np.ndarray] = {}
    start = scored = 0
    for suite in question.suites:
        part = slice(start, start + len(suite))
        start = part.stop
        if suite.form == "text":
            assert suite.tokens is not None
            found[suite.name, "score"] = right[:, part] @ (suite.tokens / suite.tokens.sum())
            continue
        assert suite.reference is not None
        p, old, n = right[:, part], suite.reference.astype(right.dtype), len(suite)
        counts: dict[Metric, np.ndarray] = {"score": p.sum(1)}
        counts["negative_flip_rate"] = old.sum() - p @ old
        counts["positive_flip_rate"] = counts["score"] - p @ old
        if changed is not None:
            flips = counts["negative_flip_rate"] + counts["positive_flip_rate"]
            counts["churn"] = np.maximum(changed[:, part].sum(1), flips)
            counts["inconsistency"] = counts["churn"] - counts["positive_flip_rate"]
        scored += n
        for name, count in counts.items():
            found[suite.name, name] = count / n
            totals[name] = totals.get(name, 0.0) + (count / n if name == "score" else count)
    suites = sum(suite.form != "text" for suite in question.suites)
    for name, total in totals.items():
        if name == "score":
            found["", "macro"] = total / suites
        else:
            found["", name] = total / scored
    return found


def _violations(question: Question, rates: Rates) -> np.ndarray:
    total = np.zeros(len(next(iter(rates.values()))))
    for bound in question.bounds:
        for suite in bound.suites:
            value = rates[suite, bound.metric]
            if bound.confidence is not None:
                z = bound.sign * NormalDist().inv_cdf(bound.confidence)
                value = _confident(question, rates, suite, bound.metric, z)
            total += np.maximum(bound.sign * (value - bound.limit), 0.0)
    return total


def _confident(
    question: Question, rates: Rates, suite: str, metric: Metric, z: float
) -> np.ndarray:
    """One-sided confidence bounds, upper for z > 0: Wilson for shares of items, normal for the
    macro average. For texts the estimate itself: their spread over items is not forecast."""
    value = rates[suite, metric]
    scored = [one for one in question.suites if one.form != "text"]
    if metric == "macro":
        parts = [(rates[one.name, "score"], len(one)) for one in scored]
        variance = sum(p * (1 - p) / n for p, n in parts) / len(parts) ** 2
        return value + z * np.sqrt(np.maximum(variance, 0.0))
    sizes = {one.name: len(one) for one in scored}
    n = sizes.get(suite, 0) if suite else sum(sizes.values())
    if not n:
        return value
    centre = value + z**2 / (2 * n)
    half = z * np.sqrt(np.maximum(value * (1 - value), 0.0) / n + z**2 / (4 * n**2))
    return (centre + half) / (1 + z**2 / n)
