"""NSGA-II on the simplex with the real engine, in this process: numbers of real models go in and
come out, and what stands in the rows is what the engine said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.settings import Settings
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


def test_nsga_on_the_simplex_with_real_models(
    driver: Driver, keeper: EngineKeeper, assert_invariants: AssertInvariants
) -> None:
    driver.keeper = keeper
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.failure) == ("finished", None)
    searched = [t for t in driver.trials(number) if t.role == "search"]
    assert len(searched) == 9
    assert all(min(t.weights) >= 0 and abs(sum(t.weights) - 1) < 1e-9 for t in searched)
    assert len({t.weights for t in searched}) == 9
    assert len({t.objectives for t in driver.trials(number)}) > 4
    assert_invariants(driver.database, number, driver.config)
    # a candidate has the same bytes on every split
    digests = driver.sql(
        "SELECT count(DISTINCT weights_digest) AS n, count(*) AS splits FROM evaluation "
        "WHERE state = 'complete' GROUP BY trial_id"
    )
    assert {(d["n"], d["splits"]) for d in digests} == {(1, 1), (1, 3)}
