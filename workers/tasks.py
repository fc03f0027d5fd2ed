"""The Celery tasks. Each gets an id, asks Postgres what is to be done, and may run twice or late.

Never imports torch; the evaluation itself happens in the engine's process group.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import beat_embedded_init, worker_ready, worker_shutting_down

from services import artefacts, descents, evaluations
from services.db import Database
from services.embedded import database_url
from services.errors import (
    BadInput,
    EngineFailed,
    NotFound,
    RemeltError,
    TrialRejected,
    Unavailable,
)
from services.leases import Held, Leases
from services.queue import SWEEP_TASK, celery_app, declare_dead_letters
from services.settings import settings
from services.studies.advance import advance
from services.sweep import sweep
from workers.descent import run_descent
from workers.engine.connection import Aborted
from workers.evaluation import EngineKeeper, run_claim

log = logging.getLogger(__name__)
app = celery_app()
PR_SET_PDEATHSIG = 1
WORKER = f"{socket.gethostname()}:{os.getpid()}"
#: pause before work is given back that a store or server could not serve
OUTAGE_SECONDS = 5.0
#: set when this process is told to stop: the running evaluation is given back
stopping = threading.Event()

_database: Database | None = None
_engine: EngineKeeper | None = None


def database() -> Database:
    """This process's database, opened at first use."""
    global _database
    if _database is None:
        _database = Database(database_url(settings()))
    return _database


def engine() -> EngineKeeper:
    """This process's engine keeper; the engine itself starts with the first evaluation."""
    global _engine
    if _engine is None:
        _engine = EngineKeeper(settings())
    return _engine


@app.task(name="remelt.advance")
def advance_task(study: int) -> None:
    """Ask and tell for one study."""
    try:
        advance(database(), study)
    except NotFound:
        log.warning("advance: study %s is gone", study)


@app.task(name=SWEEP_TASK)
def sweep_task() -> None:
    """Mend what crashes left behind."""
    done = sweep(database(), settings())
    if any(done.values()):
        log.info("sweep: %s", done)


@app.task(name="remelt.evaluate")
def evaluate_task(evaluation: int) -> None:
    """Evaluate one trial on one split, if it still waits for it."""
    config = settings()
    held = None if stopping.is_set() else evaluations.claim(database(), evaluation, WORKER, config)
    if held is not None:
        what = f"evaluation {held.evaluation}"
        _carry_out(
            what,
            held,
            evaluations.LEASES,
            lambda: run_claim(database(), config, engine(), held, stopping),
        )


@app.task(name="remelt.descend")
def descend_task(descent: int) -> None:
    """Carry out one descent of a study, from where it stands, if it still waits for it."""
    config = settings()
    held = None if stopping.is_set() else descents.claim(database(), descent, WORKER, config)
    if held is not None:
        what = f"descent {held.descent}"
        _carry_out(
            what,
            held,
            descents.LEASES,
            lambda: run_descent(database(), config, engine(), held, stopping),
        )


def _carry_out(what: str, held: Held, leases: Leases, work: Callable[[], None]) -> None:
    """Do the work of a claim, and end its lease if it failed."""
    config = settings()
    try:
        work()
    except Aborted:
        if stopping.is_set():
            leases.give_back(database(), held)
        log.info("%s attempt %s stopped", what, held.attempt)
    except Unavailable as error:
        # nothing is wrong with the trial: an outage must not use up its tries
        log.warning("%s waits: %s", what, error)
        stopping.wait(OUTAGE_SECONDS)
        leases.give_back(database(), held)
    except (TrialRejected, BadInput) as error:
        log.warning("%s failed for good: %s", what, error)
        leases.fail(database(), held, str(error), retryable=False, config=config)
    except (EngineFailed, RemeltError, OSError) as error:
        log.warning("%s attempt %s: %s", what, held.attempt, error)
        engine().drop()
        leases.fail(database(), held, str(error), retryable=True, config=config)


@app.task(name="remelt.publish")
def publish_task(artefact: int) -> None:
    """Cast and publish one artefact, if it still waits for it."""
    try:
        artefacts.publish_artefact(database(), settings(), artefact, WORKER)
    except RemeltError as error:
        log.warning("artefact %s: %s", artefact, error)


@worker_ready.connect
def _say_hello(sender: Any, **_: Any) -> None:
    """Write this worker's row every few seconds, so that people see who is alive."""
    declare_dead_letters(sender.app)
    queues = sorted(sender.app.amqp.queues.consume_from)

    def beat() -> None:
        while not stopping.wait(10.0):
            _seen(queues)

    _seen(queues)
    threading.Thread(target=beat, name="worker-row", daemon=True).start()


def _seen(queues: list[str]) -> None:
    info = {"queues": queues, "pid": os.getpid(), **engine().describe()}
    try:
        evaluations.seen(database(), WORKER, "evaluate" if len(queues) > 1 else "control", info)
    except Exception:
        log.warning("could not write the worker's row", exc_info=True)


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    stopping.set()


@beat_embedded_init.connect
def _die_with_worker(**_: Any) -> None:
    """Celery's clock is a process of its own: kill −9 of the worker would leave it ticking."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
