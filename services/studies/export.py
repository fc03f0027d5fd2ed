"""Exporting a study: everything as JSON, a table as CSV, one recipe as mergekit YAML."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime
from typing import Any

from optim.recipe import Recipe
from services.db import Database
from services.errors import BadInput
from services.mergekit import to_mergekit
from services.studies import read
from services.studies.record import Study

#: cells that a spreadsheet would take for a formula
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def export_study(database: Database, number: int, kind: str, *, trial: int | None = None) -> str:
    """The export as text; raises NotFound, or BadInput for a kind that is not known."""
    study = read.get_study(database, number)
    if kind == "json":
        return _json(database, study)
    if kind == "csv":
        return _csv(database, study)
    if kind == "mergekit":
        return _mergekit(database, study, trial)
    raise BadInput(f"{kind!r} is not an export format", mend="Use json, csv or mergekit")


def _json(database: Database, study: Study) -> str:
    data: dict[str, Any] = dict(read.study_summary(database, study.id))
    data["spec"] = study.spec.model_dump(mode="json")
    data["checkpoints"] = [{"name": m.name, "digest": m.digest} for m in study.pool.members]
    data["suites"] = [{"name": s.name, "digest": s.digest} for s in study.suites]
    for split in ("search", "validation"):
        data[split] = [c.to_dict() for c in read.candidates(database, study, split)]
    data["events"] = list(read.events(database, study.id))
    return json.dumps(data, default=_plain, indent=2) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _csv(database: Database, study: Study) -> str:
    names = [f"weight:{name}" for name in study.pool.names]
    found = read.candidates(database, study, "search")
    metrics = sorted({(s, m) for c in found for s, by in c.metrics.items() for m in by})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["trial", "role", "label", "state", "split", "rank", "feasible"]
    writer.writerow([*header, *(f"{s or 'all'}:{m}" for s, m in metrics), *names])
    for c in found:
        values = [c.metrics.get(s, {}).get(m) for s, m in metrics]
        writer.writerow(
            [
                c.trial.number, c.trial.role, neutral(c.trial.label), c.trial.state, c.split,
                c.trial.rank, c.feasible, *("" if v is None else v.value for v in values),
                *c.trial.weights,
            ]
        )  # fmt: skip
    return out.getvalue()


def neutral(cell: str) -> str:
    """Text that no spreadsheet runs as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_MARKS) else cell


def _mergekit(database: Database, study: Study, trial: int | None) -> str:
    if trial is None:
        chosen = read.study_summary(database, study.id)["chosen"]
        if chosen is None:
            raise BadInput(
                f"study {study.id} has chosen no candidate", mend="Name one with --trial"
            )
        trial = int(chosen)
    recipe = Recipe.from_dict(read.trial_detail(database, study, trial)["recipe_data"])
    return to_mergekit(recipe, {m.digest: m.uri for m in study.pool.members})
