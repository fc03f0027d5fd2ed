"""From per-item predictions to a study's objectives and constraints.

The same definitions as for measured candidates, with probabilities where those have answers: an
item is right with some probability, its answer differs from the reference's with some other.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from optim import intervals
from optim.effective import best_difference, best_share, typical_size
from optim.rates import SHARES, Among, Metric, among, expected, expected_kinds, needs_answers
from optim.search.question import Axis, Bound, Question


def forecast(
    question: Question, right: np.ndarray, changed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Objectives [m, k], all minimised, and violations [m] of m candidates.

    `right` float [m, items]: probability of a right answer, or for texts nats per token;
    `changed` float [m, items]: probability of another answer than the reference's (None: not
    needed by any axis or bound).
    """
    found = _Forecast(question, right, changed)
    values = np.stack([a.sign * found.value(a.metric, a.suite) for a in question.axes], 1)
    violation = np.zeros(len(right))
    for bound in question.bounds:
        for suite in bound.suites:
            missed = bound.sign * (found.bound(bound, suite) - bound.limit)
            violation += np.maximum(missed, 0.0)
    return values, violation


def needs_changed(question: Question) -> bool:
    """Whether an objective or constraint asks how many answers change."""
    parts: Sequence[Axis | Bound] = (*question.axes, *question.bounds)
    return any(part.metric in SHARES and needs_answers(SHARES[part.metric]) for part in parts)


class _Forecast:
    """Expected items of every kind by suite, made when first asked for."""

    def __init__(self, question: Question, right: np.ndarray, changed: np.ndarray | None) -> None:
        ends = np.cumsum([len(suite) for suite in question.suites])[:-1]
        parts = np.split(right, ends, axis=1)
        moved = [None] * len(parts) if changed is None else np.split(changed, ends, axis=1)
        self._parts = {
            suite.name: (suite, p, q)
            for suite, p, q in zip(question.suites, parts, moved, strict=True)
        }
        self._scored = [suite.name for suite in question.suites if suite.form != "text"]
        self._made: dict[tuple[Among, str], dict[str, np.ndarray]] = {}

    def value(self, metric: Metric, suite: str) -> np.ndarray:
        """A metric [m] of one suite, or of all scored ones ('')."""
        if metric == "macro":
            return np.mean([self.value("score", name) for name in self._scored], axis=0)
        if self._is_text(suite):
            return self._nats(suite)
        k, n = self._count(metric, suite)
        return k / n if n else np.full_like(k, SHARES[metric].vacuous)

    def _is_text(self, suite: str) -> bool:
        return bool(suite) and self._parts[suite][0].form == "text"

    def _nats(self, name: str) -> np.ndarray:
        suite, nats, _ = self._parts[name]
        assert suite.tokens is not None
        return np.asarray(nats @ (suite.tokens / suite.tokens.sum()))

    def _names(self, suite: str) -> list[str]:
        return [suite] if suite else self._scored

    def _kinds(self, which: Among, name: str) -> dict[str, np.ndarray]:
        if (which, name) not in self._made:
            suite, right, changed = self._parts[name]
            assert suite.reference is not None
            mask = among(which, len(suite), suite.refuse)
            self._made[which, name] = expected_kinds(right, changed, suite.reference, mask)
        return self._made[which, name]

    def _count(self, metric: str, suite: str) -> tuple[np.ndarray, int]:
        """Expected items [m], out of how many."""
        rate, totals, n = SHARES[metric], [], 0
        for name in self._names(suite):
            part = self._parts[name][0]
            assert part.reference is not None
            totals.append(expected(rate, self._kinds(rate.among, name)))
            n += int(rate.base(part.reference, part.refuse).sum())
        return np.sum(totals, axis=0), n

    def bound(self, bound: Bound, suite: str) -> np.ndarray:
        """One-sided confidence bounds [m], on the side of the limit: Wilson for shares of items,
        normal for the macro average; of what is worse than the reference as measured. Clusters of
        items are taken to vary as little as they can. For texts the estimate itself: their spread
        over items is not forecast."""
        if bound.worse:
            return intervals.upper_bound(*self._worse(bound.metric, suite), bound.confidence)
        value = self.value(bound.metric, suite)
        if bound.confidence is None:
            return value
        if bound.metric == "macro":
            z = bound.sign * NormalDist().inv_cdf(bound.confidence)
            shares = {name: self.value("score", name) for name in self._scored}
            each = [
                p * (1 - p) / best_share(p, len(self._parts[name][0]), self._typical("score", name))
                for name, p in shares.items()
            ]
            variance = np.sum(each, axis=0) / len(each) ** 2
            return value + z * np.sqrt(np.maximum(variance, 0.0))
        if self._is_text(suite):
            return value
        k, n = self._count(bound.metric, suite)
        typical = self._typical(bound.metric, suite)
        worth = None if typical == 1 else best_share(value, n, typical)
        return (
            intervals.wilson_bound(k, n, bound.sign, bound.confidence, worth=worth) if n else value
        )

    def _typical(self, metric: Metric, suite: str) -> float:
        """The typical size of clusters among the items of a rate; 1 where items are independent."""
        parts = [self._parts[name][0] for name in self._names(suite)]
        if all(part.clusters is None for part in parts):
            return 1.0
        masks, labels, start = [], [], 0
        for part in parts:
            assert part.reference is not None
            masks.append(SHARES[metric].base(part.reference, part.refuse))
            own = np.arange(len(part)) if part.clusters is None else part.clusters
            labels.append(own + start)
            start += len(part)
        return typical_size(np.concatenate(masks), np.concatenate(labels))

    def _worse(self, metric: Metric, suite: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By how much each candidate is worse than the reference, with 95 % intervals."""
        if metric == "macro":
            parts = [self._worse("score", name) for name in self._scored]
            return intervals.mover(*(np.stack(ends) for ends in zip(*parts, strict=True)))
        if self._is_text(suite):
            part = self._parts[suite][0]
            assert part.nll is not None
            assert part.tokens is not None
            value = self._nats(suite) - part.nll.sum(dtype=np.float64) / part.tokens.sum()
            return value, value, value
        which = SHARES[metric].among
        kinds = [self._kinds(which, name) for name in self._names(suite)]
        lost = np.sum([k["negative"] for k in kinds], axis=0)
        won = np.sum([k["positive"] for k in kinds], axis=0)
        n, typical = self._count(metric, suite)[1], self._typical(metric, suite)
        value = (lost - won) / max(n, 1)
        worth = None if typical == 1 or not n else best_difference(lost, won, n, typical)
        return value, *intervals.paired_interval(lost, won, n, worth=worth)
