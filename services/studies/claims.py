"""What a race bets against, from a study's objectives and constraints: claims about a candidate's
whole suites, each a weighted sum over the items of the suites that have right and wrong answers.

A claim "it is not behind this member of the archive on this objective" is one about paired
differences; a claim "it keeps this constraint" is one about the candidate's own items. Text suites
have no bounded items: what concerns them is compared exactly, once they are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from types import MappingProxyType

import numpy as np

from optim import effective, intervals
from optim.predictions import Predictions
from optim.racing import item_values, most_possible, paired_error
from optim.rates import SHARES, Metric
from services.spec import METRICS, Constraint
from services.studies.clusters import of_text, side_by_side
from services.studies.record import Study
from services.studies.tell import Value, constrained, missed_by, worse_of

#: what one model answered, by suite name
Answers = Mapping[str, Predictions]
#: the cluster of each item, by suite name; None, or no entry, where items are independent
Clusters = Mapping[str, np.ndarray | None]
NONE: Clusters = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """The search split's items of the scored suites in one long vector, and the reference's
    answers to them."""

    #: suite -> its part of the vector
    parts: Mapping[str, slice]
    #: bool and uint64 [N]
    was: np.ndarray
    before: np.ndarray
    #: suite -> bool: a refusal is right; None for suites of other forms
    refuse: Mapping[str, np.ndarray | None]
    #: int64 [N]: clusters of all suites; None where all items are independent
    clusters: np.ndarray | None = None

    @classmethod
    def of(cls, study: Study, reference: Answers, clusters: Clusters = NONE) -> Items:
        """The items of a study whose reference is known."""
        parts, start = {}, 0
        for suite in study.scored:
            parts[suite.name] = slice(start, start + len(reference[suite.name]))
            start = parts[suite.name].stop
        was, before = _joined(parts, reference)
        refuse = {name: reference[name].refuse for name in parts}
        at = side_by_side([(p.stop - p.start, clusters.get(name)) for name, p in parts.items()])
        return cls(parts=parts, was=was, before=before, refuse=refuse, clusters=at)

    def __len__(self) -> int:
        return len(self.was)

    def values(self, metric: Metric, answers: Answers) -> np.ndarray:
        """float64 [N]: what each item of another model adds to a rate."""
        return item_values(metric, self.was, self.before, *_joined(self.parts, answers))

    def own(self, metric: Metric) -> np.ndarray:
        """float64 [N]: the reference's values."""
        return item_values(metric, self.was, self.before, self.was, self.before)

    def weights(self, metric: Metric, suite: str | None) -> np.ndarray:
        """float64 [N], sum 1: what each item weighs in a metric of one suite or of all. All 0 where
        the items leave it undefined."""
        rate = SHARES["score" if metric == "macro" else metric]
        found = np.zeros(len(self))
        for name, part in self.parts.items():
            if suite in (None, name):
                found[part] = rate.base(self.was[part], self.refuse[name])
                if metric == "macro":
                    found[part] /= (part.stop - part.start) * len(self.parts)
        total = 1.0 if metric == "macro" else float(found.sum())
        return found / total if total else found

    def typical(self, weights: np.ndarray) -> float:
        """The typical size of clusters, of the items that weigh something; 1 where items are
        independent."""
        return 1.0 if self.clusters is None else effective.typical_size(weights > 0, self.clusters)


def _joined(parts: Mapping[str, slice], answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    right = [np.asarray(answers[name].correct, dtype=bool) for name in parts]
    said = [np.asarray(answers[name].answer, dtype=np.uint64) for name in parts]
    if not parts:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=np.uint64)
    return np.concatenate(right), np.concatenate(said)


@dataclass(frozen=True, kw_only=True, eq=False)
class Claim:
    """Σ weights · (sign · value − base) ≤ limit, over all items."""

    metric: Metric
    sign: float
    weights: np.ndarray = field(repr=False)
    base: np.ndarray = field(repr=False)
    #: the least that each term can be
    floors: np.ndarray = field(repr=False)
    limit: float


def _claim(
    items: Items,
    metric: Metric,
    sign: float,
    weights: np.ndarray,
    base: np.ndarray,
    limit: float,
) -> Claim:
    least = np.minimum(0.0, sign * most_possible(metric, items.was))
    return Claim(
        metric=metric,
        sign=sign,
        weights=weights,
        base=base,
        floors=weights * (least - base),
        limit=limit,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A member of the archive: the candidate is stopped if it is behind it on every objective."""

    number: int
    claims: tuple[Claim, ...]
    #: text suite -> nats per token, sign
    texts: Mapping[str, tuple[float, float]]


def members(
    study: Study, items: Items, archive: Mapping[int, Answers], margin: float | None
) -> list[Member]:
    """The claims about every member; `margin` as in the spec, for objectives that are shares."""
    found = {number: list[Claim]() for number in archive}
    texts = {number: dict[str, tuple[float, float]]() for number in archive}
    for axis, sign in zip(study.spec.axes, study.signs, strict=True):
        if axis.suite is not None and study.form(axis.suite) == "text":
            for number, answers in archive.items():
                texts[number][axis.suite] = (answers[axis.suite].score(), sign)
            continue
        weights = items.weights(axis.metric, axis.suite)
        values = {n: items.values(axis.metric, answers) for n, answers in archive.items()}
        models = np.array([*values.values(), items.own(axis.metric)])
        error = paired_error(models, weights, items.clusters)
        limit = error if margin is None else margin
        for number, one in values.items():
            found[number].append(_claim(items, axis.metric, sign, weights, sign * one, limit))
    return [Member(number=n, claims=tuple(found[n]), texts=texts[n]) for n in archive]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A constraint on one suite ('' for all): the candidate is stopped if it cannot keep it."""

    constraint: Constraint
    suite: str
    #: None for a text suite
    claim: Claim | None
    #: `Items.typical` of the items that it is about
    typical: float = 1.0

    @property
    def label(self) -> str:
        """The constraint in words."""
        c = self.constraint
        return f"{c.metric}{':' + self.suite if self.suite else ''} {c.words}"


def constraints(study: Study, items: Items) -> list[Kept]:
    """The constraints of a study, but for those that no candidate could keep on so few items."""
    found = []
    for constraint in study.spec.constraints:
        for suite in constrained(study, constraint):
            if suite and study.form(suite) == "text":
                found.append(Kept(constraint=constraint, suite=suite, claim=None))
                continue
            weights = items.weights(constraint.metric, suite or None)
            n = int((weights > 0).sum())
            typical = items.typical(weights)
            limit = _limit(constraint, n, typical) if n else None
            if limit is not None:
                sign, base = 1.0 if constraint.upper else -1.0, np.zeros(len(items))
                if constraint.at_most_worse is not None:
                    sign = 1.0 if METRICS[constraint.metric] == "minimize" else -1.0
                    base = sign * items.own(constraint.metric)
                claim = _claim(items, constraint.metric, sign, weights, base, limit)
                found.append(Kept(constraint=constraint, suite=suite, claim=claim, typical=typical))
    return found


def _limit(constraint: Constraint, n: int, typical: float) -> float | None:
    """The worst whole-suite value that keeps a constraint, times −1 for a lower bound.

    Of items in clusters, if they vary as little as they can: more is not known beforehand.
    """
    if constraint.metric == "macro":
        # its interval needs more than the value; where the value misses, the bound does too
        return constraint.limit if constraint.upper else -constraint.limit
    if constraint.at_most_worse is not None:
        return _worst(constraint, n, typical)
    # as it gets worse item by item, it is kept up to some count: bisect
    upper = constraint.upper
    kept, missed = -1, n + 1
    while missed - kept > 1:
        middle = (kept + missed) // 2
        right = middle if upper else n - middle
        if missed_by(constraint, of_count(right, n, typical)) <= 0:
            kept = middle
        else:
            missed = middle
    if kept < 0:
        return None
    return kept / n if upper else -(n - kept) / n


def _worst(constraint: Constraint, n: int, typical: float) -> float | None:
    """How much worse than the reference a candidate can be and keep the constraint: with flips one
    way only, which leave the least doubt."""
    lost = np.arange(-n, n + 1)
    bound = lost / n
    if constraint.confidence is not None:
        ends = _of_flips(np.maximum(lost, 0), np.maximum(-lost, 0), n, typical)
        bound = intervals.upper_bound(bound, *ends, constraint.confidence)
    kept = lost[bound <= constraint.limit]
    if not len(kept):
        return None
    # among those that are better, more flips may leave less doubt of clusters
    return float(kept.max()) / n if typical == 1 else max(float(kept.max()), 0.0) / n


def _of_flips(
    lost: np.ndarray, won: np.ndarray, n: int, typical: float
) -> tuple[np.ndarray, np.ndarray]:
    worth = None if typical == 1 else effective.best_difference(lost, won, n, typical)
    return intervals.paired_interval(lost, won, n, worth=worth)


def of_flips(lost: float, won: float, n: int, typical: float = 1.0) -> Value:
    """What is worse by so many of n items that are wrong now, and right now; of items in clusters
    of a `typical` size, if they vary as little as they can."""
    low, high = _of_flips(np.asarray(lost), np.asarray(won), n, typical)
    return Value((lost - won) / n, float(low), float(high), n)


def of_count(count: int, n: int, typical: float = 1.0) -> Value:
    """A rate of so many in n items; of items in clusters, if they vary as little as they can."""
    if typical == 1:
        return Value(count / n, *intervals.wilson(count, n), n=n)
    z = NormalDist().inv_cdf((1 + intervals.CONFIDENCE) / 2)
    low, high = effective.wilson_ends(count / n, effective.best_share(count / n, n, typical), z)
    return Value(count / n, float(low), float(high), n)


def text_missed(
    kept: Kept, found: Predictions, reference: Predictions, clusters: np.ndarray | None = None
) -> float:
    """How far a scored text suite misses its constraint."""
    if kept.constraint.at_most_worse is not None:
        value = worse_of("score", [(reference, found, clusters)])
        return missed_by(kept.constraint, value)
    low, high = intervals.score_interval(found, clusters=of_text(clusters))
    return missed_by(kept.constraint, Value(found.score(), low, high, len(found)))
