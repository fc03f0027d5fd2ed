"""Fixtures of the fault tests: an installation of its own, whose servers and workers may be hurt.

It is started once; every test leaves (or the next one finds) as many living workers as before.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from services import stored_suites
from services.db.migrate import migrate
from services.embedded import ensure_broker, ensure_postgres
from services.embedded import stop as stop_servers

if TYPE_CHECKING:
    from tests.plugins.stack import Stack, Worker

#: an evaluation that has finished its first suite and works on the second
MIDWAY = """
SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %s AND e.split = 'search' AND e.state = 'running' AND e.worker IS NOT NULL
  AND (SELECT count(*) FROM prediction p WHERE p.trial_id = t.id AND p.split = e.split) = 1
"""
LONG_ITEMS = 3000
EVALUATE_WORKERS = 2


@pytest.fixture(scope="session")
def installation(
    tiny_pool: Path,
    running_stack: Callable[..., Any],
    prepared: Callable[..., None],
    this_process: Callable[..., Any],
) -> Iterator[Stack]:
    """Postgres, Valkey, one control and two evaluation workers, with short leases."""
    home = Path(tempfile.mkdtemp(prefix="remelt-fault-"))
    url = ensure_postgres(home)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    migrate(url)
    try:
        with this_process(
            home=str(home),
            database_url=url,
            broker_url=ensure_broker(home),
            lease_seconds="4",
            sweep_seconds="1",
            max_attempts="2",
            engine_device="cpu",
        ) as config:
            prepared(url, config, tiny_pool)
            with running_stack(config, evaluate=EVALUATE_WORKERS) as stack:
                stored_suites.add_suite(stack.database, "long", _long_suite(home))
                stored_suites.add_suite(stack.database, "many", _many_choices(home))
                yield stack
    finally:
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def stack(installation: Stack) -> Iterator[Stack]:
    """The installation, with all its workers; what a test left running is cancelled."""
    yield installation
    for worker in installation.workers:
        if worker.alive:
            worker.signal(signal.SIGCONT)
    sys.stderr.write(installation.story() + installation.logs())  # shown for a failed test
    complete(installation)


def complete(stack: Stack) -> None:
    """Start what is missing; nobody waits for it yet."""
    for kind, count in (("control", 1), ("evaluate", EVALUATE_WORKERS)):
        for _ in range(count - len(stack.of_kind(kind))):
            stack.start(kind)
    with stack.queue() as client:
        # what killed workers had not acknowledged would stay for an hour
        client.delete("unacked", "unacked_index")


@pytest.fixture
def quick() -> str:
    """A study of a few seconds."""
    return SPEC.replace("SUITES", "pick, say")


@pytest.fixture
def slow() -> str:
    """A study whose second suite takes a second or so, long enough to strike in the middle."""
    return SPEC.replace("SUITES", "pick, long")


@pytest.fixture
def raced() -> str:
    """A study whose candidate is raced for a second or so, but never stopped."""
    text = SPEC.replace("SUITES", "read, many").replace(
        "parallelism: 8", "parallelism: 8, racing: {margin: 0.9}"
    )
    return text + "objectives: [many, read]\n"


SPEC = """
name: fault
pool: pair
suites: [SUITES]
search: {method: random, space: simplex, parallelism: 8}
budget: {trials: 1, finalists: 1}
"""


@dataclass(frozen=True, kw_only=True)
class Midway:
    """An evaluation in the middle of its second suite; the engine stands still."""

    evaluation: int
    worker: Worker
    engine: int


@pytest.fixture
def midway() -> Callable[[Stack, int], int]:
    """A function (stack, study): an evaluation that is just in its second suite."""
    return lambda stack, study: int(
        stack.wait(lambda: stack.sql(MIDWAY, study), "an evaluation is midway")[0]["id"]
    )


@pytest.fixture
def frozen_midway() -> Callable[[Stack, int], Midway]:
    """A function (stack, study): stop an engine between its first and its second suite."""

    def freeze(stack: Stack, study: int) -> Midway:
        while True:
            found = stack.wait(lambda: stack.sql(MIDWAY, study), "an evaluation is midway")[0]
            worker = stack.holder(found["id"])
            engine = worker.engine()
            if engine is None:
                continue
            os.kill(engine, signal.SIGSTOP)
            time.sleep(0.5)  # what it had said before is written down by now
            if found in stack.sql(MIDWAY, study):
                return Midway(evaluation=found["id"], worker=worker, engine=engine)
            os.kill(engine, signal.SIGCONT)

    return freeze


def _long_suite(folder: Path) -> Path:
    rng = random.Random(2)
    return _written(folder / "long.jsonl", [{"text": _text(rng, 60)} for _ in range(LONG_ITEMS)])


def _many_choices(folder: Path) -> Path:
    rng = random.Random(3)
    items = [
        {
            "context": _text(rng, 40),
            "choices": [f"{letter}{_text(rng, 12)}" for letter in "nps"],
            "gold": rng.randrange(3),
        }
        for _ in range(LONG_ITEMS)
    ]
    return _written(folder / "many.jsonl", items)


def _text(rng: random.Random, length: int) -> str:
    return "".join(rng.choice("abcdefgh ") for _ in range(length))


def _written(file: Path, items: list[dict[str, Any]]) -> Path:
    lines = [json.dumps({"id": f"{i:05d}", **item}) for i, item in enumerate(items)]
    file.write_text("\n".join(lines) + "\n")
    return file
