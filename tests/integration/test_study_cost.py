"""What a study has cost: sums of what workers wrote, with the real engine and by formula."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from psycopg.types.json import Jsonb

from services.cli.study import study as study_command
from services.settings import Settings
from services.studies import cost
from services.studies.advance import advance
from services.studies.cost import Part, StudyCost
from workers import energy
from workers.evaluation import EngineKeeper

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: dear
pool: tiny
suites: [pick, say]
objectives: [macro]
search: {method: random, space: simplex, parallelism: 2}
budget: {trials: 3, finalists: 1}
"""


def of(driver: Driver, number: int) -> StudyCost:
    return cost.of_study(driver.database, driver.study(number))


def costs(driver: Driver, number: int) -> list[dict[str, Any]]:
    return driver.sql(
        "SELECT e.split, t.role, e.cost, extract(epoch FROM e.finished_at - e.started_at)::float8 "
        "AS seconds FROM evaluation e JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %s",
        number,
    )


def added(parts: list[Part], name: str) -> Any:
    return sum(getattr(part, name) for part in parts)


def assert_adds_up(found: StudyCost) -> None:
    for name in ("started", "finished", "stopped", "failed", "retries", "items", "tokens"):
        assert added(list(found.parts.values()), name) == getattr(found.total, name), name
        if "descents" not in found.parts:
            assert added([c.cost for c in found.candidates], name) == getattr(found.total, name)
    for name in ("flops", "worker_seconds"):
        parts = added(list(found.parts.values()), name)
        assert parts == pytest.approx(getattr(found.total, name))


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[EngineKeeper]:
    """An engine of this process."""
    found = EngineKeeper(Settings(home=tmp_path, engine_device="cpu"))
    yield found
    found.drop()


def test_a_study_with_the_real_engine(
    driver: Driver, keeper: EngineKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.keeper = keeper
    driver.config = driver.config.model_copy(update={"carbon_country": "fra"})
    number = driver.submit(SPEC)
    driver.run(number)
    found, stored = of(driver, number), costs(driver, number)
    assert set(found.parts) == {"search", "baselines", "validation", "test"}
    assert_adds_up(found)
    assert found.parts["search"].finished == 3
    assert found.total.finished == len(stored)
    assert found.total.tokens == sum(s["cost"]["tokens"] for s in stored) > 0
    assert found.total.items == sum(s["cost"]["items"] for s in stored)
    assert found.total.flops == 2 * driver.study(number).pool.members[0].parameters * (
        found.total.tokens
    )
    whole = sum(s["cost"]["seconds"] for s in stored)
    phases = found.total.phases
    assert sum(phases[p] for p in ("form", "compile", "score", "digest")) == pytest.approx(whole)
    assert phases["forward"] <= phases["score"]
    assert found.total.worker_seconds == pytest.approx(sum(s["seconds"] for s in stored))
    assert found.total.worker_seconds >= whole
    assert found.total.peak_memory_bytes == max(s["cost"]["peak_memory_bytes"] for s in stored)
    measured = found.total.energy
    assert measured is not None
    assert (measured.measured, measured.ended) == (len(stored), len(stored))
    assert measured.kwh == pytest.approx(sum(s["cost"]["energy"]["kwh"] for s in stored))
    assert measured.kwh > 0
    assert "France" in measured.sources[0]
    shown = command(driver, monkeypatch, "cost", str(number))
    for text in ("baselines", "validation", "seconds in engines: form", "gCO2e", "France"):
        assert text in shown
    data = json.loads(command(driver, monkeypatch, "cost", str(number), "--json"))
    assert data["total"]["tokens"] == found.total.tokens


def command(driver: Driver, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("services.cli.reading.open_database", lambda: driver.database)
    result = CliRunner().invoke(study_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_what_did_not_go_well(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    number = driver.submit(SPEC.replace("random, ", "random, racing: {}, "))
    assert of(driver, number).total == of(driver, number).parts["baselines"] == Part()
    for _ in range(2):  # given up after two tries
        advance(driver.database, number)
        driver.fail(driver.claim(driver.queued(number)[1]), retryable=True)
    driver.run(number)
    one = driver.sql(
        "UPDATE evaluation SET state = 'stopped', told_at = NULL, cost = %s, race = %s "
        "WHERE id = (SELECT max(e.id) FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE e.split = 'search' AND t.role = 'search') RETURNING id",
        Jsonb({"items": 5, "tokens": 70, "seconds": 0.2}),
        Jsonb({"by": {}, "seen": {}}),
    )
    assert one
    found = of(driver, number)
    assert_adds_up(found)
    assert found.parts["baselines"].failed == 1
    assert found.total.retries == 1
    search = found.parts["search"]
    assert (search.started, search.finished, search.stopped) == (3, 2, 1)
    each = sum(suite.search_items for suite in driver.study(number).suites)
    assert search.items == 2 * each + 5
    assert search.tokens == 70
    assert found.racing is not None
    assert found.racing["saved"] == pytest.approx(1 - (2 * each + 5) / (3 * each))
    assert found.total.energy is None
    shown = command(driver, monkeypatch, "cost", str(number))
    assert "energy: not measured" in shown
    assert "1 attempts were cut short" in shown
    assert "racing: 1 of 3 candidates stopped early" in shown


def test_descents_stand_apart(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    before = of(driver, number)
    driver.sql(
        "INSERT INTO descent (study_id, number, preference, job, state, attempt, recipe, weights, "
        "cost, started_at, finished_at) VALUES (%s, 1, '{1}', '{}', 'complete', 1, '{}', '{1}', "
        "%s, now(), now() + interval '9 seconds')",
        number,
        Jsonb({"items": 10, "taught": 20, "passes": 50, "tokens": 300, "seconds": 8.0}),
    )
    found = of(driver, number)
    assert_adds_up(found)
    part = found.parts["descents"]
    assert (part.items, part.tokens, part.worker_seconds) == (50, 300, 9.0)
    # 30 items read, at the price of 50
    assert part.flops == pytest.approx(2 * found.parameters * 300 * 50 / 30)
    assert part.phases == {"descend": 8.0}
    assert found.parts["search"] == before.parts["search"]


def test_energy_is_measured_only_where_a_country_is_named() -> None:
    with energy.measured(None) as used:
        pass
    assert used == {}
