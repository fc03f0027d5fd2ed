"""Reading for pages: the list of studies, progress curves, workers and queues, pools and suites.

Reads only, and never the test split. What one study holds is read in `services.studies.read`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from optim.pareto import hypervolumes
from services import registry, stored_suites
from services.db import Database, Row
from services.pool_report import PoolReport
from services.pool_report import pool_report as report_of
from services.spec import METRICS, Objective
from services.studies import read
from services.studies.columns import Columns
from services.studies.propose import BASELINES
from services.studies.record import Study
from services.suites import Item, Split, Suite

#: points of a progress curve at most: more would not be seen
CURVE_POINTS = 40
#: evaluations of a timeline at most: more would not be told apart
MOST_SPANS = 600


def list_mark(database: Database) -> tuple[Any, ...]:
    """Differs from an earlier mark whenever some study changed; one cheap query."""
    found = database.row("views.list_mark")
    return () if found is None else tuple(found.values())


def overview(database: Database, *, archived: bool = False) -> list[Row]:
    """Every study (archived ones only where asked for) with its progress, newest first; `best`
    holds (objective, value, whether the value is in nats per token and not a share) over the
    feasible candidates of the search split, `front` their number on the front, `axes` (objective,
    direction)."""
    extremes: dict[int, dict[int, Row]] = {}
    for found in database.rows("views.extremes"):
        extremes.setdefault(found["study"], {})[found["axis"]] = found
    axes = {found["study"]: _axes(found) for found in database.rows("views.objectives")}
    studies = read.list_studies(database, archived=archived)
    for study in studies:
        known = extremes.get(study["id"], {})
        study["front"] = known[0]["front"] if known else 0
        study["axes"] = [(label, direction) for label, direction, _ in axes.get(study["id"], [])]
        study["best"] = [
            (label, known[i]["high" if direction == "maximize" else "low"], nats)
            for i, (label, direction, nats) in enumerate(axes.get(study["id"], []))
            if i in known
        ]
    return studies


def _axes(found: Row) -> list[tuple[str, str, bool]]:
    """(label, direction, in nats) of every objective, from the stored spec's parts."""
    given = found["objectives"] or [{"metric": "score", "suite": s} for s in found["suites"]]
    axes: list[tuple[str, str, bool]] = []
    for part in given:
        objective = Objective.model_validate(part)
        text = objective.metric == "score" and found["forms"].get(objective.suite) == "text"
        default = "minimize" if text else METRICS[objective.metric]
        axes.append((objective.label, objective.direction or default, text))
    return axes


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the search had come after so many evaluations."""

    evaluations: int
    #: highest mean of the objectives (minimised ones negated) of a feasible candidate
    best: float | None
    #: of the feasible candidates; None before the baselines are told, or with one objective
    hypervolume: float | None


def progress(study: Study, columns: Columns, known: Sequence[Progress] = ()) -> list[Progress]:
    """Best value and hypervolume against evaluations, in the order in which they were told.

    The hypervolume's reference point is the worst baseline in every objective: it stands as soon
    as the baselines are told, so the curve never jumps. `known`: an earlier curve of the study,
    whose points are not computed again.
    """
    told = columns.take(columns.told)
    told = told.take(np.argsort(told.told_at, kind="stable"))
    base = np.isin(told.role, BASELINES)
    if not base.any():
        return []
    values = told.objectives * np.array(study.signs)
    worst, feasible = values[base].max(axis=0), told.feasible
    merits = np.where(feasible, merits_of(study, told), -np.inf)
    best = np.maximum.accumulate(merits)
    first = int(np.flatnonzero(base).max()) + 1
    # steps that double: the points of a longer curve hold those of a shorter one
    step = 1 << max(0, (len(told) - 1) // CURVE_POINTS).bit_length()
    counts = dict.fromkeys([*range(step, len(told) + 1, step), len(told)])
    volumes = {p.evaluations: p.hypervolume for p in known if p.hypervolume is not None}
    new = [count for count in counts if count >= first and count not in volumes]
    if study.axes > 1:
        points = np.where(feasible[:, None], values, np.inf)
        volumes |= dict(zip(new, hypervolumes(points, new, worst.tolist()), strict=True))
    return [
        Progress(
            evaluations=count,
            best=float(best[count - 1]) if np.isfinite(best[count - 1]) else None,
            hypervolume=volumes.get(count),
        )
        for count in counts
    ]


def merits_of(study: Study, columns: Columns) -> np.ndarray:
    """float64 [T]: `propose.merit` of every trial, NaN for those without results."""
    return -(columns.objectives * np.array(study.signs)).mean(axis=1)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One evaluation on its worker; seconds since 1970."""

    trial: int
    split: str
    state: str
    worker: str
    attempt: int
    started: float
    #: now, while it runs
    finished: float


def timeline(database: Database, study_id: int) -> list[Span]:
    """When which worker evaluated what: the newest `MOST_SPANS` evaluations, newest first. The
    test split is among them: that it was evaluated says nothing about the answers."""
    found = database.rows("columns.spans", study=study_id, most=MOST_SPANS)
    return [Span(trial=r.pop("number"), **r) for r in found]


def workers(database: Database) -> list[Row]:
    """Workers seen within a day, with the seconds since their last heartbeat, and the tokens a
    second of their latest evaluations (None without any)."""
    pace = {r["worker"]: r["tokens_per_second"] for r in database.rows("views.throughput")}
    found = database.rows("read.workers")
    return [{**w, "tokens_per_second": pace.get(w["name"])} for w in found]


def queues(database: Database) -> list[Row]:
    """Queued and running evaluations of every study that has some."""
    return database.rows("views.queues")


def in_flight(database: Database) -> list[Row]:
    """Claimed evaluations with their worker, progress and what is left of the lease."""
    return database.rows("views.in_flight")


def publishing(database: Database) -> Row:
    """Artefacts that wait, and that are being published."""
    return database.row("views.publishing") or {"queued": 0, "running": 0}


def pools(database: Database) -> list[Row]:
    """Every pool with its size, and how many studies use it."""
    used = {r["pool"]: r["studies"] for r in database.rows("views.studies_of_pools")}
    return [{**p, "studies": used.get(p["id"], 0)} for p in database.rows("registry.pools")]


def pool(database: Database, name: str) -> registry.Pool:
    """A pool with its members; raises NotFound."""
    with database.transaction() as connection:
        return registry.pool(connection, name)


def pool_report(database: Database, name: str) -> PoolReport:
    """What a pool's checkpoints have in common; raises NotFound."""
    with database.transaction() as connection:
        return report_of(connection, registry.pool(connection, name))


def suites(database: Database) -> list[Row]:
    """The newest content of every suite's name."""
    return database.rows("registry.suites")


def suite(database: Database, name: str, study: int | None = None) -> Suite:
    """A suite with its items: the newest content, or what a study was submitted with; raises
    NotFound."""
    if study is not None:
        return read.suite_of(database, read.get_study(database, study), name)
    with database.transaction() as connection:
        return stored_suites.suite_from_row(stored_suites.suite_row(connection, name))


def studies_of_suite(database: Database, name: str) -> list[Row]:
    """Number and name of the studies that have a suite of that name, newest first."""
    return database.rows("views.studies_of_suite", name=name)


def items(database: Database, name: str, split: str, text: str = "") -> list[Item]:
    """The items of an open split of a suite's newest content whose texts hold `text`, in any case.

    Raises NotFound, or BadInput for the sealed test split.
    """
    read.refuse_test(split)
    wanted = text.casefold().strip()
    return [
        item
        for item in suite(database, name).split(cast(Split, split))
        if not wanted or wanted in "\n".join(_texts(item)).casefold()
    ]


def _texts(item: Item) -> tuple[str, ...]:
    return (item.id, item.context, *item.choices, item.prompt, item.target, item.text)


def flight(database: Database, study_id: int) -> Row:
    """How many evaluations of a study run now, and how much of them is done, in evaluations."""
    return database.row("views.flight", study=study_id) or {"running": 0, "share": 0.0}


def expected(study: Study, summary: Row) -> tuple[int, int]:
    """(ended, expected) evaluations of a study over all phases, from `read.study_summary`.

    Expected is an estimate until the end: the finals are counted before they are queued.
    """
    by_split: dict[str, int] = {}
    ended = 0
    for count in summary["counts"]:
        by_split[count["split"]] = by_split.get(count["split"], 0) + count["n"]
        ended += count["n"] if count["state"] not in ("queued", "running") else 0
    total = sum(by_split.values())
    if study.state not in ("running", "paused"):
        return ended, total
    baselines = len(study.pool.members) + 1
    asked = by_split.get("search", 0)
    if study.phase == "search":
        left = summary["left"]
        total += left + max(0, baselines - asked)
        total += 2 * (baselines + min(study.spec.budget.finalists, summary["asked"] + left))
    elif study.phase == "validation":
        total += by_split.get("validation", 0)
    return ended, total


def remaining_seconds(summary: Row, left: float) -> float | None:
    """Seconds for so many evaluations at the pace of the last ones; None before there is one."""
    pace = summary["pace"]
    if pace is None or pace["n"] < 3 or not pace["seconds"]:
        return None
    return float(left * pace["seconds"] / (pace["n"] - 1))
