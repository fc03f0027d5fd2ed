"""Carrying out one claim: checkpoints here, pool resident, suites scored, results written.

Runs in the Celery process and therefore never imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from services import evaluations, registry
from services.db import Database
from services.errors import BadInput, IntegrityError
from services.evaluations import Claim, Job
from services.leases import Held, Leases
from services.settings import Settings
from services.studies import archive
from workers import energy
from workers.engine.client import Engine, EvaluationResult, Stopped, SuiteResult
from workers.engine.connection import Aborted


class EngineKeeper:
    """One engine per worker process, started when first needed, restarted after it was dropped."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._engine: Engine | None = None
        self._pool: str | None = None

    def with_pool(self, pool: registry.Pool, tick: Callable[..., bool]) -> Engine:
        """The running engine with this pool resident. Raises Aborted when `tick` says stop."""
        if self._engine is not None and self._engine.alive and self._pool == pool.name:
            return self._engine
        if self._engine is None or not self._engine.alive:
            self.drop()
            self._engine = Engine(self._config, log_dir=self._config.home / "logs")
        self._pool = None

        def fetching(*_: int) -> None:
            if not tick():
                raise Aborted("stopped while fetching checkpoints")

        members = [
            (m.digest, registry.local_path(m.uri, self._config, fetching)) for m in pool.members
        ]
        self._engine.load(members, pool.dtype, on_tick=tick)
        self._pool = pool.name
        return self._engine

    def drop(self) -> None:
        """Kill the engine; the next evaluation starts a new one."""
        if self._engine is not None:
            self._engine.kill()
            self._engine = None
            self._pool = None

    def describe(self) -> dict[str, Any]:
        """For the workers table: whether an engine runs, which pool it holds, where and why there,
        and how the model is spread over its ranks."""
        if self._engine is None or not self._engine.alive:
            return {"engine": "idle", "pool": self._pool}
        about = self._engine.about
        more = {"tier": about.get("pool"), "ranks": about.get("ranks")}
        return {"engine": "running", "pool": self._pool, "spread": about.get("parallel"), **more}


class Lease:
    """Renews a claim while its holder waits, and says when to stop."""

    def __init__(
        self,
        database: Database,
        config: Settings,
        held: Held,
        stopping: Event,
        leases: Leases = evaluations.LEASES,
    ) -> None:
        self._database, self._config, self._held = database, config, held
        self._stopping, self._leases = stopping, leases
        self._renewed = time.monotonic()

    def tick(self, share: float) -> bool:
        """Called every half second or so; False: stop, the claim is gone or the worker ends."""
        if self._stopping.is_set():
            return False
        if time.monotonic() - self._renewed < min(self._config.lease_seconds / 4, 5.0):
            return True
        self._renewed = time.monotonic()
        return self._leases.renew(self._database, self._held, share, self._config)


def run_claim(
    database: Database, config: Settings, keeper: EngineKeeper, held: Claim, stopping: Event
) -> None:
    """Evaluate what the claim asks for and write it down. Raises what the engine raises, or
    Aborted when the claim is gone or the worker stops."""
    try:
        job = evaluations.load_job(database, held)
    except IntegrityError as error:
        # stored items do not change back: another attempt cannot help
        raise BadInput(error.what, where=error.where, mend=error.mend) from error
    lease = Lease(database, config, held, stopping)
    engine = keeper.with_pool(job.pool, lambda *_: lease.tick(0.0))
    race = archive.load(database, held, job)
    suites = [suite for _, suite in job.suites]
    started = time.monotonic()
    ended: EvaluationResult | Stopped
    with energy.measured(config.carbon_country) as used:
        try:
            ended = engine.evaluate(
                held.recipe,
                suites if race is None else race.in_order(suites),
                held.split,
                on_suite=lambda done: _save(database, held, job, done),
                on_tick=lambda progress: lease.tick(progress.share),
                race=race,
            )
        except Stopped as stopped:
            ended = stopped
    if isinstance(ended, Stopped):
        assert race is not None
        cost: dict[str, Any] = {"seconds": time.monotonic() - started, "tokens": ended.tokens}
        cost |= {"items": race.scored, **used}
        written = evaluations.stop(database, held, cost, race.report(), race.unfinished())
    else:
        found, cost = None if race is None else race.report(), ended.cost() | used
        written = evaluations.complete(database, held, ended.weights_digest, cost, found)
    if not written:
        raise Aborted("the claim was lost before the results could be written")


def _save(database: Database, held: Claim, job: Job, done: SuiteResult) -> None:
    suite_id, suite = next((i, s) for i, s in job.suites if s.name == done.suite)
    cost = {"seconds": done.seconds, "tokens": done.tokens}
    evaluations.save_predictions(database, held, suite_id, suite, done.predictions, cost)
