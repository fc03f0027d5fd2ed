"""A study searched by the margin surrogate: learns from stored items, says how well, replays."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from services.studies import health
from tests.plugins.studies import made_up

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: modelled
pool: tiny
suites: [pick, say]
objectives: [pick, say, negative_flip_rate]
constraints: [{metric: churn, max: 0.9}]
search: {method: margin-surrogate, space: affine, parallelism: 4, options: {population: 4}}
budget: {trials: 16, finalists: 3}
"""


def test_a_study_learns_from_every_item(driver: Driver) -> None:
    driver.answers = made_up
    number = driver.submit(SPEC)
    driver.run(number)
    trials = driver.trials(number)
    searched = [t for t in trials if t.role == "search"]
    assert len({t.weights for t in searched}) == 16
    base = max(sum(t.objectives[:2]) for t in trials if t.role == "single")  # type: ignore[index]
    assert max(sum(t.objectives[:2]) for t in searched) > base  # type: ignore[index]
    (about,) = [f for f in health.findings(driver.database, driver.study(number)) if not f.mend]
    assert about.kind == "about"
    found = re.search(r"rank correlation of (\d\.\d+)", about.what)
    assert found is not None
    assert float(found[1]) > 0.5
