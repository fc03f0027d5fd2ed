"""Telling a study what came in: metrics from stored predictions, objectives, constraints, ranks.

Metrics are arithmetic on per-item predictions of the trial and of the reference on the same
split; nothing is evaluated here. Each evaluation is told exactly once, or rejected: numbers that
are not finite end here and never reach a searcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from optim import compatibility, intervals
from optim.compatibility import compare, pooled
from optim.effective import ClusterSums
from optim.pareto import ranks
from optim.predictions import Predictions
from optim.rate_intervals import (
    cluster_counts,
    clustered_rate_intervals,
    joined,
    rate_intervals,
)
from optim.rates import RATES, REFUSAL_RATES, SHARES, among
from services.db import Connection, rows
from services.spec import Constraint
from services.studies.clusters import clusters_of, of_text, side_by_side
from services.studies.propose import minimised
from services.studies.record import (
    Split,
    Study,
    load_predictions,
    load_trials,
)

#: name used for metrics over all suites of a study
ALL = ""


@dataclass(frozen=True)
class Value:
    """A metric's value with its 95 % interval and the items it rests on; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


#: a rate of no items
UNDEFINED = Value(None, None, None, 0)
#: metrics by (suite or ALL, name)
Measured = dict[tuple[str, str], Value]


def tell(connection: Connection, study: Study, split: Split) -> int:
    """Tell, or reject, every complete evaluation of a split that was not told yet; how many.

    Waits (tells nothing) while the reference has no results on the split.
    """
    count = tell_of(connection, study, split, "studies.untold")
    if count:
        _rank(connection, study, split)
        rows(connection, "studies.touch", study=study.id)
    return count


def tell_of(connection: Connection, study: Study, split: Split, query: str) -> int:
    """Tell, unranked, every evaluation that a query finds untold; how many."""
    untold = rows(connection, query, study=study.id, split=split)
    if not untold:
        return 0
    trials = load_trials(connection, study.id, split)
    reference = next((t for t in trials if t.role == "reference"), None)
    if reference is None or reference.state != "complete":
        return 0
    old = load_predictions(connection, study, reference.id, split)
    clusters = clusters_of(connection, study, split)
    for one in untold:
        new = load_predictions(connection, study, one["trial_id"], split)
        if (suite := _not_finite(new)) is not None:
            error = f"suite {suite}: a score is not finite"
            rows(connection, "studies.reject", evaluation=one["id"], error=error)
            continue
        measured = measure(study, old, new, clusters)
        _write(connection, one["trial_id"], split, measured)
        rows(
            connection,
            "studies.tell",
            evaluation=one["id"],
            objectives=list(objective_values(study, measured)),
            violation=violation(study, measured),
        )
    return len(untold)


def _not_finite(new: Mapping[str, Predictions]) -> str | None:
    """The first suite that holds a score which is not a number."""
    return next((name for name, p in new.items() if not np.isfinite(p.units()).all()), None)


def measure(
    study: Study,
    old: Mapping[str, Predictions],
    new: Mapping[str, Predictions],
    clusters: Mapping[str, np.ndarray | None] = MappingProxyType({}),
) -> Measured:
    """Every metric of a candidate against the reference, per suite and over all suites.

    `clusters`: from `services.studies.clusters`; a suite that is not in it has independent items.
    """
    found: Measured = {}
    for suite in study.suites:
        predictions, labels = new[suite.name], clusters.get(suite.name)
        if suite.form == "text":
            labels = of_text(labels)
        low, high = intervals.score_interval(predictions, clusters=labels)
        found[suite.name, "score"] = Value(predictions.score(), low, high, len(predictions))
        if suite.form != "text":
            rates = compared([(old[suite.name], predictions, labels)])
            found |= {(suite.name, name): value for name, value in rates.items()}
    names = [suite.name for suite in study.scored]
    if names:
        rates = compared([(old[name], new[name], clusters.get(name)) for name in names])
        found |= {(ALL, name): value for name, value in rates.items()}
        found[ALL, "macro"] = macro([new[n] for n in names], [clusters.get(n) for n in names])
    return found | worse(study, old, new, clusters)


def compared(
    suites: Sequence[tuple[Predictions, Predictions, np.ndarray | None]],
) -> dict[str, Value]:
    """Every rate of `compatibility.RATES` over (old, new, clusters) of some suites together, with
    intervals that count clusters where a suite has them."""
    if all(labels is None for _, _, labels in suites):
        counts = pooled(compare(old, new) for old, new, _ in suites)
        bounds = rate_intervals(counts)
    else:
        parts = joined([cluster_counts(*suite) for suite in suites])
        counts, bounds = parts.total(), clustered_rate_intervals(parts)
    found = {name: Value(counts.rate(name), *bounds[name]) for name in compatibility.RATES}
    return found | _refusal_rates(suites)


def _refusal_rates(
    suites: Sequence[tuple[Predictions, Predictions, np.ndarray | None]],
) -> dict[str, Value]:
    """What `compared` says of refusal suites alone; empty where there are none."""
    known = [suite for suite in suites if suite[0].refuse is not None]
    found = {}
    for name in REFUSAL_RATES if known else ():
        hits, labels = [], list[tuple[int, np.ndarray | None]]()
        for old, new, clusters in known:
            assert new.correct is not None
            mine = among(RATES[name].among, len(old), old.refuse)
            hits.append(~new.correct[mine])
            labels.append((int(mine.sum()), None if clusters is None else clusters[mine]))
        found[name] = share_of(np.concatenate(hits), side_by_side(labels))
    return found


def macro(suites: Sequence[Predictions], clusters: Sequence[np.ndarray | None]) -> Value:
    """The mean score of suites that have right and wrong answers."""
    value, low, high = intervals.macro_interval(suites, clusters=clusters)
    return Value(value, low, high, sum(map(len, suites)))


def share_of(hits: np.ndarray, clusters: np.ndarray | None) -> Value:
    """The share of items that were hit, bool [N]; undefined without items."""
    if not len(hits):
        return Value(None, None, None, 0)
    low, high = intervals.share_interval(hits, clusters=clusters)
    return Value(float(hits.mean()), low, high, len(hits))


def worse(
    study: Study,
    old: Mapping[str, Predictions],
    new: Mapping[str, Predictions],
    clusters: Mapping[str, np.ndarray | None],
) -> Measured:
    """By how much a candidate is worse than the reference, where a constraint asks: under the
    constraint's `measure`, with paired 95 % intervals."""
    found: Measured = {}
    for constraint in study.spec.constraints:
        if constraint.at_most_worse is None:
            continue
        for suite in constrained(study, constraint):
            names = [suite] if suite else [one.name for one in study.scored]
            suites = [(old[name], new[name], clusters.get(name)) for name in names]
            found[suite, constraint.measure] = worse_of(constraint.metric, suites)
    return found


def worse_of(
    metric: str, suites: Sequence[tuple[Predictions, Predictions, np.ndarray | None]]
) -> Value:
    """By how much new is worse than old, over (old, new, clusters) of some suites: of the macro
    average their mean, else their pooled items; of one text suite, nats per token."""
    if metric == "macro":
        parts = [worse_of("score", [suite]) for suite in suites]
        ends = np.array([(p.value, p.low, p.high) for p in parts], dtype=np.float64)
        value, low, high = map(float, intervals.mover(*ends.T))
        return Value(value, low, high, sum(p.n for p in parts))
    old, new, clusters = suites[0]
    if old.form == "text":
        more = new.score() - old.score()
        bounds = intervals.difference_interval(old, new, clusters=of_text(clusters))
        return Value(more, bounds[0], bounds[1], len(new))
    which = SHARES[metric].among
    masks = [among(which, len(old), old.refuse) for old, _, _ in suites]
    counts = pooled(
        compare(old, new, mask) for (old, new, _), mask in zip(suites, masks, strict=True)
    )
    if not counts.n:
        return UNDEFINED
    worth = _worth_of_flips(suites, masks)
    flips = counts.negative, counts.positive
    below, above = intervals.paired_interval(*flips, counts.n, worth=worth)
    return Value((flips[0] - flips[1]) / counts.n, float(below), float(above), counts.n)


def _worth_of_flips(
    suites: Sequence[tuple[Predictions, Predictions, np.ndarray | None]],
    masks: Sequence[np.ndarray],
) -> np.ndarray | None:
    """The effective size of the masked items of some suites; None where they are independent."""
    values, labels = [], list[tuple[int, np.ndarray | None]]()
    for (old, new, clusters), mask in zip(suites, masks, strict=True):
        assert old.correct is not None
        assert new.correct is not None
        values.append(old.correct[mask].astype(np.float64) - new.correct[mask])
        labels.append((int(mask.sum()), None if clusters is None else clusters[mask]))
    at = side_by_side(labels)
    return None if at is None else ClusterSums.of_values(np.concatenate(values), at).differences()


def objective_values(study: Study, measured: Measured) -> tuple[float, ...]:
    """One value per objective, in the user's directions; where the items leave a rate undefined,
    for every candidate, the best possible one."""
    found = []
    for axis in study.spec.axes:
        value = measured[axis.suite or ALL, axis.metric].value
        found.append(RATES[axis.metric].vacuous if value is None else value)
    return tuple(found)


def violation(study: Study, measured: Measured) -> float:
    """Sum over the constraints of how far each is missed; 0 when all are kept."""
    total = 0.0
    for constraint in study.spec.constraints:
        for suite in constrained(study, constraint):
            total += max(0.0, missed_by(constraint, measured[suite, constraint.measure]))
    return total


def constrained(study: Study, constraint: Constraint) -> list[str]:
    """The suites, or `ALL`, that a constraint is about."""
    if constraint.suite != "each":
        return [constraint.suite or ALL]
    suites = study.suites if constraint.metric == "score" else study.scored
    if constraint.metric in REFUSAL_RATES:
        suites = tuple(suite for suite in suites if suite.form == "refusal")
    return [suite.name for suite in suites]


def missed_by(constraint: Constraint, value: Value) -> float:
    """How far the value, or its one-sided confidence bound, is beyond the limit; 0 for a rate that
    the items leave undefined."""
    if value.value is None:
        return 0.0
    low = high = value.value
    if constraint.confidence is not None:
        low, high = _bounds(constraint, value)
    return high - constraint.limit if constraint.upper else constraint.limit - low


def _bounds(constraint: Constraint, value: Value) -> tuple[float, float]:
    """One-sided bounds, from the 95 % interval: Wilson for shares of items, normal for means over
    suites or tokens; of what is worse than the reference, the upper one of the paired interval
    twice."""
    assert value.value is not None
    assert constraint.confidence is not None
    if constraint.at_most_worse is not None:
        if value.low is None or value.high is None:
            return value.value, value.value
        ends = (value.value, value.low, value.high)
        high = float(intervals.upper_bound(*ends, constraint.confidence))
        return high, high
    assert value.low is not None
    assert value.high is not None
    ends = (value.value, value.low, value.high)
    if constraint.metric in RATES:
        return intervals.share_bounds(*ends, value.n, constraint.confidence)
    return intervals.rescaled(*ends, confidence=2 * constraint.confidence - 1)


def _write(connection: Connection, trial: int, split: Split, measured: Measured) -> None:
    values = measured.values()
    rows(
        connection,
        "studies.insert_metrics",
        trial=trial,
        split=split,
        suites=[suite for suite, _ in measured],
        names=[name for _, name in measured],
        values=[v.value for v in values],
        lows=[v.low for v in values],
        highs=[v.high for v in values],
        ns=[v.n for v in values],
    )


def _rank(connection: Connection, study: Study, split: Split) -> None:
    """Ranks of the whole split, written where they changed."""
    told = [t for t in load_trials(connection, study.id, split) if t.objectives is not None]
    found = ranks(
        [minimised(study, t.objectives or ()) for t in told], [t.violation or 0.0 for t in told]
    )
    for trial, rank in zip(told, found, strict=True):
        if rank != trial.rank:
            rows(connection, "studies.set_rank", evaluation=trial.evaluation_id, rank=rank)
