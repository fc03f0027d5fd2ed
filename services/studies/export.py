"""Exporting a study: everything as JSON, a table as CSV, one recipe as mergekit YAML, one trial's
answers as lm-eval's sample logs."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

from optim.recipe import Recipe
from services.db import Database
from services.errors import BadInput, NotFound
from services.lm_eval.samples import write_samples
from services.mergekit import to_mergekit
from services.studies import read, sealed
from services.studies.record import Split, Study
from services.studies.space import labels_of

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
    data["groups"] = labels_of(study)
    data["suites"] = [{"name": s.name, "digest": s.digest} for s in study.suites]
    for split in ("search", "validation"):
        data[split] = [c.to_dict() for c in read.candidates(database, study, split)]
    data["racing"] = read.racing_saved(database, study.id)
    data["events"] = list(read.events(database, study.id))
    return json.dumps(data, default=_plain, indent=2) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _csv(database: Database, study: Study) -> str:
    labels = labels_of(study)
    names = [
        f"weight:{name}:{label}" if label else f"weight:{name}"
        for label in labels
        for name in study.pool.names
    ]
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


def export_samples(
    database: Database, number: int, folder: Path, *, trial: int | None, split: Split
) -> list[Path]:
    """Write what a trial (the chosen one by default) answered on a split as lm-eval's logs.

    The paths written. Reading the test split is logged. Raises NotFound, or BadInput for a sealed
    test split or a study that has chosen nothing.
    """
    study = read.get_study(database, number)
    trial = _chosen(database, study) if trial is None else trial
    if split == "test":
        found = sealed.sealed_predictions(
            database, number, trial, purpose=f"remelt export --lm-eval, trial {trial}"
        )
    else:
        found = read.predictions(database, study, trial, split)
    if not found:
        raise NotFound(
            f"study {number} has no answers of trial {trial} on the {split} split",
            mend="Choose another trial or split",
        )
    detail = read.trial_detail(database, study, trial)
    suites = read.suites_with_items(database, study)
    about = {"study": number, "trial": trial, "split": split, "recipe": detail["recipe_digest"]}
    return write_samples(
        folder, [(suite, found[suite.name]) for suite in suites if suite.name in found], about
    )


def _chosen(database: Database, study: Study) -> int:
    chosen = read.study_summary(database, study.id)["chosen"]
    if chosen is None:
        raise BadInput(f"study {study.id} has chosen no candidate", mend="Name one with --trial")
    return int(chosen)


def _mergekit(database: Database, study: Study, trial: int | None) -> str:
    trial = _chosen(database, study) if trial is None else trial
    recipe = Recipe.from_dict(read.trial_detail(database, study, trial)["recipe_data"])
    return to_mergekit(recipe, {m.digest: m.uri for m in study.pool.members})
