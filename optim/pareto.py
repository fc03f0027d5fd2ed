"""Which candidates are on the front: constrained Pareto ranks, spread, hypervolume.

Every objective is minimised here; whoever calls negates scores. Results depend on the values and,
where they are equal, on the order of the rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Values = Sequence[Sequence[float] | None]


def ranks(values: Values, violations: Sequence[float]) -> list[int | None]:
    """Rank of every candidate by constraint domination (Deb et al. 2002); 1 is the front.

    Feasible ones (violation <= 0) are sorted into fronts 1, 2, …; the infeasible follow by
    violation, equal ones together, and start at 2 even where nothing is feasible: rank 1 is
    always feasible and dominated by none. Equal candidates share a rank. None for a candidate
    without values. Raises ValueError naming the candidate whose values cannot be compared.
    """
    known, points = _points(values, violations)
    violation = np.array([violations[i] for i in known])
    feasible = violation <= 0
    rank = np.zeros(len(known), dtype=np.int64)
    if feasible.any():
        rank[feasible] = 1 + _fronts(points[feasible])
    if not feasible.all():
        last = max(int(rank.max()), 1)
        rank[~feasible] = last + 1 + np.unique(violation[~feasible], return_inverse=True)[1]
    found: list[int | None] = [None] * len(values)
    for i, r in zip(known, rank, strict=True):
        found[i] = int(r)
    return found


def crowding(points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """float64 [k]: crowding distance of k points of one front; larger is lonelier.

    Sum over objectives of the gap between the next smaller and the next larger value, as a share
    of the front's range (Deb et al. 2002); inf at either end. A point that repeats an earlier one
    has 0, so that of equal points the first stands for all.
    """
    array = np.asarray(points, dtype=np.float64)
    if not len(array):
        return np.zeros(0)
    unique, first = np.unique(array, axis=0, return_index=True)
    distance = np.zeros(len(unique))
    for column in unique.T:
        levels, at = np.unique(column, return_inverse=True)
        if len(levels) > 1:
            padded = np.concatenate([[-np.inf], levels, [np.inf]])
            distance += ((padded[2:] - padded[:-2]) / (levels[-1] - levels[0]))[at]
    found = np.zeros(len(array))
    found[first] = distance
    return found


def finalists(values: Values, violations: Sequence[float], m: int) -> list[int]:
    """Indices of the m best: by rank, within a rank the loneliest first, then the earlier row.

    Infeasible ones come after all feasible ones; those without values never come.
    """
    found = ranks(values, violations)
    best: list[int] = []
    for rank in sorted({r for r in found if r is not None}):
        if len(best) >= m:
            break
        members = [i for i, r in enumerate(found) if r == rank]
        distance = crowding([values[i] or () for i in members])
        best += [members[j] for j in np.argsort(-distance, kind="stable")]
    return best[: max(m, 0)]


def knee(points: Sequence[Sequence[float]] | np.ndarray) -> int | None:
    """Index of the knee of a front: the least sum of objectives, each scaled to 0 (the front's
    best) … 1 (its worst). None for fewer than three points: then there is nothing between the ends.

    For two objectives this is the point farthest from the line through both ends (Das 1999, On
    characterizing the 'knee' of the Pareto curve); for more, from the plane through the worst
    values. Points of equal sum: the first.
    """
    array = np.asarray(points, dtype=np.float64)
    if len(array) < 3:
        return None
    low, high = array.min(axis=0), array.max(axis=0)
    scaled = (array - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(scaled.sum(axis=1)))


def hypervolume(values: Values, violations: Sequence[float], reference: Sequence[float]) -> float:
    """Volume that the feasible candidates dominate, up to the reference point.

    The reference point belongs to the study and is frozen in it: two hypervolumes compare only
    under the same one. A candidate that is not below it in every objective adds nothing; without
    any the volume is 0. In units of the product of the objectives. Computed by moocore.
    """
    import moocore

    known, points = _points(values, violations)
    bound = np.asarray(reference, dtype=np.float64)
    if not np.isfinite(bound).all():
        raise ValueError(f"reference: {list(reference)} is not finite")
    if known and points.shape[1] != len(bound):
        raise ValueError(f"reference: {len(bound)} numbers for {points.shape[1]} objectives")
    inside = np.array([violations[i] <= 0 for i in known], dtype=bool)
    inside &= (points < bound).all(axis=1) if known else inside
    if not inside.any():
        return 0.0
    # in five dimensions the volume of 10,000 points takes 50 times as long as that of their front
    front = moocore.filter_dominated(points[inside])
    return float(moocore.hypervolume(front, ref=bound))


def hypervolumes(
    points: np.ndarray, counts: Sequence[int], reference: Sequence[float]
) -> list[float]:
    """`hypervolume` of the first so many rows of float64 [k, objectives], for each of the
    ascending `counts`. Rows that are not below the reference point everywhere add nothing: that
    is how the infeasible are left out, as rows of inf."""
    import moocore

    bound = np.asarray(reference, dtype=np.float64)
    front, last, found = np.zeros((0, len(bound))), 0, []
    for count in counts:
        new = points[last:count]
        new = new[(new < bound).all(axis=1)]
        if len(new):
            front = moocore.filter_dominated(np.concatenate([front, new]))
        found.append(float(moocore.hypervolume(front, ref=bound)) if len(front) else 0.0)
        last = count
    return found


def _fronts(points: np.ndarray) -> np.ndarray:
    """int [k]: 0 for points dominated by none, 1 for those dominated by these only, …"""
    import moocore

    if points.shape[1] == 1:
        return np.unique(points[:, 0], return_inverse=True)[1]
    return np.asarray(moocore.pareto_rank(points))


def _points(values: Values, violations: Sequence[float]) -> tuple[list[int], np.ndarray]:
    """Indices that have values, and those values as float64 [k, objectives]."""
    if len(values) != len(violations):
        raise ValueError(f"violations: {len(violations)} for {len(values)} candidates")
    known = [i for i, v in enumerate(values) if v is not None]
    rows = [tuple(values[i] or ()) for i in known]
    for i, row in zip(known, rows, strict=True):
        if not row or len(row) != len(rows[0]):
            raise ValueError(f"values[{i}]: {len(row)} objectives where others have {len(rows[0])}")
    points = np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)
    odd = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(odd):
        raise ValueError(f"values[{known[odd[0]]}]: {rows[odd[0]]} is not finite")
    for i in known:
        if not math.isfinite(violations[i]):
            raise ValueError(f"violations[{i}]: {violations[i]} is not finite")
    return known, points
