"""Exports of a study that has results: each opens where it is meant to, and says the same."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from optim.recipe import Recipe
from services.errors import BadInput, NotFound
from services.studies import export, read
from services.studies.export_optuna import CONSTRAINTS
from services.studies.export_table import FORMULA_MARKS, neutral


def journal(path: Path) -> JournalStorage:
    """Optuna's storage over a file."""
    return JournalStorage(JournalFileBackend(str(path)))


def test_csv_and_parquet_hold_the_same(study_with_results: Any) -> None:
    database = study_with_results.database
    frame = pd.read_parquet(io.BytesIO(export.export_study(database, 1, "parquet")))
    text = export.export_study(database, 1, "csv").decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(frame.columns) == list(lines[0])
    found = read.candidates(database, read.get_study(database, 1), "search")
    assert len(frame) == len(lines) == len(found)
    for (_, row), line, one in zip(frame.iterrows(), lines, found, strict=True):
        assert row["trial"] == int(line["trial"]) == one.trial.number
        assert row["all:macro"] == float(line["all:macro"]) == one.metrics[""]["macro"].value
        weights = [row[f"weight:{name}"] for name in frame.columns.str.removeprefix("weight:")
                   if f"weight:{name}" in frame.columns]  # fmt: skip
        assert tuple(weights) == one.trial.weights
    assert str(frame["rank"].dtype) == "Int64"
    assert (frame["feasible"] == [one.feasible for one in found]).all()


@pytest.mark.parametrize("mark", FORMULA_MARKS)
def test_no_cell_is_run_as_a_formula(study_with_results: Any, mark: str) -> None:
    assert neutral(f"{mark}1+1") == f"'{mark}1+1"
    database = study_with_results.database
    with database.transaction() as connection:
        connection.execute(
            "UPDATE trial SET label = %s WHERE study_id = 1 AND number = 3",
            (f"{mark}HYPERLINK(1)",),
        )
    text = export.export_study(database, 1, "csv").decode()
    for line in csv.reader(io.StringIO(text, newline="")):
        for cell in line:
            numeric = cell.lstrip("-+").replace(".", "").replace("e-", "").isdigit()
            assert numeric or not cell.startswith(FORMULA_MARKS), cell


def test_optuna_opens_its_copy(study_with_results: Any, tmp_path: Path) -> None:
    database = study_with_results.database
    for number in (study_with_results.finished, study_with_results.begun):
        study = read.get_study(database, number)
        path = tmp_path / f"{number}.log"
        path.write_bytes(export.export_study(database, number, "optuna"))
        copy = optuna.load_study(storage=journal(path), study_name=study.name)
        assert [d.name.lower() for d in copy.directions] == ["maximize", "minimize"]
        assert copy.metric_names == ["macro", "negative_flip_rate"]
        found = read.candidates(database, study, "search")
        assert len(copy.trials) == len(found)
        for trial, one in zip(copy.trials, found, strict=True):
            assert trial.number == one.trial.number
            assert tuple(trial.params[name] for name in study.pool.names) == one.trial.weights
            assert trial.user_attrs["role"] == one.trial.role
            if one.trial.objectives is None:
                assert trial.state.name in ("WAITING", "RUNNING")
                continue
            assert tuple(trial.values) == one.trial.objectives
            assert trial.system_attrs[CONSTRAINTS] == [one.trial.violation]
            assert trial.user_attrs["all:macro"] == one.metrics[""]["macro"].value
    # Optuna's own front of the feasible candidates is ours
    study = read.get_study(database, 1)
    copy = optuna.load_study(storage=journal(tmp_path / "1.log"), study_name=study.name)
    ours = {c.trial.number for c in read.candidates(database, study) if c.trial.rank == 1}
    assert {t.number for t in copy.best_trials} == ours


def test_ended_otherwise_is_pruned_or_failed(study_with_results: Any, tmp_path: Path) -> None:
    database = study_with_results.database
    with database.transaction() as connection:
        connection.execute(
            "UPDATE evaluation e SET state = CASE t.number WHEN 11 THEN 'failed' ELSE 'cancelled' "
            "END FROM trial t WHERE t.id = e.trial_id AND t.study_id = 2 AND t.number IN (11, 12)"
        )
    path = tmp_path / "x.log"
    path.write_bytes(export.export_study(database, 2, "optuna"))
    copy = optuna.load_study(storage=journal(path), study_name=None)
    assert [copy.trials[n].state.name for n in (11, 12)] == ["FAIL", "FAIL"]


def test_recipes_say_the_same_in_both_languages(study_with_results: Any) -> None:
    database = study_with_results.database
    study = read.get_study(database, 1)
    chosen = read.study_summary(database, 1)["chosen"]
    own = Recipe.from_dict(yaml.safe_load(export.export_study(database, 1, "recipe")))
    assert own.digest == read.trial_detail(database, study, chosen)["recipe_digest"]
    data = yaml.safe_load(export.export_study(database, 1, "mergekit"))
    weights = [part["parameters"]["weight"] for part in data["models"]]
    assert np.allclose(weights, own.weights)
    with pytest.raises(BadInput, match="has chosen no candidate"):
        export.export_study(database, 2, "recipe")


def test_what_is_not_there_is_said(study_with_results: Any) -> None:
    with pytest.raises(BadInput, match=r"'xml' is not an export format\. Use one of json"):
        export.export_study(study_with_results.database, 1, "xml")
    with pytest.raises(NotFound):
        export.export_study(study_with_results.database, 99, "csv")
