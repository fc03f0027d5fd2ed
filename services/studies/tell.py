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
from optim.pareto import ranks
from optim.predictions import Predictions
from optim.rate_intervals import (
    cluster_counts,
    clustered_rate_intervals,
    joined,
    rate_intervals,
)
from services.db import Connection, rows
from services.spec import RATES, Constraint
from services.studies.clusters import clusters_of
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


#: metrics by (suite or ALL, name)
Measured = dict[tuple[str, str], Value]


def tell(connection: Connection, study: Study, split: Split) -> int:
    """Tell, or reject, every complete evaluation of a split that was not told yet; how many.

    Waits (tells nothing) while the reference has no results on the split.
    """
    untold = rows(connection, "studies.untold", study=study.id, split=split)
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
    _rank(connection, study, split)
    rows(connection, "studies.touch", study=study.id)
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
        if suite.form == "text" and labels is not None and not labels.any():
            labels = None  # a single cluster has no interval, which a constraint may need
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
    return found


def compared(
    suites: Sequence[tuple[Predictions, Predictions, np.ndarray | None]],
) -> dict[str, Value]:
    """Every rate of `compatibility.RATES` over (old, new, clusters) of some suites together, with
    intervals that draw whole clusters where a suite has them."""
    if all(labels is None for _, _, labels in suites):
        counts = pooled(compare(old, new) for old, new, _ in suites)
        bounds = rate_intervals(counts)
    else:
        parts = joined([cluster_counts(*suite) for suite in suites])
        counts, bounds = parts.total(), clustered_rate_intervals(parts)
    return {name: Value(counts.rate(name), *bounds[name]) for name in compatibility.RATES}


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


def objective_values(study: Study, measured: Measured) -> tuple[float, ...]:
    """One value per objective, in the user's directions."""
    found = []
    for axis in study.spec.axes:
        value = measured[axis.suite or ALL, axis.metric].value
        assert value is not None
        found.append(value)
    return tuple(found)


def violation(study: Study, measured: Measured) -> float:
    """Sum over the constraints of how far each is missed; 0 when all are kept."""
    total = 0.0
    for constraint in study.spec.constraints:
        for suite in constrained(study, constraint):
            total += max(0.0, missed_by(constraint, measured[suite, constraint.metric]))
    return total


def constrained(study: Study, constraint: Constraint) -> list[str]:
    """The suites, or `ALL`, that a constraint is about."""
    if constraint.suite != "each":
        return [constraint.suite or ALL]
    suites = study.suites if constraint.metric == "score" else study.scored
    return [suite.name for suite in suites]


def missed_by(constraint: Constraint, value: Value) -> float:
    """How far the value, or its one-sided confidence bound, is beyond the limit."""
    assert value.value is not None
    low = high = value.value
    if constraint.confidence is not None:
        low, high = _bounds(constraint, value)
    if constraint.max is not None:
        return high - constraint.max
    assert constraint.min is not None
    return constraint.min - low


def _bounds(constraint: Constraint, value: Value) -> tuple[float, float]:
    """One-sided bounds: Wilson for shares of items, normal for means over suites or tokens."""
    assert value.value is not None
    assert constraint.confidence is not None
    two_sided = 2 * constraint.confidence - 1
    if constraint.metric in RATES:
        return intervals.wilson(round(value.value * value.n), value.n, confidence=two_sided)
    assert value.low is not None
    assert value.high is not None
    return intervals.rescaled(value.value, value.low, value.high, confidence=two_sided)


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
