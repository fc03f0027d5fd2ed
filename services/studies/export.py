"""Exporting a study: everything as JSON, its trials as CSV, Parquet or an Optuna study, one recipe
as YAML of Remelt's or mergekit's, one trial's answers as lm-eval's sample logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from optim.recipe import Recipe
from services.db import Database
from services.errors import BadInput, NotFound
from services.lm_eval.samples import write_samples
from services.mergekit import to_mergekit
from services.recipe_yaml import recipe_yaml
from services.studies import read, sealed
from services.studies.export_optuna import optuna_bytes
from services.studies.export_table import csv_text, parquet_bytes
from services.studies.record import Split, Study
from services.studies.space import labels_of


@dataclass(frozen=True)
class Format:
    """One kind of export."""

    #: for a button
    label: str
    #: of a file's name
    suffix: str
    mime: str
    #: of one trial (the chosen one by default) and not of the study
    one_trial: bool = False


FORMATS = {
    "json": Format("Everything as JSON", "json", "application/json"),
    "csv": Format("Trials as CSV", "csv", "text/csv"),
    "parquet": Format("Trials as Parquet", "parquet", "application/vnd.apache.parquet"),
    "optuna": Format("Optuna study (journal)", "optuna.log", "text/plain"),
    "recipe": Format("Chosen recipe (YAML)", "recipe.yaml", "application/yaml", one_trial=True),
    "mergekit": Format("For mergekit (YAML)", "mergekit.yaml", "application/yaml", one_trial=True),
}


def export_study(database: Database, number: int, kind: str, *, trial: int | None = None) -> bytes:
    """The export's bytes (UTF-8 where it is text).

    Raises NotFound, or BadInput for a kind that is not known, or where a recipe is asked for and
    nothing is chosen.
    """
    if kind not in FORMATS:
        raise BadInput(f"{kind!r} is not an export format", mend=f"Use one of {', '.join(FORMATS)}")
    study = read.get_study(database, number)
    if kind == "parquet":
        return parquet_bytes(database, study)
    if kind == "optuna":
        return optuna_bytes(database, study)
    if FORMATS[kind].one_trial:
        return recipe_text(database, study, kind, trial).encode()
    return (_json if kind == "json" else csv_text)(database, study).encode()


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


def recipe_text(database: Database, study: Study, kind: str, trial: int | None = None) -> str:
    """One trial's recipe as YAML; kind `recipe` is what `remelt merge` reads."""
    trial = _chosen(database, study) if trial is None else trial
    recipe = Recipe.from_dict(read.trial_detail(database, study, trial)["recipe_data"])
    if kind == "recipe":
        return recipe_yaml(recipe, {m.digest: m.name for m in study.pool.members})
    return to_mergekit(recipe, {m.digest: m.uri for m in study.pool.members})
