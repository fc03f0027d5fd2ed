"""Telling a study what came in: metrics from stored predictions, objectives, constraints, ranks.

Metrics are arithmetic on per-item predictions of the trial and of the reference on the same
split; nothing is evaluated here. Each evaluation is told exactly once, or rejected: numbers that
are not finite end here and never reach a searcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optim import intervals
from optim.compatibility import Compatibility, compare, pooled
from optim.pareto import ranks
from optim.predictions import Predictions
from services.db import Connection, rows
from services.spec import RATES, Constraint
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
    """A metric's value with its 95 % interval and the items it rests on."""

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
    for one in untold:
        new = load_predictions(connection, study, one["trial_id"], split)
        if (suite := _not_finite(new)) is not None:
            error = f"suite {suite}: a score is not finite"
            rows(connection, "studies.reject", evaluation=one["id"], error=error)
            continue
        measured = measure(study, old, new)
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
    study: Study, old: Mapping[str, Predictions], new: Mapping[str, Predictions]
) -> Measured:
    """Every metric of a candidate against the reference, per suite and over all suites."""
    found: Measured = {}
    compared: list[Compatibility] = []
    for suite in study.suites:
        predictions = new[suite.name]
        low, high = intervals.score_interval(predictions)
        found[suite.name, "score"] = Value(predictions.score(), low, high, len(predictions))
        if suite.form == "text":
            continue
        compatibility = compare(old[suite.name], predictions)
        compared.append(compatibility)
        found |= {(suite.name, n): v for n, v in _rates(compatibility).items()}
    scored = [new[suite.name] for suite in study.scored]
    if scored:
        total = pooled(compared)
        found |= {(ALL, n): v for n, v in _rates(total).items()}
        value, low, high = intervals.macro_interval(scored)
        found[ALL, "macro"] = Value(value, low, high, total.n)
    return found


def _rates(c: Compatibility) -> dict[str, Value]:
    counts = {
        "negative_flip_rate": c.negative,
        "positive_flip_rate": c.positive,
        "churn": c.changed,
        "inconsistency": c.negative + c.both_wrong_differently,
    }
    return {name: Value(k / c.n, *intervals.wilson(k, c.n), n=c.n) for name, k in counts.items()}


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
    for (suite, name), v in measured.items():
        rows(
            connection,
            "studies.insert_metric",
            trial=trial,
            split=split,
            suite=suite,
            name=name,
            value=v.value,
            low=v.low,
            high=v.high,
            n=v.n,
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
