"""Which checkpoints' weights go with an objective, over the searched candidates of a study, and
which candidates people may want to look at first. Columns in, numbers out: nothing is read here.
"""

from __future__ import annotations

import numpy as np

from optim.importance import rank_correlations
from optim.pareto import knee
from services.studies.columns import Columns
from services.studies.record import Study
from services.studies.views import merits_of

#: fewer candidates than this say nothing yet
ENOUGH = 10
#: what must stand beside the correlations
CAVEAT = (
    "Spearman's rank correlation over the searched candidates that are shown. Weights sum to 1 and "
    "a search does not spread evenly: it says what went together, not what causes what."
)


def weights_of(study: Study, columns: Columns, group: int | None = None) -> np.ndarray:
    """float64 [T, checkpoints]: the weights of one group of tensors, or the mean of the groups."""
    rows = columns.weights.reshape(len(columns), -1, len(study.pool.members))
    return rows.mean(axis=1) if group is None else rows[:, group]


def importance(
    study: Study, columns: Columns, values: np.ndarray, group: int | None = None
) -> np.ndarray | None:
    """float64 [checkpoints]: how each checkpoint's weight goes with values, float64 [T], over the
    searched candidates that have them. None for fewer than `ENOUGH`."""
    some = np.isin(columns.role, ("warm", "search")) & np.isfinite(values)
    if some.sum() < ENOUGH:
        return None
    return rank_correlations(weights_of(study, columns.take(some), group), values[some])


def knee_of(study: Study, columns: Columns) -> int | None:
    """Number of the trial at the knee of the front; None where the front is too small, or there is
    one objective."""
    front = columns.take(columns.front)
    if study.axes < 2:
        return None
    place = knee(front.objectives * np.array(study.signs))
    return None if place is None else int(front.number[place])


def flips_of(columns: Columns) -> np.ndarray:
    """float64 [T]: negative flips in items, all suites together; NaN where they are not known."""
    found = columns.metrics.get(("", "negative_flip_rate"))
    return np.full(len(columns), np.nan) if found is None else np.round(found.value * found.n)


def best_with_few_flips(study: Study, columns: Columns, most: int) -> int | None:
    """Number of the feasible trial with the highest mean of the objectives among those with at
    most so many negative flips; None without any."""
    some = columns.take(columns.feasible & columns.told & (flips_of(columns) <= most))
    return int(some.number[np.argmax(merits_of(study, some))]) if len(some) else None
