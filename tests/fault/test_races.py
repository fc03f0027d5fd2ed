"""Things that happen at the same moment, on a real Postgres and without worker processes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from services import evaluations
from services.evaluations import Claim
from services.studies import control
from services.studies.advance import advance
from services.sweep import sweep

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: race
pool: tiny
suites: [pick, say, read]
search: {method: random, parallelism: 16}
budget: {trials: 16, finalists: 2}
"""


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Results of the calls, started at the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def with_candidates(driver: Driver) -> int:
    """A study whose baselines are told and whose candidates wait."""
    study = driver.submit(SPEC)
    driver.run(study, evaluations_at_most=5)
    advance(driver.database, study)
    assert len(driver.queued(study)) == 16
    return study


@pytest.mark.parametrize("seed", range(3))
def test_cancel_against_claims(
    driver: Driver, assert_invariants: AssertInvariants, seed: int
) -> None:
    study = with_candidates(driver)
    waiting = random.Random(seed).sample(driver.queued(study), 6)

    def take(one: int) -> Claim | None:
        held = evaluations.claim(driver.database, one, "w", driver.config)
        if held is not None:
            driver.finish(held)
        return held

    def end() -> None:
        control.cancel(driver.database, study)

    at_once(end, *(lambda one=one: take(one) for one in waiting))  # type: ignore[misc]
    assert driver.queued(study) == []
    assert driver.study(study).state == "cancelled"
    for one in waiting:
        assert evaluations.claim(driver.database, one, "late", driver.config) is None
    assert_invariants(driver.database, study, driver.config)


def test_many_advances_at_once(driver: Driver, assert_invariants: AssertInvariants) -> None:
    study = driver.submit(SPEC)

    def step() -> None:
        advance(driver.database, study)

    for _ in range(200):
        at_once(step, step, step, step)
        waiting = driver.queued(study)
        if not waiting:
            break
        at_once(*(lambda one=one: driver.finish(driver.claim(one)) for one in waiting[:6]))  # type: ignore[misc]
    assert driver.study(study).state == "finished"
    slots = [t.slot for t in driver.trials(study)]
    assert len(slots) == len(set(slots))
    texts = [e["text"] for e in driver.sql("SELECT text FROM event WHERE study_id = %s", study)]
    assert len(texts) == len(set(texts))
    assert_invariants(driver.database, study, driver.config)


def test_sweeps_against_late_workers(driver: Driver, assert_invariants: AssertInvariants) -> None:
    """Leases run out while their holders still write: each evaluation has one author per suite."""
    study = with_candidates(driver)
    claims = [driver.claim(one) for one in driver.queued(study)[:6]]
    driver.sql("UPDATE evaluation SET lease_until = now() WHERE state = 'running'")

    def mend() -> None:
        sweep(driver.database, driver.config)

    at_once(mend, mend, *(lambda c=c: driver.finish(c) for c in claims))  # type: ignore[misc]
    assert_invariants(driver.database, study, driver.config)
    driver.run(study)
    assert driver.study(study).state == "finished"
    assert_invariants(driver.database, study, driver.config)


def test_a_late_worker_cannot_end_the_next_attempt(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    """Not even when every suite was written before its lease ran out."""
    study = driver.submit(SPEC)
    advance(driver.database, study)
    old = driver.claim(driver.queued(study)[0], "old")
    for suite_id, suite in evaluations.load_job(driver.database, old).suites:
        found = driver.answers(old, suite)
        evaluations.save_predictions(driver.database, old, suite_id, suite, found, {})
    driver.sql("UPDATE evaluation SET lease_until = now() WHERE state = 'running'")
    sweep(driver.database, driver.config)
    new = driver.claim(old.evaluation, "new")
    assert not evaluations.complete(driver.database, old, "0" * 64, {})
    driver.fail(old)
    evaluations.LEASES.give_back(driver.database, old)
    stands = driver.sql(
        "SELECT state, attempt, worker FROM evaluation WHERE id = %s", new.evaluation
    )
    assert stands == [{"state": "running", "attempt": 2, "worker": "new"}]
    # nothing is left to score, only to finish
    assert evaluations.load_job(driver.database, new).suites == []
    assert driver.finish(new)
    assert_invariants(driver.database, study, driver.config)


def test_pause_and_resume_against_claims(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    study = with_candidates(driver)
    waiting = driver.queued(study)

    def flicker() -> None:
        for _ in range(5):
            control.pause(driver.database, study)
            control.resume(driver.database, study)

    def take(some: list[int]) -> None:
        for one in some:
            held = evaluations.claim(driver.database, one, "w", driver.config)
            if held is not None:
                driver.finish(held)

    at_once(flicker, lambda: take(waiting[::2]), lambda: take(waiting[1::2]))
    driver.run(study)
    assert driver.study(study).state == "finished"
    assert_invariants(driver.database, study, driver.config)
