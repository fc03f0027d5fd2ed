"""Claims on a real Postgres: who may write what, and what happens to work that nobody finishes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.predictions import Predictions, items_digest
from services import evaluations, outbox, registry, stored_suites
from services.db import Database
from services.evaluations import Claim
from services.settings import Settings
from services.spec import parse_spec
from services.studies.advance import advance
from services.studies.submit import submit
from services.suites import Suite

SPEC = "name: s\npool: tiny\nsuites: [pick]\nsearch: {parallelism: 4}\nbudget: {trials: 2}\n"


@pytest.fixture
def config(tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a short lease; hints go to a broker that nobody listens to."""
    import services.queue as queue

    config = Settings(home=tmp_path, broker_url=broker_url, lease_seconds=0.5, max_attempts=2)
    monkeypatch.setattr(queue, "settings", lambda: config)
    queue.celery_app.cache_clear()
    return config


@pytest.fixture
def study(database: Database, config: Settings, tiny_pool: Path) -> int:
    """A study whose reference waits to be evaluated."""
    folders = [str(p) for p in sorted((tiny_pool / "pool").iterdir())]
    registry.add_pool(database, config, "tiny", folders, reference="now")
    stored_suites.add_suite(database, "pick", tiny_pool / "suites" / "pick.jsonl")
    number = submit(database, parse_spec(SPEC)).study
    advance(database, number)
    return number


def first(database: Database) -> int:
    """The evaluation of trial 0."""
    with database.transaction() as connection:
        found = connection.execute("SELECT min(id) AS id FROM evaluation").fetchone()
    assert found is not None
    return int(found["id"])


def state(database: Database, evaluation: int) -> tuple[str, int]:
    """(state, attempt) of an evaluation."""
    found = database.row("evaluations.state", evaluation=evaluation)
    assert found is not None
    return found["state"], found["attempt"]


def answers(suite: Suite) -> Predictions:
    """Every answer right."""
    items = suite.split("search")
    gold = np.array([item.gold for item in items], dtype=np.uint64)
    return Predictions(
        form="choice",
        items=items_digest([item.id for item in items]),
        correct=np.ones(len(items), bool),
        answer=gold,
        margin=np.ones(len(items), np.float16),
    )


def write(database: Database, held: Claim) -> None:
    """Store what the claim asks for."""
    for suite_id, suite in evaluations.load_job(database, held).suites:
        evaluations.save_predictions(database, held, suite_id, suite, answers(suite), {})


def rows_of(database: Database, table: str) -> int:
    """How many rows a table has."""
    with database.transaction() as connection:
        query: Any = f"SELECT count(*) AS n FROM {table}"
        found = connection.execute(query).fetchone()
    assert found is not None
    return int(found["n"])


def test_one_of_many_gets_the_claim(database: Database, study: int, config: Settings) -> None:
    evaluation, barrier = first(database), threading.Barrier(4)

    def attempt(worker: int) -> Claim | None:
        barrier.wait()
        return evaluations.claim(database, evaluation, f"w{worker}", config)

    with ThreadPoolExecutor(4) as threads:
        claims = [c for c in threads.map(attempt, range(4)) if c is not None]
    assert len(claims) == 1
    assert claims[0].attempt == 1
    assert claims[0].split == "search"


def test_complete_needs_every_suite(database: Database, study: int, config: Settings) -> None:
    held = evaluations.claim(database, first(database), "w", config)
    assert held is not None
    assert not evaluations.complete(database, held, "d" * 64, {})
    write(database, held)
    assert evaluations.complete(database, held, "d" * 64, {"seconds": 1})
    assert state(database, held.evaluation) == ("complete", 1)


def test_a_zombie_cannot_write_or_finish(database: Database, study: int, config: Settings) -> None:
    old = evaluations.claim(database, first(database), "old", config)
    assert old is not None
    with database.transaction() as connection:
        connection.execute(
            "UPDATE evaluation SET lease_until = now() - interval '1 second' "
            "WHERE state = 'running'"
        )
    assert evaluations.LEASES.expire(database, config) == 1
    new = evaluations.claim(database, old.evaluation, "new", config)
    assert new is not None
    assert new.attempt == 2
    assert not evaluations.LEASES.renew(database, old, 0.5, config)
    write(database, old)
    assert rows_of(database, "prediction") == 0
    assert not evaluations.complete(database, old, "d" * 64, {})
    assert evaluations.LEASES.fail(database, old, "late", retryable=True, config=config) is None
    write(database, new)
    assert evaluations.complete(database, new, "d" * 64, {})


def test_retryable_failures_end_at_the_cap(
    database: Database, study: int, config: Settings
) -> None:
    evaluation = first(database)
    for expected in ("queued", "abandoned"):
        held = evaluations.claim(database, evaluation, "w", config)
        assert held is not None
        assert (
            evaluations.LEASES.fail(database, held, "boom", retryable=True, config=config)
            == expected
        )
    assert evaluations.claim(database, evaluation, "w", config) is None


def test_a_deterministic_failure_is_not_retried(
    database: Database, study: int, config: Settings
) -> None:
    held = evaluations.claim(database, first(database), "w", config)
    assert held is not None
    assert (
        evaluations.LEASES.fail(database, held, "nan", retryable=False, config=config) == "failed"
    )
    assert evaluations.claim(database, held.evaluation, "w", config) is None


def test_giving_back_spends_no_attempt(database: Database, study: int, config: Settings) -> None:
    evaluation = first(database)
    for attempt in range(1, 6):
        held = evaluations.claim(database, evaluation, "w", config)
        assert held is not None
        assert held.attempt == attempt
        evaluations.LEASES.give_back(database, held)
    assert state(database, evaluation) == ("queued", 5)
    assert not evaluations.complete(database, held, "d" * 64, {})


def test_a_finished_suite_is_not_asked_again(
    database: Database, study: int, config: Settings
) -> None:
    held = evaluations.claim(database, first(database), "w", config)
    assert held is not None
    write(database, held)
    job = evaluations.load_job(database, held)
    assert job.suites == []
    assert job.finished == 1


def test_results_twice_are_stored_once(database: Database, study: int, config: Settings) -> None:
    held = evaluations.claim(database, first(database), "w", config)
    assert held is not None
    write(database, held)
    for suite_id, suite in [(r["id"], stored_suites.suite_from_row(r)) for r in _suites(database)]:
        evaluations.save_predictions(database, held, suite_id, suite, answers(suite), {})
    assert rows_of(database, "prediction") == 1


def _suites(database: Database) -> list[dict[str, Any]]:
    return database.rows("studies.suites_with_content", study=1)


def test_lost_messages_are_sent_again(database: Database, study: int, config: Settings) -> None:
    assert outbox.waiting(database) == 0
    assert evaluations.requeue_lost(database, 60) == 0
    assert evaluations.requeue_lost(database, 0) == 4
    assert outbox.waiting(database) == 4
    # once in the outbox, they are not lost
    assert evaluations.requeue_lost(database, 0) == 0


def test_a_dead_broker_leaves_the_outbox_as_it_is(
    database: Database, study: int, config: Settings
) -> None:
    evaluations.requeue_lost(database, 0)

    def dead(topic: str, subject: int) -> None:
        raise ConnectionRefusedError("no broker")

    assert outbox.relay(database, dead) == 0
    assert outbox.waiting(database) == 4
    sent: list[tuple[str, int]] = []
    assert outbox.relay(database, lambda *hint: sent.append(hint)) == 4
    assert [topic for topic, _ in sent] == ["evaluate"] * 4
    assert outbox.waiting(database) == 0
