"""NSGA-II on the simplex with the real engine, in this process: numbers of real models go in and
come out, and what stands in the rows is what the engine said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import evaluations
from services.settings import Settings
from services.studies.advance import advance
from services.sweep import sweep
from workers.engine.results import SuiteResult
from workers.evaluation import EngineKeeper

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: front
pool: tiny
suites: [pick, say, read]
objectives: [pick, read, churn]
constraints: [{metric: negative_flip_rate, max: 0.9, confidence: null}]
search: {method: nsga-ii, space: simplex, parallelism: 4, options: {population: 4}}
budget: {trials: 9, finalists: 3}
"""


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[EngineKeeper]:
    """An engine of this process."""
    found = EngineKeeper(Settings(home=tmp_path, engine_device="cpu"))
    yield found
    found.drop()


def dies_before_the_end(driver: Driver, number: int, keeper: EngineKeeper) -> None:
    """A worker that writes every suite of the reference and dies before it says so."""
    advance(driver.database, number)
    held = driver.claim(driver.queued(number)[0])
    job = evaluations.load_job(driver.database, held)
    engine, ids = keeper.with_pool(job.pool, lambda *_: True), {s.name: i for i, s in job.suites}

    def write(done: SuiteResult) -> None:
        suite = next(s for _, s in job.suites if s.name == done.suite)
        evaluations.save_predictions(
            driver.database, held, ids[done.suite], suite, done.predictions, {}
        )

    engine.evaluate(held.recipe, [s for _, s in job.suites], held.split, on_suite=write)
    driver.sql("UPDATE evaluation SET lease_until = now() WHERE id = %s", held.evaluation)
    sweep(driver.database, driver.config)


def test_nsga_on_the_simplex_with_real_models(
    driver: Driver, keeper: EngineKeeper, assert_invariants: AssertInvariants
) -> None:
    driver.keeper = keeper
    number = driver.submit(SPEC)
    dies_before_the_end(driver, number, keeper)
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.failure) == ("finished", None)
    searched = [t for t in driver.trials(number) if t.role == "search"]
    assert len(searched) == 9
    assert all(min(t.weights) >= 0 and abs(sum(t.weights) - 1) < 1e-9 for t in searched)
    assert len({t.weights for t in searched}) == 9
    assert len({t.objectives for t in driver.trials(number)}) > 4
    assert_invariants(driver.database, number, driver.config)
    # the reference's suites were all written by an attempt that died: only its digest was missing
    reference = driver.sql("SELECT attempt, cost FROM evaluation ORDER BY id LIMIT 1")[0]
    assert (reference["attempt"], reference["cost"]["tokens"]) == (2, 0)
    # a candidate has the same bytes on every split
    digests = driver.sql(
        "SELECT count(DISTINCT weights_digest) AS n, count(*) AS splits FROM evaluation "
        "WHERE state = 'complete' GROUP BY trial_id"
    )
    assert {(d["n"], d["splits"]) for d in digests} == {(1, 1), (1, 3)}
