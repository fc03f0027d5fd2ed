"""The list of studies as its page shows it: what `views.overview` says, and hypervolume,
worker-hours and an estimate of what is left.
"""

from __future__ import annotations

from typing import Any

from optim.pareto import hypervolume
from services.db import Database, Row
from services.studies import read, views


def listing(database: Database, *, archived: bool = False) -> list[Row]:
    """Every study, newest first. `hypervolume` is None with one objective, or before the baselines
    are told; `hours` are worker-hours; `left_seconds` None where it cannot be said."""
    studies = views.overview(database, archived=archived)
    hours = {r["study"]: r["hours"] for r in database.rows("views.hours")}
    fronts: dict[int, list[Row]] = {}
    for found in database.rows("views.fronts"):
        fronts.setdefault(found["study"], []).append(found)
    for study in studies:
        study["hours"] = hours.get(study["id"], 0.0)
        directions = [direction for _, direction in study.pop("axes")]
        study["hypervolume"] = _volume(fronts.get(study["id"], []), directions)
        study["left_seconds"] = (
            _left(database, study["id"]) if study["state"] == "running" else None
        )
    return studies


def _volume(found: list[Row], directions: list[str]) -> float | None:
    """Up to the worst baseline in every objective, as in `views.progress`."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    values = [tuple(s * v for s, v in zip(signs, f["objectives"], strict=True)) for f in found]
    base = [v for v, f in zip(values, found, strict=True) if f["baseline"]]
    if len(signs) < 2 or not base:
        return None
    worst = [max(axis) for axis in zip(*base, strict=True)]
    return hypervolume(values, [f["violation"] for f in found], worst)


def _left(database: Database, study_id: int) -> float | None:
    summary: dict[str, Any] = read.study_summary(database, study_id)
    done, total = views.expected(read.get_study(database, study_id), summary)
    return views.remaining_seconds(summary, total - done)
