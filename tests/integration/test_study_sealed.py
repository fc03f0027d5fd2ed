"""The test split stays shut until the choice is made, and every opening is written down."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from services.errors import BadInput
from services.studies import control, read, sealed
from services.studies.advance import advance
from services.studies.export import export_study

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: sealed
pool: pair
suites: [pick, say, read]
search: {method: random, parallelism: 4}
budget: {trials: 3, finalists: 2}
"""


def rows_of_the_test_split(driver: Driver) -> int:
    """Evaluations, predictions and metrics of the test split, counted past all fences."""
    parts = (f"SELECT count(*) AS n FROM {t} WHERE split = 'test'" for t in TABLES)
    return sum(driver.sql(part)[0]["n"] for part in parts)


TABLES = ("evaluation", "prediction", "metric")


def test_nothing_reads_the_test_split_before_the_choice(driver: Driver) -> None:
    number = driver.submit(SPEC)
    phases = []
    for _ in range(200):
        advance(driver.database, number)
        study = driver.study(number)
        phases.append(study.phase)
        if study.phase in ("search", "validation"):
            assert rows_of_the_test_split(driver) == 0
            assert study.chosen_trial_id is None
            with pytest.raises(BadInput, match=f"sealed while study .* is in its {study.phase}"):
                sealed.final_report(driver.database, number, purpose="curious")
            assert sealed.readings(driver.database, number) == []
        waiting = driver.queued(number)
        if not waiting:
            break
        driver.finish(driver.claim(waiting[0]))
    assert list(dict.fromkeys(phases)) == ["search", "validation", "test", "done"]
    assert len(sealed.readings(driver.database, number)) == 1


def test_the_choice_does_not_depend_on_the_test_split(driver: Driver) -> None:
    number = driver.submit(SPEC)
    while driver.study(number).phase != "test":
        driver.run(number, evaluations_at_most=1)
        advance(driver.database, number)
    chosen = driver.study(number).chosen_trial_id
    assert chosen is not None
    with pytest.raises(BadInput, match="in its test phase"):
        sealed.final_report(driver.database, number, purpose="too early")
    driver.run(number)
    assert driver.study(number).chosen_trial_id == chosen


def test_every_reading_is_logged_with_its_purpose(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    report = sealed.final_report(driver.database, number, purpose="paper, table 2")
    assert {view.split for view in report} == {"test"}
    assert all(view.metrics for view in report)
    found = [(r["purpose"], r["trials"]) for r in sealed.readings(driver.database, number)]
    assert found == [
        ("final report: finalists and baselines", len(report)),
        ("paper, table 2", len(report)),
    ]


def test_the_front_is_validated_then_tested_once_and_both_are_logged(driver: Driver) -> None:
    first = driver.submit(SPEC)
    driver.run(first)
    number = driver.submit(SPEC)
    driver.run(number)
    events = [e["text"] for e in read.events(driver.database, number)]
    baselines, found = {"reference", "single", "uniform"}, driver.trials(number)
    validated = {t.number for t in driver.trials(number, "validation")}
    searched = [t for t in found if t.role not in baselines]
    front = {t.number for t in searched if t.rank == 1}
    finalists = {t.number for t in searched} & validated
    of = f"{len(front & finalists)} of the {len(front)} on the front"
    assert f"search over; validating 2 candidates, {of}, and the baselines" in events
    tested = driver.trials(number, "test")
    assert {t.number for t in tested} == validated
    opened = f"opened the test split for {len(tested)} candidates"
    assert f"{opened}; of these suites it was open to studies {first} before" in events
    assert opened in [e["text"] for e in read.events(driver.database, first)]
    advance(driver.database, number)
    assert [r["purpose"] for r in sealed.readings(driver.database, number)] == [
        "final report: finalists and baselines"
    ]
    assert sealed.opened_elsewhere(driver.database, number) == [first]
    assert sealed.opened_elsewhere(driver.database, first) == [number]


def test_other_readers_refuse_the_test_split(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    with pytest.raises(BadInput, match="sealed"):
        read.candidates(driver.database, study, "test")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="sealed"):
        read.flips(driver.database, study, 1, "test")  # type: ignore[arg-type]
    exported = json.loads(export_study(driver.database, number, "json"))
    assert "test" not in exported
    for split in ("search", "validation"):
        assert {c["split"] for c in exported[split]} == {split}
    table = csv.DictReader(io.StringIO(export_study(driver.database, number, "csv").decode()))
    assert {line["split"] for line in table} == {"search"}
    assert len(sealed.readings(driver.database, number)) == 1


def test_a_cancelled_study_stays_sealed(driver: Driver) -> None:
    study = driver.submit(SPEC)
    control.cancel(driver.database, study)
    with pytest.raises(BadInput, match="was cancelled, so its test split stays sealed"):
        sealed.final_report(driver.database, study, purpose="curiosity")
