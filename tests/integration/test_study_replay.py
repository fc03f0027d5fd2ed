"""Replay: what a study suggests depends on its rows alone, never on when, where or in which order
results came in."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from services import evaluations
from services.db import Database
from services.studies import control
from services.studies.advance import advance
from services.sweep import sweep

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: replay
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: METHOD, space: affine, parallelism: PARALLEL, seed: 5, options: {OPTIONS}}
budget: {trials: 11, finalists: 3}
"""
METHODS = {
    "margin-surrogate": "population: 4",
    "metric-surrogate": "population: 4",
    "cma-es": "population: 4",
    "nsga-ii": "population: 4",
    "nsga-iii": "population: 4",
    "tpe": "population: 4",
    "bcwi": "targets: 1",
    "random": "",
}


def spec(method: str, parallelism: int) -> str:
    """A study of 11 candidates in generations of 4."""
    text = SPEC.replace("METHOD", method).replace("OPTIONS", METHODS[method])
    return text.replace("PARALLEL", str(parallelism))


def asked(driver: Driver, study: int) -> dict[str, tuple[float, ...]]:
    """Everything that was evaluated: slot -> weights."""
    return {t.slot: t.weights for t in driver.trials(study)}


def told(driver: Driver, study: int) -> dict[str, tuple[float, ...] | None]:
    """What was told: slot -> objectives."""
    return {t.slot: t.objectives for t in driver.trials(study)}


def interrupted(driver: Driver, study: int, luck: random.Random) -> None:
    """Work a study off with everything going wrong that may: crashes, late and doubled results,
    lost claims, pauses, and a control worker that is a new process each time."""
    for _ in range(500):
        advance(driver.database, study)
        waiting = driver.queued(study)
        if not waiting:
            break
        held = [driver.claim(one) for one in luck.sample(waiting, luck.randint(1, len(waiting)))]
        if luck.random() < 0.2:
            control.pause(driver.database, study)
            control.resume(driver.database, study)
        for one in luck.sample(held, len(held)):
            if one.attempt == 1 and luck.random() < 0.2:
                _lose(driver, one)
            else:
                driver.finish(one)
            if luck.random() < 0.3:
                _forget_everything(driver)
                advance(driver.database, study)


def _lose(driver: Driver, held: evaluations.Claim) -> None:
    """The worker dies after its first suite."""
    suite_id, suite = evaluations.load_job(driver.database, held).suites[0]
    found = driver.answers(held, suite)
    evaluations.save_predictions(driver.database, held, suite_id, suite, found, {})
    driver.sql(
        "UPDATE evaluation SET lease_until = now() - interval '1 s' WHERE id = %s", held.evaluation
    )
    sweep(driver.database, driver.config)


def _forget_everything(driver: Driver) -> None:
    """A process that knows nothing but where the database is."""
    driver.database.close()
    assert driver.config.database_url is not None
    driver.database = Database(driver.config.database_url.get_secret_value())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_suggestions_whatever_happens(
    driver: Driver, assert_invariants: AssertInvariants, method: str
) -> None:
    plain = driver.submit(spec(method, 1))
    driver.run(plain)
    assert driver.study(plain).state == "finished"
    for seed, parallelism in ((1, 4), (2, 16)):
        other = driver.submit(spec(method, parallelism))
        interrupted(driver, other, random.Random(seed))
        assert driver.study(other).state == "finished"
        assert asked(driver, other) == asked(driver, plain)
        assert told(driver, other) == told(driver, plain)
        assert_invariants(driver.database, other, driver.config)
    driver.database.close()


def test_the_choice_is_the_same_too(driver: Driver) -> None:
    chosen = []
    for seed in range(2):
        number = driver.submit(spec("cma-es", 8))
        driver.run(number, order=random.Random(seed))
        study = driver.study(number)
        by_id = {t.id: t.slot for t in driver.trials(number)}
        chosen.append(by_id[study.chosen_trial_id or 0])
    assert chosen[0] == chosen[1]
