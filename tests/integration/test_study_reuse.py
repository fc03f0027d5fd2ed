"""Starting from what earlier studies found: which results, what they are worth to the new study,
and that replaying it finds the same ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from services.studies import earlier, read
from services.studies.advance import advance
from services.studies.record import load_predictions
from services.studies.tell import measure, objective_values, violation

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver, Recorder

SPEC = """
name: again
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: random, space: simplex, parallelism: 4, seed: SEED}
budget: {trials: 5, finalists: 2}
"""
OTHER = """
name: other-question
pool: tiny
suites: [say, pick]
objectives: [say, 'churn:pick']
constraints: [{metric: macro, min: 0.71, confidence: null}]
search: {method: random, space: affine, parallelism: 4, seed: 9, reuse: true}
budget: {trials: 4, finalists: 2}
"""


def first(driver: Driver, seed: int = 0, **more: str) -> int:
    text = SPEC.replace("SEED", str(seed))
    for old, new in more.items():
        text = text.replace(old, new)
    number = driver.submit(text)
    driver.run(number)
    return number


def events(driver: Driver, number: int) -> list[str]:
    return [e["text"] for e in read.events(driver.database, number)]


def chosen(driver: Driver, number: int) -> list[int]:
    """Trials that a study starts from."""
    found = driver.sql(
        "SELECT trial_id FROM earlier_result WHERE study_id = %s ORDER BY position", number
    )
    return [row["trial_id"] for row in found]


def found_by(driver: Driver, number: int) -> list[int]:
    return [t.id for t in driver.trials(number) if t.role in ("greedy", "search") and t.told]


def test_results_are_judged_as_the_new_study_judges(
    driver: Driver, recorder: type[Recorder], assert_invariants: AssertInvariants
) -> None:
    one = first(driver)
    two = first(driver, 1)
    number = driver.submit(OTHER)
    expected = {*found_by(driver, one), *found_by(driver, two)}
    # equal soups of both studies stand for one
    digests = {t.id: t.recipe_digest for n in (one, two) for t in driver.trials(n)}
    kept = chosen(driver, number)
    assert set(kept) < expected
    assert {digests[t] for t in kept} == {digests[t] for t in expected}
    assert len({digests[t] for t in kept}) == len(kept)
    assert f"starts from {len(kept)} results of studies {one}, {two}" in events(driver, number)
    recorder.given.clear()
    driver.run(number)
    assert_invariants(driver.database, number, driver.config)
    study = driver.study(number)
    own = {f"single.{name}" for name in study.pool.names} | {"uniform"}
    known = {o.slot: o for o in recorder.given[-1][1] if o.slot not in own}
    assert len(known) == len(kept)
    told = {(n, t.slot): t for n in (one, two) for t in driver.trials(n)}
    with driver.database.transaction() as connection:
        base = next(t for t in driver.trials(number) if t.role == "reference")
        old = load_predictions(connection, study, base.id, "search")
        for slot, seen in known.items():
            n, _, rest = slot.removeprefix("study").partition(".")
            trial = told[int(n), rest]
            measured = measure(study, old, load_predictions(connection, study, trial.id, "search"))
            say, churn = objective_values(study, measured)
            assert seen.values == (-say, churn)
            assert seen.violation == violation(study, measured)
            assert seen.weights == trial.weights
            assert seen.signal is not None
            assert len(seen.signal) == sum(suite.search_items for suite in study.suites)
    assert {o.violation > 0 for o in known.values()} == {True, False}
    # nothing was evaluated again
    assert len(driver.trials(number)) <= 5 + 3 + 4


def test_what_comes_later_is_not_looked_at(driver: Driver) -> None:
    one = driver.submit(SPEC.replace("SEED", "0"))
    driver.run(one, evaluations_at_most=7)
    advance(driver.database, one)
    before = found_by(driver, one)
    number = driver.submit(OTHER)
    driver.run(one)
    driver.run(number)
    assert sorted(chosen(driver, number)) == sorted(before)
    assert len(found_by(driver, one)) > len(before) > 0


def test_results_come_newest_first_up_to_a_cap(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "MOST", 3)
    first(driver)
    two = first(driver, 1)
    number = driver.submit(OTHER)
    at = {r["trial_id"]: r["told_at"] for r in driver.sql(
        "SELECT trial_id, told_at FROM evaluation WHERE split = 'search'")}  # fmt: skip
    newest = sorted(found_by(driver, two), key=lambda t: at[t], reverse=True)
    assert chosen(driver, number) == newest[:3]


def test_only_points_of_the_space_are_used(driver: Driver) -> None:
    wide = first(driver, simplex="affine, bounds: [-3, 3]")
    outside = [t for t in driver.trials(wide) if t.told and not 0 <= min(t.weights) <= 1]
    assert outside
    narrow = driver.submit(OTHER.replace("affine", "simplex"))
    kept = chosen(driver, narrow)
    assert not {t.id for t in outside} & set(kept)
    # whole models are points of a space of groups, and the other way about only equal rows are
    grouped = driver.submit(
        OTHER.replace("simplex", "x").replace("affine", "affine, groups: kinds")
    )
    driver.run(grouped)
    with driver.database.transaction() as connection:
        found = earlier.load(connection, driver.study(grouped))
    assert found
    assert all(len(one.weights) == 12 for one in found)
    plain = driver.submit(OTHER)
    trials = driver.trials(grouped)
    kept = chosen(driver, plain)
    assert not {t.id for t in trials if t.role == "search"} & set(kept)
    # soups have equal rows, and are newer there
    assert {t.id for t in trials if t.role == "greedy" and t.told} <= set(kept)
    with driver.database.transaction() as connection:
        driver.run(plain)
        found = earlier.load(connection, driver.study(plain))
    assert all(len(one.weights) == 4 for one in found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pool: tiny", "pool: tiny\nreference: left"),
        ("pool: tiny", "pool: pair"),
        ("reuse: true", "reuse: false"),
    ],
)
def test_other_questions_start_from_nothing(driver: Driver, old: str, new: str) -> None:
    first(driver)
    number = driver.submit(OTHER.replace(old, new))
    assert chosen(driver, number) == []
    said = [e for e in events(driver, number) if "earlier" in e or "starts" in e]
    assert said == ([] if "false" in new else ["found no results of earlier studies to start from"])


def test_suites_that_were_not_evaluated_are_missed(driver: Driver) -> None:
    number = driver.submit(SPEC.replace("SEED", "0").replace("[pick, say, read]", "[pick]"))
    driver.run(number)
    assert chosen(driver, driver.submit(OTHER)) == []


def test_replay_with_earlier_results(
    driver: Driver, recorder: type[Recorder], assert_invariants: AssertInvariants
) -> None:
    first(driver)
    number = driver.submit(OTHER)
    driver.run(number, order=random.Random(3))
    assert_invariants(driver.database, number, driver.config)
    known = [[(o.slot, o.values, o.weights) for o in given[1]] for given in recorder.given
             if len(given[0].suites) == 2]  # fmt: skip
    assert all(one == known[0] for one in known)
    assert len(known[0]) > 5
