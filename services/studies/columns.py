"""Every trial of a study on one split, as columns: what plots and tables of ten thousand trials are
made of.

Reads only. Metrics come packed, one row a metric, and a second reading brings only what changed
since the first: trials that are new, were told, or have another state, and all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from services.db import Connection, Database, query, rows
from services.studies.read import CandidateView, Metric, OpenSplit, refuse_test
from services.studies.record import Study, Trial

#: of the candidates of a study
ROLES = ("reference", "single", "uniform", "greedy", "warm", "search")
STATES = ("queued", "running", "complete", "stopped", "failed", "abandoned", "cancelled")
SCAN = np.dtype(
    [("number", ">i4"), ("id", ">i8"), ("rank", ">i4"), ("state", ">i4"), ("told", ">i4")]
)
METRIC = np.dtype([("id", ">i8"), ("value", ">f8"), ("low", ">f8"), ("high", ">f8"), ("n", ">i4")])
#: text and other objects, one a trial
OBJECTS = ("role", "slot", "label", "recipe_digest", "state", "error", "race")


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """One metric of every trial: float64 [T], NaN where there is none; `n` int64 [T], 0 there."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """T trials by number. float64 unless said otherwise, NaN for what is not known."""

    split: str
    #: int64 [T]
    number: np.ndarray
    id: np.ndarray
    evaluation_id: np.ndarray
    #: object [T]: str, or None
    role: np.ndarray
    slot: np.ndarray
    label: np.ndarray
    recipe_digest: np.ndarray
    state: np.ndarray
    error: np.ndarray
    #: object [T]: what a race found, or None
    race: np.ndarray
    #: [T], seconds since 1970
    told_at: np.ndarray
    violation: np.ndarray
    #: [T], 1 is the front
    rank: np.ndarray
    #: [T], items that were scored
    items: np.ndarray
    #: [T, objectives], in the user's directions
    objectives: np.ndarray
    #: [T, groups · checkpoints]
    weights: np.ndarray
    #: by (suite, name), suite '' for all together
    metrics: dict[tuple[str, str], Numbers]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def told(self) -> np.ndarray:
        """bool [T]: it has results."""
        return ~np.isnan(self.told_at)

    @property
    def feasible(self) -> np.ndarray:
        """bool [T]: it met every constraint on this split."""
        return self.violation <= 0

    @property
    def front(self) -> np.ndarray:
        """bool [T]: dominated by none."""
        return (self.rank == 1) & self.told

    def values(self, suite: str, name: str) -> np.ndarray:
        """float64 [T]: a metric."""
        found = self.metrics.get((suite, name))
        return np.full(len(self), np.nan) if found is None else found.value

    def take(self, mask: np.ndarray) -> Columns:
        """Only some trials: bool [T], or their places."""
        if mask.dtype == bool:
            if mask.all():
                return self
            mask = np.flatnonzero(mask)  # counted once, not for each of a hundred arrays
        return self._each(lambda array: array[mask])

    def view(self, place: int) -> CandidateView:
        """One trial with its metrics."""
        found: dict[str, dict[str, Metric]] = {}
        for (suite, name), one in self.metrics.items():
            if one.n[place]:
                found.setdefault(suite, {})[name] = Metric(
                    value=_known(one.value[place]), low=_known(one.low[place]),
                    high=_known(one.high[place]), n=int(one.n[place]),
                )  # fmt: skip
        told = bool(self.told[place])
        rank = _known(self.rank[place])
        trial = Trial(
            id=int(self.id[place]), number=int(self.number[place]),
            evaluation_id=int(self.evaluation_id[place]),
            weights=tuple(self.weights[place].tolist()), told=told,
            objectives=tuple(self.objectives[place].tolist()) if told else None,
            violation=_known(self.violation[place]), rank=None if rank is None else int(rank),
            **{name: getattr(self, name)[place] for name in OBJECTS},
        )  # fmt: skip
        return CandidateView(trial=trial, split=self.split, metrics=found)

    def views(self) -> list[CandidateView]:
        """Every trial with its metrics."""
        found: list[dict[str, dict[str, Metric]]] = [{} for _ in range(len(self))]
        for (suite, name), one in self.metrics.items():
            columns = (_knowns(one.value), _knowns(one.low), _knowns(one.high), one.n.tolist())
            for by, value, low, high, n in zip(found, *columns, strict=True):
                if n:
                    by.setdefault(suite, {})[name] = Metric(value=value, low=low, high=high, n=n)
        bare = replace(self, metrics={})
        return [replace(bare.view(i), metrics=by) for i, by in enumerate(found)]

    def view_of(self, number: int | None) -> CandidateView | None:
        """The trial of that number, None where there is none."""
        places = np.flatnonzero(self.number == (-1 if number is None else number))
        return self.view(int(places[0])) if len(places) else None

    def _each(self, change: Any) -> Columns:
        """The same with every array changed."""
        arrays = {
            f.name: change(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("split", "metrics")
        }
        metrics = {
            key: Numbers(**{f.name: change(getattr(one, f.name)) for f in fields(one)})
            for key, one in self.metrics.items()
        }
        return Columns(split=self.split, metrics=metrics, **arrays)


def read_columns(
    database: Database, study: Study, split: OpenSplit, before: Columns | None = None
) -> Columns:
    """The trials as they are now; what did not change is taken from `before`, an earlier reading
    of the same study and split. Raises BadInput for the sealed split."""
    refuse_test(split)
    with database.transaction() as connection:
        rows(connection, "columns.one_moment")
        about = {"study": study.id, "split": split, "roles": list(ROLES)}
        scan = _scan(connection, about)
        if before is None:
            return replace(_read(connection, study, about, None), rank=_ranks(scan))
        at, known = _places(scan["number"], before.number)
        told = known & (scan["told"] == 1)
        same = known.copy()
        states = np.array(STATES, dtype=object)[scan["state"] - 1]
        same[known] = before.state[at[known]] == states[known]
        same[known] &= before.told[at[known]] == told[known]
        changed = scan["id"][~same].astype(np.int64)
        if len(changed):
            fresh = _read(connection, study, about, changed.tolist())
            before = _merged(before.take(at[same]), fresh, np.flatnonzero(same), len(scan))
        elif len(scan) < len(before):
            before = before.take(at)
        return replace(before, rank=_ranks(scan))


def columns_of(found: Sequence[CandidateView]) -> Columns:
    """Candidates as columns."""
    trials = [c.trial for c in found]
    axes = max((len(t.objectives) for t in trials if t.objectives), default=0)
    keys = dict.fromkeys((s, name) for c in found for s, by in c.metrics.items() for name in by)
    width = max((len(t.weights) for t in trials), default=0)
    missing = Metric(value=None, low=None, high=None, n=0)
    metrics = {}
    for suite, name in keys:
        one = [c.metrics.get(suite, {}).get(name, missing) for c in found]
        metrics[suite, name] = Numbers(
            value=_floats([m.value for m in one]), low=_floats([m.low for m in one]),
            high=_floats([m.high for m in one]), n=np.array([m.n for m in one], np.int64),
        )  # fmt: skip
    return Columns(
        split=found[0].split if found else "search",
        number=np.array([t.number for t in trials], np.int64),
        id=np.array([t.id for t in trials], np.int64),
        evaluation_id=np.array([t.evaluation_id for t in trials], np.int64),
        **{name: _objects([getattr(t, name) for t in trials]) for name in OBJECTS},
        told_at=_floats([t.number if t.objectives is not None else None for t in trials]),
        violation=_floats([t.violation for t in trials]),
        rank=_floats([t.rank for t in trials]),
        items=np.full(len(trials), np.nan),
        objectives=_table([t.objectives for t in trials], axes),
        weights=_table([t.weights for t in trials], width),
        metrics=metrics,
    )  # fmt: skip


def _scan(connection: Connection, about: dict[str, Any]) -> np.ndarray:
    values = {**about, "states": list(STATES)}
    found = connection.execute(query("columns.scan"), values, binary=True).fetchone()
    assert found is not None
    scan = np.frombuffer(found["packed"], dtype=SCAN)
    return scan[np.argsort(scan["number"])]


def _read(
    connection: Connection, study: Study, about: dict[str, Any], ids: list[int] | None
) -> Columns:
    """These trials, or all, without their ranks."""
    values = {**about, "ids": ids}
    found = connection.execute(query("columns.trials"), values, binary=True).fetchall()
    found.sort(key=lambda r: r["number"])
    number = np.array([r["number"] for r in found], np.int64)
    id_ = np.array([r["id"] for r in found], np.int64)
    width = max((len(r["weights"]) for r in found), default=0)
    return Columns(
        split=about["split"],
        number=number,
        id=id_,
        evaluation_id=np.array([r["evaluation_id"] for r in found], np.int64),
        **{name: _objects([r[name] for r in found]) for name in OBJECTS},
        told_at=_floats([r["told_at"] for r in found]),
        violation=_floats([r["violation"] for r in found]),
        rank=np.full(len(found), np.nan),
        items=_floats([r["items"] for r in found]),
        objectives=_table([r["objectives"] for r in found], study.axes),
        weights=_table([r["weights"] for r in found], width),
        metrics=_metrics(connection, values, id_),
    )


def _metrics(
    connection: Connection, values: dict[str, Any], ids: np.ndarray
) -> dict[tuple[str, str], Numbers]:
    found = {}
    order = np.argsort(ids)
    for r in connection.execute(query("columns.metrics"), values, binary=True):
        packed = np.frombuffer(r["packed"], dtype=METRIC)
        at, known = _places(packed["id"], ids[order])
        places = order[at[known]]
        one = {name: np.full(len(ids), np.nan) for name in ("value", "low", "high")}
        n = np.zeros(len(ids), np.int64)
        for name, array in one.items():
            array[places] = packed[name][known]
        n[places] = packed["n"][known]
        found[r["suite"], r["name"]] = Numbers(n=n, **one)
    return found


def _places(wanted: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted number stands among sorted ones, and whether it does."""
    if not len(among):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return at, among[at] == wanted


def _merged(kept: Columns, fresh: Columns, places: np.ndarray, total: int) -> Columns:
    """Kept trials at `places`, fresh ones in order at the others."""
    others = np.setdiff1d(np.arange(total), places)

    def join(old: np.ndarray | None, new: np.ndarray | None, like: np.ndarray) -> np.ndarray:
        shape = (total, *like.shape[1:])
        empty = 0 if like.dtype == np.int64 else None if like.dtype == object else np.nan
        array = np.full(shape, empty, dtype=like.dtype)
        for where, part in ((places, old), (others, new)):
            if part is not None and len(part):
                array[where] = part
        return array

    arrays = {
        f.name: join(getattr(kept, f.name), getattr(fresh, f.name), getattr(fresh, f.name))
        for f in fields(fresh)
        if f.name not in ("split", "metrics")
    }
    metrics = {}
    for key in dict.fromkeys((*kept.metrics, *fresh.metrics)):
        old, new = kept.metrics.get(key), fresh.metrics.get(key)
        metrics[key] = Numbers(**{
            f.name: join(
                None if old is None else getattr(old, f.name),
                None if new is None else getattr(new, f.name),
                getattr(old or new, f.name),
            )
            for f in fields(Numbers)
        })  # fmt: skip
    return Columns(split=fresh.split, metrics=metrics, **arrays)


def _ranks(scan: np.ndarray) -> np.ndarray:
    return np.where(scan["rank"] > 0, scan["rank"], np.nan)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _knowns(values: np.ndarray) -> list[float | None]:
    return [None if v != v else v for v in values.tolist()]


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _table(values: Sequence[Sequence[float] | None], width: int) -> np.ndarray:
    """float64 [T, width], NaN rows for None. A shorter row is that of all groups, repeated."""
    none = [np.nan] * width
    wide = [none if v is None else v if len(v) == width else _repeated(v, width) for v in values]
    return np.array(wide, np.float64).reshape(len(values), width)


def _repeated(row: Sequence[float], width: int) -> list[float]:
    return [*row] * (width // len(row)) if len(row) else [np.nan] * width
