"""Budgets of studies: the search ends at whichever limit comes first, and never goes beyond the
items that it may score, in whatever order results come in."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from services.cli.front import print_front
from services.errors import SpecRefused
from services.spec import parse_spec
from services.studies import read, views
from services.studies.preflight import preflight

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: bounded
pool: tiny
suites: [pick, say]
search: {method: random, parallelism: PARALLEL}
budget: {trials: 50, item_evaluations: ITEMS, finalists: 2}
"""


def spec(items: int, parallelism: int = 3) -> str:
    return SPEC.replace("ITEMS", str(items)).replace("PARALLEL", str(parallelism))


def scored(driver: Driver, number: int) -> int:
    """Items that were scored on the search split."""
    found = driver.sql(
        "SELECT sum(p.n) AS n FROM prediction p JOIN trial t ON t.id = p.trial_id "
        "WHERE t.study_id = %s AND p.split = 'search'",
        number,
    )
    return int(found[0]["n"])


def test_an_item_budget_is_used_up_and_kept(
    driver: Driver, assert_invariants: AssertInvariants, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    for parallelism, order in ((1, None), (3, None), (8, random.Random(4))):
        number = driver.submit(spec(700, parallelism))
        driver.run(number, order=order)
        study = driver.study(number)
        assert study.state == "finished"
        each = sum(suite.search_items for suite in study.suites)
        assert 700 - each < scored(driver, number) <= 700
        asked.append([t.slot for t in driver.trials(number) if t.role == "search"])
        assert_invariants(driver.database, number, driver.config)
    # the greedy soup takes its share first, so the rest does not depend on who was quicker
    assert asked[0] == asked[1] == asked[2]
    assert 1 < len(asked[0]) < 50
    print_front(driver.database, number)
    shown = f"search: {len(asked[2])} of 50 candidates, {scored(driver, number)} of 700 item"
    assert shown in capsys.readouterr().out


def test_progress_counts_what_the_budget_pays_for(driver: Driver) -> None:
    number = driver.submit(spec(700))
    driver.run(number, evaluations_at_most=8)
    summary = read.study_summary(driver.database, number)
    done, total = views.expected(driver.study(number), summary)
    driver.run(number)
    ended, _ = views.expected(driver.study(number), read.study_summary(driver.database, number))
    assert done == 8
    assert abs(total - ended) <= 4  # the greedy soup and the finalists are estimates


def test_the_preflight_knows_the_budget(driver: Driver) -> None:
    found = preflight(driver.database, parse_spec(spec(700)))
    assert found.items_search == 700
    assert found.candidates == (700 - 5 * found.items_per_candidate) // found.items_per_candidate
    rich = preflight(driver.database, parse_spec(spec(1_000_000)))
    assert rich.candidates == 50
    assert rich.items_search == (5 + 3 + 50) * rich.items_per_candidate


def test_a_budget_that_does_not_pay_for_one_candidate_is_refused(driver: Driver) -> None:
    each = preflight(driver.database, parse_spec(spec(10_000))).items_per_candidate
    message = rf"item_evaluations: {9 * each - 1} does not pay for 5 baselines, up to 3 greedy"
    for use in (driver.submit, lambda text: preflight(driver.database, parse_spec(text))):
        with pytest.raises(SpecRefused, match=message):
            use(spec(9 * each - 1))
    # the least that is accepted is never passed, however long the greedy soup gets
    number = driver.submit(spec(9 * each))
    driver.run(number)
    assert 6 * each <= scored(driver, number) <= 9 * each
    assert any(t.role == "search" for t in driver.trials(number))


def test_time_that_is_up_ends_the_search(driver: Driver) -> None:
    number = driver.submit(SPEC.replace("item_evaluations: ITEMS", "wall_minutes: 5").replace(
        "PARALLEL", "2"))  # fmt: skip
    driver.run(number, evaluations_at_most=10)
    assert driver.study(number).phase == "search"
    driver.sql("UPDATE study SET created_at = created_at - interval '6 minutes'")
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert sum(t.role == "search" for t in driver.trials(number)) < 10
