"""Carrying out one claim: checkpoints here, pool resident, suites scored, results written.

Runs in the Celery process and therefore never imports torch.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

from services import evaluations, registry
from services.db import Database
from services.evaluations import Claim
from services.settings import Settings
from services.store import fetch_checkpoint
from workers.engine.client import Aborted, Engine, Progress, SuiteResult


class EngineKeeper:
    """One engine per worker process, started when first needed, restarted after it was dropped."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._engine: Engine | None = None
        self._pool: int | None = None

    def with_pool(self, pool: registry.Pool, on_tick: Any) -> Engine:
        """The running engine with this pool resident."""
        if self._engine is None or not self._engine.alive:
            self.drop()
            self._engine = Engine(self._config, log_dir=self._config.home / "logs")
            self._engine.start()
        members = [(m.digest, registry.local_path(m.uri, self._config)) for m in pool.members]
        self._engine.load(members, pool.dtype, progress=on_tick)
        self._pool = pool.id
        return self._engine

    def drop(self) -> None:
        """Kill the engine; the next evaluation starts a new one."""
        if self._engine is not None:
            self._engine.kill()
            self._engine = None
            self._pool = None

    def stop(self, deadline: float) -> None:
        """End the engine for good."""
        self.drop()

    def describe(self) -> dict[str, Any]:
        """For the workers table: whether an engine runs and which pool it holds."""
        alive = self._engine is not None and self._engine.alive
        return {"engine": "running" if alive else "idle", "pool": self._pool}
