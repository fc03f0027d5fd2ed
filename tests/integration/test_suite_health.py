"""The health of suites beside a study: stored answers, findings of the study, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from optim.predictions import Predictions
from services import stored_suites, suite_health
from services.cli.suite import suite as suite_command
from services.evaluations import Claim
from services.findings import Finding
from services.studies import health, read, suite_answers
from services.suites import Suite
from tests.plugins.studies import from_right

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: healthy
pool: tiny
suites: [long, say, read]
objectives: [macro]
search: {method: random, space: simplex, parallelism: 4}
budget: {trials: 4, finalists: 2}
"""


@pytest.fixture
def long(driver: Driver, tmp_path: Path) -> Suite:
    """A registered suite, every tenth item of which is asked twice."""
    lines = []
    for i in range(200):
        context = f"question {i - i % 10 if i % 10 == 9 else i} [bold]"
        gold = (i * 7) % 3
        lines.append({"id": f"{i:03d}", "context": context, "choices": list("nps"), "gold": gold})
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return stored_suites.add_suite(driver.database, "long", tmp_path / "long.jsonl")[0]


def answers(held: Claim, suite: Suite) -> Predictions:
    """The first fifth is known to all, the second to nobody, the rest to a share."""
    items = suite.split(held.split)
    place = np.arange(len(items)) / len(items)
    margin = np.where(place < 0.2, 3.0, np.where(place < 0.4, -3.0, 0.0))
    weights = np.array(held.recipe.weights)
    knows = (np.arange(len(items))[:, None] % 4 == np.arange(len(weights))) @ weights
    right = np.where(margin != 0, margin > 0, knows > 0.24)
    return from_right(suite, items, right, np.where(right, 1.0, -1.0) + margin)


@pytest.fixture
def number(driver: Driver, long: Suite) -> int:
    """A finished study on it."""
    driver.answers = answers
    found = driver.submit(SPEC)
    driver.run(found)
    return found


def test_what_stored_answers_say(driver: Driver, long: Suite, number: int) -> None:
    study = driver.study(number)
    found = {one.split: one for one in suite_answers.of_study(driver.database, study, long)}
    assert set(found) == {"search", "validation"}  # never test, which has been scored too
    one = found["validation"]
    items = [item.id for item in long.split("validation")]
    fifth = len([i for i in range(len(items)) if i / len(items) < 0.2])
    assert set(items[:fifth]) <= set(one.saturated)
    assert set(items[fifth : 2 * fifth - 1]) <= set(one.hopeless)
    assert one.discordant is not None
    assert one.detectable["search"] is not None
    # all strong checkpoints miss the second fifth, and are sure of it
    assert {r.item for r in one.review} >= set(items[fifth : 2 * fifth - 1])
    first = one.review[0]
    item = next(i for i in long.items if i.id == first.item)
    assert first.gold == item.choices[item.gold] != first.answer
    assert first.agree == first.of == len(one.strong) == 2
    assert 0.5 < first.sure <= 1
    assert "now" in one.leanings
    text = read.suite_of(driver.database, study, "read")
    assert suite_answers.of_study(driver.database, study, text) == []
    said = suite_answers.of_study(driver.database, study, study_suite(driver, number, "say"))
    assert said[0].review[0].answer == "x"


def study_suite(driver: Driver, number: int, name: str) -> Suite:
    return read.suite_of(driver.database, driver.study(number), name)


def test_the_sealed_answers_are_never_read(driver: Driver, long: Suite, number: int) -> None:
    before = suite_answers.of_study(driver.database, driver.study(number), long)
    with driver.database.transaction() as connection:
        connection.execute("DELETE FROM prediction WHERE split = 'test'")
    assert suite_answers.of_study(driver.database, driver.study(number), long) == before


def of_kind(driver: Driver, number: int, kind: str) -> list[Finding]:
    found = health.findings(driver.database, driver.study(number))
    return [finding for finding in found if finding.kind == kind]


def test_a_study_says_which_suites_have_twins(driver: Driver, long: Suite, number: int) -> None:
    expected = suite_health.of_items(long)
    told = of_kind(driver, number, "twins")
    assert {("validation" in f.what, "long" in f.what) for f in told} == {
        (True, True), (False, True),
    }  # fmt: skip
    assert expected.share_of_twins("validation") > 0.02
    assert all("remelt suite health long" in f.mend for f in told)


def test_a_study_says_that_a_wanted_difference_does_not_show(driver: Driver, number: int) -> None:
    assert of_kind(driver, number, "too-small") == []  # nobody has asked for one
    study = driver.study(number)
    (told,) = health._too_small(driver.database, study, "validation", 0.01)
    assert "0.01 does not show on long" in told.what
    assert "read" not in told.what
    assert list(health._too_small(driver.database, study, "validation", 1.0)) == []


def test_the_command_line(
    driver: Driver, long: Suite, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("services.cli.suite.open_database", lambda: driver.database)
    run = CliRunner().invoke
    shown = run(suite_command, ["health", "long", "--study", str(number)], catch_exceptions=False)
    assert shown.exit_code == 0
    for text in ("twins", "golds to review", "[bold]", "naive Bayes", "validation: "):
        assert text in shown.output
    data = json.loads(
        run(suite_command, ["health", "long", "--study", str(number), "--json"]).output
    )
    assert [one["split"] for one in data["answers"]] == ["search", "validation"]
    assert data["digest"] == long.digest
    alone = json.loads(run(suite_command, ["health", "say", "--json"]).output)
    assert alone["answers"] == []
    assert "too-small" in {f["kind"] for f in alone["findings"]}
    again = run(suite_command, ["add", "other", str(tmp_path / "long.jsonl")])
    assert "! " in again.output
    assert "twin in search" in again.output
    added = json.loads(
        run(suite_command, ["add", "x", str(tmp_path / "long.jsonl"), "--json"]).output
    )
    assert "twins" in {f["kind"] for f in added["health"]}
