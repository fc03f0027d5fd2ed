"""How sure it is that a candidate is on the front: the front of many resampled sets of items.

Items are drawn with replacement within every suite, the same draw for all candidates, so what
candidates have in common cancels out; where items share contexts, whole clusters are drawn, one
fewer than there are, so that spreads are not too small (Rao & Wu 1988). Objectives and constraints
are computed anew for each draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from optim import intervals
from optim.effective import ClusterSums
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


def drawn_clusters(suite: ItemSuite) -> np.ndarray | None:
    """int64 [N]: the clusters that are drawn whole; None where items are: they are independent, or
    a single cluster, of whose kind there is no other to draw."""
    return None if suite.clusters is None or not suite.clusters.any() else suite.clusters


def _draws(rng: np.random.Generator, resamples: int, suite: ItemSuite) -> np.ndarray:
    """float32 [B, units]: how often each item, or each cluster, is drawn."""
    clusters = drawn_clusters(suite)
    n = len(suite) if clusters is None else int(clusters.max()) + 1
    size = (resamples, n if clusters is None else n - 1)
    drawn = rng.integers(0, n, size=size)
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype("f4")


def judged(
    question: Question, tables: Sequence[SuiteTable], counts: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What `resampled` returns, for items that count so often: for each suite float32 [B, N], or
    [B, C] where it has `drawn_clusters`.

    Counts of independent items sum to N; all counts 1 give the candidates' own objectives.
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
        key = (f"{SHARES[metric].among} {' '.join(kinds)}", name)
        if key not in self._made:
            self._made[key] = self._drawn(name, self._hits(metric, kinds, name))
        return self._made[key]

    def _drawn(self, name: str, values: np.ndarray) -> np.ndarray:
        """float64 [B, ...]: sums of values [units, ...] over what is drawn."""
        # whole numbers: exact in float32 up to 2^24 items
        return (self._parts[name][2] @ values.astype(np.float32)).astype(np.float64)

    def _hits(self, metric: str, kinds: tuple[Kind, ...], name: str) -> np.ndarray:
        """bool or float32 [units, M]: items of these kinds among those that a rate is about."""
        which = SHARES[metric].among
        suite, table, _ = self._parts[name]
        assert suite.reference is not None
        assert table.right is not None
        assert table.changed is not None
        items = of_kinds(kinds, suite.reference, table.right, table.changed)
        if which != "all":
            items &= among(which, len(suite), suite.refuse)
        return _by_unit(items.T, suite)

    def _base(self, metric: str, name: str) -> np.ndarray:
        """float64 [B, 1]: how many items a rate is a share of."""
        suite, _, counts = self._parts[name]
        assert suite.reference is not None
        base = SHARES[metric].base(suite.reference, suite.refuse)
        if base.all() and drawn_clusters(suite) is None:
            return np.full((len(counts), 1), float(len(suite)))
        return self._drawn(name, _by_unit(base, suite))[:, None]

    def _worth(self, metric: str, suite: str, *, worse: bool = False) -> np.ndarray | None:
        """float64 [B, M]: the effective size of the items of a rate, or of the flips by which it is
        `worse`; None where items are independent."""
        names = [suite] if suite else self._scored
        if all(self._parts[name][0].clusters is None for name in names):
            return None
        sums = [self._cluster_sums(metric, name, worse) for name in names]
        whole = sums[0]
        for more in sums[1:]:
            whole += more
        return whole.differences() if worse else whole.shares()

    def _cluster_sums(self, metric: str, name: str, worse: bool) -> ClusterSums:
        part = self._parts[name][0]
        assert part.reference is not None
        rate = SHARES[metric]
        base = _by_unit(rate.base(part.reference, part.refuse), part).astype(np.float64)
        if worse:
            lost, won = (self._hits(metric, (k,), name) for k in ("negative", "positive"))
            values, items = lost.astype(np.float64) - won, lost.astype(np.float64) + won
        else:
            values = items = self._hits(metric, rate.counted, name).astype(np.float64)
        n, total = self._base(metric, name), self._drawn(name, values)
        within = self._drawn(name, items)
        if part.clusters is not None and drawn_clusters(part) is None:
            return ClusterSums(
                clusters=np.minimum(n, 1), n=n, sizes=n**2, total=total, squares=total**2,
                products=total * n, items=within,
            )  # fmt: skip
        return ClusterSums(
            clusters=self._drawn(name, base > 0)[:, None],
            n=n,
            sizes=self._drawn(name, base**2)[:, None],
            total=total,
            squares=self._drawn(name, values**2),
            products=self._drawn(name, values * base[:, None]),
            items=within,
        )

    def _nats(self, name: str) -> np.ndarray:
        suite, table, counts = self._parts[name]
        assert table.nll is not None
        assert suite.tokens is not None
        if ("score", name) not in self._made:
            nll = counts @ _by_unit(table.nll.T.astype(np.float32), suite)
            tokens = counts @ _by_unit(suite.tokens.astype(np.float32), suite)
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
            worth = self._worth(bound.metric, suite)
            found = intervals.wilson_bound(k, n, bound.sign, bound.confidence, worth=worth)
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
        n, worth = self._count(metric, suite)[1], self._worth(metric, suite, worse=True)
        return (lost - won) / np.maximum(n, 1), *intervals.paired_interval(
            lost, won, n, worth=worth
        )

    def _worse_text(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        suite, table, counts = self._parts[name]
        assert suite.nll is not None
        assert suite.tokens is not None
        assert table.nll is not None
        tokens = counts @ _by_unit(suite.tokens.astype(np.float32), suite)
        own = (counts @ _by_unit(suite.nll.astype(np.float32), suite)).astype(np.float64) / tokens
        value = self._nats(name) - own[:, None]
        clusters = drawn_clusters(suite)
        whole, ends = float(suite.tokens.sum()), []
        for nll in table.nll:
            more = nll.astype(np.float64) - suite.nll
            low, high = intervals.ratio_interval(more, suite.tokens, clusters=clusters)
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
            sure, worth = (1 + intervals.CONFIDENCE) / 2, self._worth(metric, suite)
            return intervals.wilson_bound(k, n, sign, sure, worth=worth) - k / n
        assert table.nll is not None
        assert part.tokens is not None
        found = []
        for nll in table.nll:
            low, high = intervals.ratio_interval(nll, part.tokens, clusters=drawn_clusters(part))
            value = float(nll.sum(dtype=np.float64)) / float(part.tokens.sum())
            end = high if sign > 0 else low
            found.append(0.0 if end is None else end - value)
        return np.array(found)[None, :]


def _by_unit(values: np.ndarray, suite: ItemSuite) -> np.ndarray:
    """[units, ...]: sums of values [N, ...] over each cluster, or the values themselves."""
    clusters = drawn_clusters(suite)
    if clusters is None:
        return values
    order = np.argsort(clusters, kind="stable")
    starts = np.searchsorted(clusters[order], np.arange(int(clusters.max()) + 1))
    return np.add.reduceat(values[order].astype(np.float32), starts, axis=0)
