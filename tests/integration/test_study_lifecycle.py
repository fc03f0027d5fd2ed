"""The life of a study, driven in this process: what is asked, in what order, and how it ends."""

from __future__ import annotations

import getpass
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from optim.predictions import Predictions
from services import evaluations
from services.errors import BadInput
from services.evaluations import Claim
from services.studies import control, read
from services.studies.advance import advance
from services.suites import Suite

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: life
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: cma-es, space: affine, parallelism: 4, options: {population: 4}}
budget: {trials: 8, finalists: 2}
"""


def test_baselines_come_first_and_the_reference_is_first(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(SPEC)
    advance(driver.database, number)
    # parallelism 4: the reference and three singles; the soup waits
    assert [t.role for t in driver.trials(number)] == ["reference", "single", "single", "single"]
    driver.run(number)
    trials = driver.trials(number)
    assert [t.label for t in trials[:5]] == ["now", "left", "right", "far", "uniform soup"]
    assert trials[0].weights == (1.0, 0.0, 0.0, 0.0)
    assert trials[4].weights == (0.25,) * 4
    assert {t.role for t in trials[5:]} <= {"greedy", "search"}
    # the reference against itself: no flip, no churn
    found = read.candidates(driver.database, driver.study(number))[0].metrics[""]
    assert found["negative_flip_rate"].value == found["churn"].value == 0
    assert_invariants(driver.database, number, driver.config)


def test_a_study_ends_with_a_choice_within_its_budget(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.phase) == ("finished", "done")
    assert sum(t.role == "search" for t in driver.trials(number)) == 8
    validated = driver.trials(number, "validation")
    assert sum(t.role in ("greedy", "search") for t in validated) == 2
    assert sum(t.role not in ("greedy", "search") for t in validated) == 5
    best = max(
        (t for t in validated if (t.violation or 0.0) <= 0),
        key=lambda t: (t.objectives or (0, 0))[0] - (t.objectives or (0, 0))[1],
    )
    chosen = next(t for t in validated if t.id == study.chosen_trial_id)
    assert chosen.objectives == best.objectives
    assert {t.id for t in driver.trials(number, "test")} == {t.id for t in validated}
    assert_invariants(driver.database, number, driver.config)


def test_greedy_soup_adds_one_parent_at_a_time(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    trials = driver.trials(number)
    singles = {t.weights.index(1.0): t for t in trials if t.role in ("reference", "single")}
    steps = [t for t in trials if t.role == "greedy"]
    assert [t.slot for t in steps] == [f"greedy.{i + 1:02d}" for i in range(len(steps))]

    def merit(objectives: tuple[float, ...] | None) -> float:
        assert objectives is not None
        return (objectives[0] - objectives[1]) / 2

    by_weights = {t.weights: merit(t.objectives) for t in trials if t.role != "search"}
    order = sorted(singles, key=lambda i: (-merit(singles[i].objectives), i))
    kept, best = [order[0]], merit(singles[order[0]].objectives)
    seen = []
    for parent in order[1:]:
        members = sorted([*kept, parent])
        weights = tuple(1 / len(members) if i in members else 0.0 for i in range(4))
        seen.append(weights)
        if by_weights[weights] >= best:
            kept, best = members, by_weights[weights]
    # the soup of all four is the uniform soup, which is not evaluated twice
    assert [t.weights for t in steps] == [w for w in seen if w != (0.25,) * 4]


def test_no_search_after_the_wall_time(driver: Driver, assert_invariants: AssertInvariants) -> None:
    number = driver.submit(SPEC.replace("trials: 8", "trials: 500, wall_minutes: 5"))
    driver.run(number, evaluations_at_most=9)
    assert any(t.role == "search" for t in driver.trials(number))
    driver.sql("UPDATE study SET created_at = created_at - interval '6 minutes'")
    asked = sum(t.role == "search" for t in driver.trials(number))
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert sum(t.role == "search" for t in driver.trials(number)) == asked
    assert_invariants(driver.database, number, driver.config)


def test_nothing_feasible_ends_without_a_choice(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    text = SPEC + "constraints: [{metric: score, suite: pick, min: 1.5}]\npublish: {to: store}\n"
    number = driver.submit(text)
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.chosen_trial_id) == ("finished", None)
    events = [e["text"] for e in read.events(driver.database, number)]
    assert "no candidate meets the constraints on validation" in events
    assert all((t.violation or 0) > 0 for t in driver.trials(number))
    assert_invariants(driver.database, number, driver.config)


@pytest.mark.parametrize("split", ["search", "validation", "test"])
def test_a_study_without_its_reference_fails(
    driver: Driver, assert_invariants: AssertInvariants, split: str
) -> None:
    number = driver.submit(SPEC)
    reference_of_split = (
        "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.role = 'reference' AND e.split = %s AND e.state = 'queued'"
    )
    for _ in range(200):
        advance(driver.database, number)
        if found := driver.sql(reference_of_split, split):
            driver.fail(driver.claim(found[0]["id"]), "weights of 'now' are gone")
        elif waiting := driver.queued(number):
            driver.finish(driver.claim(waiting[0]))
        else:
            break
    study = driver.study(number)
    assert study.state == "failed"
    assert "the reference could not be evaluated" in str(study.failure)
    assert "weights of 'now' are gone" in str(study.failure)
    assert_invariants(driver.database, number, driver.config)


def test_a_failed_candidate_is_no_reason_to_stop(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(SPEC)
    for _ in range(200):
        advance(driver.database, number)
        waiting = driver.queued(number)
        if not waiting:
            break
        held = driver.claim(waiting[0])
        if held.number in (2, 6, 7):
            driver.fail(held)
        else:
            driver.finish(held)
    assert driver.study(number).state == "finished"
    assert [t.number for t in driver.trials(number) if t.state == "failed"] == [2, 6, 7]
    assert_invariants(driver.database, number, driver.config)


def _spoilt(kind: float, when: Callable[[Claim], bool]) -> Callable[[Claim, Suite], Predictions]:
    """The driver's answers, but with one log-likelihood that is not finite."""
    from tests.plugins.studies import made_up

    def answers(held: Claim, suite: Suite) -> Predictions:
        found = made_up(held, suite)
        if found.nll is not None and when(held):
            nll = found.nll.copy()
            nll[0] = kind
            return Predictions(form="text", items=found.items, nll=nll, tokens=found.tokens)
        return found

    return answers


@pytest.mark.parametrize("kind", [math.nan, math.inf])
def test_numbers_that_are_not_finite_never_reach_the_search(
    driver: Driver, assert_invariants: AssertInvariants, kind: float
) -> None:
    driver.answers = _spoilt(kind, lambda held: held.number in (1, 6))
    number = driver.submit(SPEC.replace("[macro, negative_flip_rate]", "[macro, read]"))
    driver.run(number)
    assert driver.study(number).state == "finished"
    spoilt = [t for t in driver.trials(number) if t.number in (1, 6)]
    assert [(t.state, t.objectives) for t in spoilt] == [("failed", None)] * 2
    assert all("finite" in str(t.error) for t in spoilt)
    assert_invariants(driver.database, number, driver.config)


def test_a_reference_that_is_not_finite_fails_the_study(driver: Driver) -> None:
    driver.answers = _spoilt(math.nan, lambda held: held.number == 0)
    number = driver.submit(SPEC)
    driver.run(number)
    assert driver.study(number).state == "failed"
    assert "finite" in str(driver.study(number).failure)


def test_pausing_hands_out_nothing_and_resuming_goes_on(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(SPEC)
    advance(driver.database, number)
    first, second = driver.queued(number)[:2]
    held = driver.claim(first)
    control.pause(driver.database, number)
    assert evaluations.claim(driver.database, second, "w", driver.config) is None
    # what runs may finish, and is told after the pause
    assert evaluations.LEASES.renew(driver.database, held, 0.5, driver.config)
    assert driver.finish(held)
    advance(driver.database, number)
    assert driver.trials(number)[0].objectives is None
    with pytest.raises(BadInput, match="is paused, so it cannot be paused"):
        control.pause(driver.database, number)
    control.resume(driver.database, number)
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert_invariants(driver.database, number, driver.config)


@pytest.mark.parametrize("paused", [False, True])
def test_cancelling_ends_everything_at_once(
    driver: Driver, assert_invariants: AssertInvariants, paused: bool
) -> None:
    number = driver.submit(SPEC)
    driver.run(number, evaluations_at_most=4)
    advance(driver.database, number)
    held = driver.claim(driver.queued(number)[0])
    if paused:
        control.pause(driver.database, number)
    control.cancel(driver.database, number)
    assert not evaluations.LEASES.renew(driver.database, held, 0.5, driver.config)
    assert not driver.finish(held)
    assert driver.sql("SELECT count(*) AS n FROM prediction WHERE trial_id = %s", held.trial) == [
        {"n": 0}
    ]
    advance(driver.database, number)
    assert driver.queued(number) == []
    assert driver.study(number).state == "cancelled"
    for change in (control.pause, control.resume, control.cancel):
        with pytest.raises(BadInput, match="is cancelled, so it cannot be"):
            change(driver.database, number)
    assert_invariants(driver.database, number, driver.config)


def test_one_key_one_study(driver: Driver) -> None:
    first = driver.submit(SPEC, key="nightly")
    assert driver.submit(SPEC, key="nightly") == first
    assert driver.submit(SPEC) != first
    with pytest.raises(BadInput, match="submitted with this key and another spec"):
        driver.submit(SPEC.replace("trials: 8", "trials: 9"), key="nightly")
    assert len(read.list_studies(driver.database)) == 2


def test_one_key_at_the_same_time_is_one_study(driver: Driver) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as threads:
        found = set(threads.map(lambda _: driver.submit(SPEC, key="cron"), range(6)))
    assert len(found) == 1
    hints = driver.sql("SELECT text FROM event")
    assert [h["text"] for h in hints] == [f"submitted by {getpass.getuser()}"]


def test_margins_survive_the_store(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number, evaluations_at_most=2)
    advance(driver.database, number)
    found = read.flips(driver.database, driver.study(number), 1)
    assert found
    assert {flip.kind for flip in found if flip.suite == "pick"} <= {"negative", "positive"}
    margins = [flip.new_margin for flip in found if flip.suite == "pick"]
    assert margins == sorted(margins, key=lambda m: np.inf if m is None else m)
