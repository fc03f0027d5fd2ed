"""Exported answers are lm-eval's sample logs: its own helpers and `datasets` read them, and lines
of an lm-eval task carry the same documents, arguments and hashes as lm-eval's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services import stored_suites
from services.db import Database
from services.errors import BadInput, NotFound
from services.lm_eval.load import TaskOptions, load_tasks
from services.lm_eval.tasks import read_task
from services.studies import read, sealed
from services.studies.advance import advance
from services.studies.export import export_samples

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

SPEC = """
name: logs
pool: tiny
suites: [pick, say, read, ranked, spoken]
objectives: [macro]
search: {method: random}
budget: {trials: 2}
"""
SUITES = ("pick", "say", "read", "ranked", "spoken")


@pytest.fixture
def number(driver: Driver, lm_tasks: Path) -> int:
    """A study over suites of every form, two of them made from lm-eval tasks."""
    for name, task in (("ranked", "rank"), ("spoken", "say")):
        stored_suites.store_suite(
            driver.database, read_task(name, task, TaskOptions(include_path=lm_tasks))
        )
    return driver.submit(SPEC)


def lines_of(paths: list[Path], suite: str) -> list[dict[str, Any]]:
    [path] = [path for path in paths if path.name.startswith(f"samples_{suite}_")]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lm_evals_readers_accept_what_is_written(
    driver: Driver, number: int, tmp_path: Path
) -> None:
    from datasets import load_dataset
    from lm_eval import utils

    driver.run(number)
    chosen = read.study_summary(driver.database, number)["chosen"]
    paths = export_samples(driver.database, number, tmp_path, trial=None, split="validation")
    names = [str(path) for path in paths]
    logs = utils.get_sample_results_filenames(names)
    assert [utils.get_file_task_name(Path(log).name) for log in logs] == list(SUITES)
    [results] = utils.get_results_filenames(names)
    stamps = {utils.get_file_datetime(Path(log).name) for log in logs}
    assert stamps == {Path(results).name.removeprefix("results_").removesuffix(".json")}
    study = driver.study(number)
    stored = {suite.name: suite for suite in read.suites_with_items(driver.database, study)}
    found = read.predictions(driver.database, study, chosen, "validation")
    for name in SUITES:
        lines = lines_of(paths, name)
        loaded = load_dataset(
            "json", data_files=str(next(p for p in paths if f"samples_{name}_" in p.name)),
            split="train", cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        assert len(loaded) == len(lines) == len(stored[name].split("validation"))
        assert [line["item"] for line in lines] == [i.id for i in stored[name].split("validation")]
        if name != "read":
            metric = lines[0]["metrics"][0]
            assert [line[metric] for line in lines] == found[name].correct.tolist()
        if stored[name].form == "choice":
            best = [max(line["filtered_resps"], key=lambda pair: float(pair[0])) for line in lines]
            picked = [line["filtered_resps"].index(b) for line, b in zip(lines, best, strict=True)]
            assert picked == found[name].answer.tolist()
    data = json.loads(Path(results).read_text())
    table = utils.make_table(data)
    for name in SUITES:
        assert f"|{name}" in table
    score = data["results"]["pick"]["acc,none"]
    assert score == pytest.approx(found["pick"].score())
    assert data["results"]["spoken"]["exact_match,first-word"] == found["spoken"].score()


def test_lines_of_a_task_are_those_that_lm_eval_writes(
    driver: Driver, number: int, lm_tasks: Path, tmp_path: Path
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.dummy import DummyLM

    driver.run(number)
    mine = lines_of(
        export_samples(driver.database, number, tmp_path / "a", trial=0, split="search"), "spoken"
    )
    loaded = load_tasks(["say"], TaskOptions(include_path=lm_tasks))
    results = evaluate(lm=DummyLM(), task_dict=loaded, bootstrap_iters=0, log_samples=True)
    tracker = EvaluationTracker(output_path=str(tmp_path / "b"))
    tracker.general_config_tracker.log_experiment_args("dummy", "pretrained=dummy", "", "", False)
    tracker.save_results_aggregated(results=results, samples=results["samples"])
    tracker.save_results_samples(task_name="say", samples=results["samples"]["say"])
    [file] = (tmp_path / "b").rglob("samples_say_*.jsonl")
    theirs = {
        (line["doc_id"], line["filter"]): line
        for line in map(json.loads, file.read_text().splitlines())
    }
    assert len(mine) > 5
    same = ("doc", "target", "arguments", "doc_hash", "prompt_hash", "target_hash", "metrics")
    for line in mine:
        other = theirs[line["doc_id"], "first-word"]
        assert set(other) <= set(line)
        assert {key: line[key] for key in same} == {key: other[key] for key in same}


def test_the_test_split_is_written_only_after_the_choice_and_logged(
    driver: Driver, number: int, tmp_path: Path
) -> None:
    advance(driver.database, number)
    with pytest.raises(BadInput, match="the test split is sealed while study"):
        export_samples(driver.database, number, tmp_path, trial=0, split="test")
    assert not list(tmp_path.rglob("*.jsonl"))
    driver.run(number)
    before = len(sealed.readings(driver.database, number))
    chosen = read.study_summary(driver.database, number)["chosen"]
    paths = export_samples(driver.database, number, tmp_path, trial=None, split="test")
    assert all(line["split"] == "test" for line in lines_of(paths, "pick"))
    readings = sealed.readings(driver.database, number)
    assert len(readings) == before + 1
    assert f"remelt export --lm-eval, trial {chosen}" in [r["purpose"] for r in readings]


def test_what_cannot_be_exported(driver: Driver, number: int, tmp_path: Path) -> None:
    database: Database = driver.database
    with pytest.raises(BadInput, match="has chosen no candidate"):
        export_samples(database, number, tmp_path, trial=None, split="search")
    with pytest.raises(NotFound, match=re.escape("no answers of trial 99 on the search split")):
        export_samples(database, number, tmp_path, trial=99, split="search")
