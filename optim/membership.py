"""How sure it is that a candidate is on the front: the front of many resampled sets of items.

Items are drawn with replacement within every suite, the same draw for all candidates, so what
candidates have in common cancels out. Objectives and constraints are computed anew for each draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from optim import intervals
from optim.rates import RATES, SHARES, Kind, among, of_kinds
from optim.search.question import Bound, ItemSuite, Question

RESAMPLES = 1000
#: counts that are held at once: 64 MB
MOST_COUNTS = 16_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteTable:
    """What M candidates answered on the N items of one suite."""

    #: bool [M, N]: right answers; None for a text suite
    right: np.ndarray | None = None
    #: bool [M, N]: another answer than the reference's; None for a text suite
    changed: np.ndarray | None = None
    #: float32 [M, N], nats; only for a text suite
    nll: np.ndarray | None = None


def membership(
    question: Question,
    tables: Sequence[SuiteTable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """float64 [M]: in which share of the resampled sets of items each candidate is on the front,
    feasible and dominated by no feasible one. `tables` in the question's order of suites."""
    values, violation = resampled(question, tables, resamples=resamples, seed=seed)
    on_front = np.zeros(values.shape[1])
    for points, missed in zip(values, violation, strict=True):
        feasible = np.flatnonzero(missed <= 0)
        on_front[feasible[_undominated(points[feasible])]] += 1
    return on_front / resamples


def resampled(
    question: Question, tables: Sequence[SuiteTable], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Objectives, all minimised, float64 [B, M, axes], and violations, float64 [B, M], of M
    candidates on B resampled sets of items."""
    rng = np.random.default_rng(seed)
    largest = max(len(suite) for suite in question.suites)
    step = max(1, MOST_COUNTS // largest)
    parts = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        parts.append(judged(question, tables, [_draws(rng, size, s) for s in question.suites]))
    values, violation = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(violation)


def _draws(rng: np.random.Generator, resamples: int, suite: ItemSuite) -> np.ndarray:
    """float32 [B, N]: how often each item is drawn."""
    n = len(suite)
    drawn = rng.integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype("f4")


def judged(
    question: Question, tables: Sequence[SuiteTable], counts: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What `resampled` returns, for items that count so often: float32 [B, N] for each suite.

    Counts of a suite sum to its N items; all counts 1 give the candidates' own objectives.
    """
    sums = _Sums(question, tables, counts)
    values = [axis.sign * sums.value(axis.metric, axis.suite) for axis in question.axes]
    violation = np.zeros(values[0].shape)
    for bound in question.bounds:
        for suite in bound.suites:
            missed = bound.sign * (sums.bound(bound, suite) - bound.limit)
            violation += np.maximum(missed, 0.0)
    return np.stack(values, axis=2), violation


def _undominated(points: np.ndarray) -> np.ndarray:
    """bool [k]: dominated by none of k points; equal points stand side by side."""
    import moocore

    if len(points) < 2:
        return np.ones(len(points), bool)
    if points.shape[1] == 1:
        return np.asarray(points[:, 0] == points.min())
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True))


class _Sums:
    """Counts of items by suite and metric, each a matrix product, made when first asked for."""

    def __init__(
        self, question: Question, tables: Sequence[SuiteTable], counts: Sequence[np.ndarray]
    ) -> None:
        self._parts = {
            suite.name: (suite, table, count)
            for suite, table, count in zip(question.suites, tables, counts, strict=True)
        }
        self._scored = [suite.name for suite in question.suites if suite.form != "text"]
        self._made: dict[tuple[str, str], np.ndarray] = {}

    def value(self, metric: str, suite: str) -> np.ndarray:
        """float64 [B, M]: a metric of one suite, or of all scored ones ('')."""
        if metric == "macro":
            return np.mean([self.value("score", name) for name in self._scored], axis=0)
        if metric == "score" and self._parts[suite][0].form == "text":
            return self._nats(suite)
        k, n = self._count(metric, suite)
        return np.where(n > 0, k / np.maximum(n, 1), SHARES[metric].vacuous)

    def _count(self, metric: str, suite: str) -> tuple[np.ndarray, np.ndarray]:
        """(float64 [B, M], float64 [B, 1]): how many, of how many items."""
        names = [suite] if suite else self._scored
        return (
            np.sum([self._items(metric, SHARES[metric].counted, name) for name in names], axis=0),
            np.sum([self._base(metric, name) for name in names], axis=0),
        )

    def _items(self, metric: str, kinds: tuple[Kind, ...], name: str) -> np.ndarray:
        """float64 [B, M]: how many of the items that a rate is about are of these kinds."""
        which = SHARES[metric].among
        key = (f"{which} {' '.join(kinds)}", name)
        if key not in self._made:
            suite, table, counts = self._parts[name]
            assert suite.reference is not None
            assert table.right is not None
            assert table.changed is not None
            items = of_kinds(kinds, suite.reference, table.right, table.changed)
            if which != "all":
                items &= among(which, len(suite), suite.refuse)
            # whole numbers: exact in float32 up to 2^24 items
            self._made[key] = (counts @ items.T.astype(np.float32)).astype(np.float64)
        return self._made[key]

    def _base(self, metric: str, name: str) -> np.ndarray:
        """float64 [B, 1]: how many items a rate is a share of."""
        suite, _, counts = self._parts[name]
        assert suite.reference is not None
        base = SHARES[metric].base(suite.reference, suite.refuse)
        if base.all():
            return np.full((len(counts), 1), float(len(suite)))
        return (counts @ base.astype(np.float32)).astype(np.float64)[:, None]

    def _nats(self, name: str) -> np.ndarray:
        suite, table, counts = self._parts[name]
        assert table.nll is not None
        assert suite.tokens is not None
        if ("score", name) not in self._made:
            nll = counts @ table.nll.T.astype(np.float32)
            tokens = counts @ suite.tokens.astype(np.float32)
            self._made["score", name] = nll.astype(np.float64) / tokens[:, None]
        return self._made["score", name]

    def bound(self, bound: Bound, suite: str) -> np.ndarray:
        """float64 [B, M]: the confidence bound of a constraint's metric that must keep its limit.

        As for the candidates themselves: Wilson for rates; for scores, and what is worse than the
        reference, 95 % intervals, stretched.
        Of nats per token, the distance of the bound is that of all items.
        """
        if bound.worse:
            return intervals.upper_bound(*self._worse(bound.metric, suite), bound.confidence)
        value = self.value(bound.metric, suite)
        if bound.confidence is None:
            return value
        if bound.metric in RATES:
            k, n = self._count(bound.metric, suite)
            found = intervals.wilson_bound(k, n, bound.sign, bound.confidence)
            return np.where(n > 0, found, bound.limit)
        z = NormalDist().inv_cdf(bound.confidence)
        half = z / NormalDist().inv_cdf((1 + intervals.CONFIDENCE) / 2)
        return value + half * self._to_interval(bound.metric, suite, bound.sign)

    def _worse(self, metric: str, suite: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By how much each candidate is worse than the reference on the same items, [B, M], with
        95 % intervals."""
        if metric == "macro":
            parts = [self._worse("score", name) for name in self._scored]
            return intervals.mover(*(np.stack(ends) for ends in zip(*parts, strict=True)))
        if suite and self._parts[suite][0].form == "text":
            return self._worse_text(suite)
        names = [suite] if suite else self._scored
        lost = np.sum([self._items(metric, ("negative",), name) for name in names], axis=0)
        won = np.sum([self._items(metric, ("positive",), name) for name in names], axis=0)
        n = self._count(metric, suite)[1]
        return (lost - won) / np.maximum(n, 1), *intervals.paired_interval(lost, won, n)

    def _worse_text(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        suite, table, counts = self._parts[name]
        assert suite.nll is not None
        assert suite.tokens is not None
        assert table.nll is not None
        tokens = counts @ suite.tokens.astype(np.float32)
        own = (counts @ suite.nll.astype(np.float32)).astype(np.float64) / tokens
        value = self._nats(name) - own[:, None]
        whole, ends = float(suite.tokens.sum()), []
        for nll in table.nll:
            more = nll.astype(np.float64) - suite.nll
            low, high = intervals.ratio_interval(more, suite.tokens)
            middle = float(more.sum()) / whole
            ends.append(
                (0.0, 0.0) if low is None or high is None else (low - middle, high - middle)
            )
        below, above = np.array(ends).T
        return value, value + below, value + above

    def _to_interval(self, metric: str, suite: str, sign: float) -> np.ndarray:
        """float64 [B, M]: from a score or the macro average to that end of its 95 % interval."""
        if metric == "macro":
            ends = [self._to_interval("score", name, sign) for name in self._scored]
            return sign * np.sqrt(np.sum(np.square(ends), axis=0)) / len(ends)
        part, table, _ = self._parts[suite]
        if part.form != "text":
            k, n = self._count(metric, suite)
            return intervals.wilson_bound(k, n, sign, (1 + intervals.CONFIDENCE) / 2) - k / n
        assert table.nll is not None
        assert part.tokens is not None
        found = []
        for nll in table.nll:
            low, high = intervals.ratio_interval(nll, part.tokens)
            value = float(nll.sum(dtype=np.float64)) / float(part.tokens.sum())
            end = high if sign > 0 else low
            found.append(0.0 if end is None else end - value)
        return np.array(found)[None, :]
