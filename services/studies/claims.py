"""What a race bets against, from a study's objectives and constraints: claims about a candidate's
whole suites, each a weighted sum over the items of the suites that have right and wrong answers.

A claim "it is not behind this member of the archive on this objective" is one about paired
differences; a claim "it keeps this constraint" is one about the candidate's own items. Text suites
have no bounded items: what concerns them is compared exactly, once they are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from optim import intervals
from optim.predictions import Predictions
from optim.racing import item_values, most_possible, paired_error
from optim.rates import SHARES, Metric
from services.spec import METRICS, Constraint
from services.studies.record import Study
from services.studies.tell import Value, constrained, missed_by, worse_of

#: what one model answered, by suite name
Answers = Mapping[str, Predictions]


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

    @classmethod
    def of(cls, study: Study, reference: Answers) -> Items:
        """The items of a study whose reference is known."""
        parts, start = {}, 0
        for suite in study.scored:
            parts[suite.name] = slice(start, start + len(reference[suite.name]))
            start = parts[suite.name].stop
        was, before = _joined(parts, reference)
        refuse = {name: reference[name].refuse for name in parts}
        return cls(parts=parts, was=was, before=before, refuse=refuse)

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
        error = paired_error(np.array([*values.values(), items.own(axis.metric)]), weights)
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
            limit = _limit(constraint, n) if n else None
            if limit is not None:
                sign, base = 1.0 if constraint.upper else -1.0, np.zeros(len(items))
                if constraint.at_most_worse is not None:
                    sign = 1.0 if METRICS[constraint.metric] == "minimize" else -1.0
                    base = sign * items.own(constraint.metric)
                claim = _claim(items, constraint.metric, sign, weights, base, limit)
                found.append(Kept(constraint=constraint, suite=suite, claim=claim))
    return found


def _limit(constraint: Constraint, n: int) -> float | None:
    """The worst whole-suite value that keeps a constraint, times −1 for a lower bound."""
    if constraint.metric == "macro":
        # its interval needs more than the value; where the value misses, the bound does too
        return constraint.limit if constraint.upper else -constraint.limit
    if constraint.at_most_worse is not None:
        return _worst(constraint, n)
    # as it gets worse item by item, it is kept up to some count: bisect
    upper = constraint.upper
    kept, missed = -1, n + 1
    while missed - kept > 1:
        middle = (kept + missed) // 2
        right = middle if upper else n - middle
        if missed_by(constraint, of_count(right, n)) <= 0:
            kept = middle
        else:
            missed = middle
    if kept < 0:
        return None
    return kept / n if upper else -(n - kept) / n


def _worst(constraint: Constraint, n: int) -> float | None:
    """How much worse than the reference a candidate can be and keep the constraint: with flips one
    way only, which leave the least doubt."""
    lost = np.arange(-n, n + 1)
    bound = lost / n
    if constraint.confidence is not None:
        ends = intervals.paired_interval(np.maximum(lost, 0), np.maximum(-lost, 0), n)
        bound = intervals.upper_bound(bound, *ends, constraint.confidence)
    kept = lost[bound <= constraint.limit]
    return float(kept.max()) / n if len(kept) else None


def of_flips(lost: float, won: float, n: int) -> Value:
    """What is worse by so many of n items that are wrong now, and right now."""
    low, high = intervals.paired_interval(lost, won, n)
    return Value((lost - won) / n, float(low), float(high), n)


def of_count(count: int, n: int) -> Value:
    """A rate of so many in n items."""
    return Value(count / n, *intervals.wilson(count, n), n=n)


def text_missed(kept: Kept, found: Predictions, reference: Predictions) -> float:
    """How far a scored text suite misses its constraint."""
    if kept.constraint.at_most_worse is not None:
        return missed_by(kept.constraint, worse_of("score", [(reference, found)]))
    low, high = intervals.score_interval(found)
    return missed_by(kept.constraint, Value(found.score(), low, high, len(found)))
