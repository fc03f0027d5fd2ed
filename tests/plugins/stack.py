"""Fixtures that start the real processes: control and evaluation workers by the command lines of
`remelt`, each with an engine of its own. Whatever is started here dies with the test."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from services.cli.stack import worker_command
from services.db import Database
from services.queue import CONTROL, EVALUATE, PUBLISH
from services.settings import Settings
from services.spec import parse_spec
from services.studies import read
from services.studies.submit import submit

ROOT = Path(__file__).resolve().parents[2]
#: for everything that waits; a busy machine is slow, a broken one never gets there
PATIENCE_SECONDS = 120.0
STOP_SECONDS = 20.0


@dataclass(eq=False)
class Worker:
    """One worker process, leader of its own process group."""

    kind: str
    process: subprocess.Popen[bytes]
    log: Path
    #: ids of engines it was seen with: they have groups of their own
    engines: set[int] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        """Whether it runs; a stopped one does too."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the worker itself, not to its engine."""
        os.kill(self.process.pid, number)

    def children(self) -> list[int]:
        """Processes it has started: its engine, or Celery's clock."""
        return _children(self.process.pid)

    def engine(self) -> int | None:
        """The process id of its engine, once that runs."""
        for pid in self.children():
            if "workers.engine" in _command(pid):
                self.engines.add(pid)
                return pid
        return None

    def end(self) -> None:
        """Kill the whole group, and the engines it left."""
        self.engine()
        for group in (self.process.pid, *self.engines):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait()


class Stack:
    """A database, queues and the worker processes of one installation."""

    def __init__(self, config: Settings, database: Database) -> None:
        self.config, self.database = config, database
        self.workers: list[Worker] = []
        self._started = 0

    def start(self, kind: str, **environment: str) -> Worker:
        """Start a worker; it is ready some seconds later. `environment` adds variables."""
        self._started += 1
        log = self.config.home / "logs" / f"{kind}-{self._started}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                worker_command(kind, self._started),
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.workers.append(Worker(kind=kind, process=process, log=log))
        return self.workers[-1]

    def wait_ready(self) -> None:
        """Return once every living worker has said hello in the database."""
        for worker in self.workers:
            if worker.alive:
                name = f"%:{worker.process.pid}"
                self.wait(
                    lambda name=name: self.sql("SELECT 1 FROM worker WHERE name LIKE %s", name),
                    f"{worker.kind} worker is ready",
                )

    def of_kind(self, kind: str) -> list[Worker]:
        """Living workers of one kind."""
        return [w for w in self.workers if w.kind == kind and w.alive]

    def holder(self, evaluation: int) -> Worker:
        """The worker that holds an evaluation."""
        found = self.holds(evaluation)
        assert found is not None, f"nobody holds evaluation {evaluation}"
        return found

    def holds(self, evaluation: int) -> Worker | None:
        """The same; None where it was just given back, or was not claimed yet."""
        found = self.sql("SELECT worker FROM evaluation WHERE id = %s", evaluation)[0]["worker"]
        pid = int(str(found).rsplit(":", 1)[1]) if found else None
        return next((w for w in self.workers if w.process.pid == pid), None)

    def submit(self, text: str) -> int:
        """Submit a spec written in YAML."""
        return submit(self.database, parse_spec(text)).study

    def finished(self, study: int) -> str:
        """Wait until a study has ended; its last state."""
        ended = ("finished", "failed", "cancelled")
        self.wait(
            lambda: read.get_study(self.database, study).state in ended, f"study {study} has ended"
        )
        return read.get_study(self.database, study).state

    def sql(self, text: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of one statement, in a transaction of its own."""
        with self.database.transaction() as connection:
            cursor = connection.execute(text.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def wait(
        self, check: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS
    ) -> Any:
        """Return the first true answer of `check`; fail with the end of all logs."""
        deadline = time.monotonic() + seconds
        while not (found := check()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds:.0f} s: {what}\n{self.logs()}")
            time.sleep(0.03)
        return found

    def story(self) -> str:
        """Every change of state of every evaluation, in order."""
        found = self.sql(
            "SELECT at, evaluation, before, after, attempt, worker, error FROM audit_evaluation "
            "WHERE before <> after ORDER BY id"
        )
        return "\n".join(
            f"{f['at']:%H:%M:%S.%f} evaluation {f['evaluation']}.{f['attempt']} "
            f"{f['before']} -> {f['after']} {f['worker'] or ''} {f['error'] or ''}"
            for f in found
        )

    def logs(self) -> str:
        """The last lines of every log."""
        files = sorted((self.config.home / "logs").glob("*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-2000:]}" for f in files)

    @contextlib.contextmanager
    def queue(self) -> Iterator[redis.Redis]:
        """Valkey itself, on this stack's database number."""
        assert self.config.broker_url is not None
        url = self.config.broker_url.get_secret_value().removeprefix("redis+socket://")
        path, _, number = url.partition("?virtual_host=")
        with redis.Redis(unix_socket_path=path, db=int(number or 0)) as client:
            yield client

    def idle(self) -> bool:
        """No message waits and none is being worked on."""
        with self.queue() as client:
            waiting = sum(client.llen(name) for name in (CONTROL, EVALUATE, PUBLISH))
            return not waiting and not client.hlen("unacked")

    def stop(self) -> None:
        """End every worker; what they wrote into logs must hold no secret (I9)."""
        workers = [w for w in self.workers if w.alive]
        for worker in workers:
            worker.engine()
            with contextlib.suppress(ProcessLookupError):
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.1, deadline - time.monotonic()))
        for worker in self.workers:
            worker.end()
        self._no_secret_in_logs()

    def _no_secret_in_logs(self) -> None:
        assert self.config.database_url is not None
        password = self.config.database_url.get_secret_value().split("@")[0].rsplit(":", 1)[1]
        for file in (self.config.home / "logs").glob("*.log"):
            assert password not in file.read_text(errors="replace"), f"a secret stands in {file}"


@pytest.fixture(scope="session")
def running_stack() -> Callable[..., contextlib.AbstractContextManager[Stack]]:
    """A function (config, evaluate=2): a stack of one control and some evaluation workers."""
    return _running


@contextlib.contextmanager
def _running(config: Settings, *, evaluate: int = 2) -> Iterator[Stack]:
    assert config.database_url is not None
    database = Database(config.database_url.get_secret_value())
    stack = Stack(config, database)
    try:
        for kind in ("control", *["evaluate"] * evaluate):
            stack.start(kind)
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()
        database.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # the name in brackets may hold anything; what follows it is "state ppid …"
            rest = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(rest[1]) == pid and rest[0] != "Z":
                found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
