"""Claims on evaluations: taking one, writing results under it, ending it; `LEASES` keeps them.

Every write names the attempt it was claimed with, as in `services.leases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from optim.predictions import Predictions
from optim.recipe import Recipe
from services import outbox, registry, stored_suites
from services.db import Connection, Database, Row, rows
from services.leases import Leases
from services.predictions import Seen, pack, pack_seen
from services.settings import Settings
from services.studies.record import Split
from services.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A running attempt held by one worker."""

    evaluation: int
    attempt: int
    study: int
    trial: int
    number: int
    role: str
    slot: str
    split: Split
    pool_id: int
    recipe: Recipe

    @property
    def id(self) -> int:
        """For `services.leases`."""
        return self.evaluation


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the holder of a claim needs: the pool, and the suites that are not finished yet."""

    pool: registry.Pool
    #: (suite id, suite), without those that an earlier attempt finished
    suites: Sequence[tuple[int, Suite]]
    finished: int


def claim(database: Database, evaluation: int, worker: str, config: Settings) -> Claim | None:
    """Take a queued evaluation, or None when there is nothing to do (done, taken, cancelled)."""
    found = LEASES.claim(database, evaluation, worker, config)
    if found is None:
        return None
    return Claim(
        evaluation=found["id"],
        attempt=found["attempt"],
        study=found["study_id"],
        trial=found["trial_id"],
        number=found["number"],
        role=found["role"],
        slot=found["slot"],
        split=found["split"],
        pool_id=found["pool_id"],
        recipe=Recipe.from_dict(found["recipe"]),
    )


def load_job(database: Database, held: Claim) -> Job:
    """The pool and unfinished suites of a claim. Raises IntegrityError for a changed suite."""
    with database.transaction() as connection:
        done = {
            r["suite_id"]
            for r in rows(
                connection,
                "evaluations.finished_suites",
                trial=held.trial,
                split=held.split,
                recipe_digest=held.recipe.digest,
            )
        }
        stored = rows(connection, "studies.suites_with_content", study=held.study)
        pool = registry.pool_by_id(connection, held.pool_id)
    wanted = [(r["id"], stored_suites.suite_from_row(r)) for r in stored if r["id"] not in done]
    return Job(pool=pool, suites=wanted, finished=len(done))


def save_predictions(
    database: Database,
    held: Claim,
    suite_id: int,
    suite: Suite,
    predictions: Predictions,
    cost: dict[str, Any],
) -> None:
    """Store one finished suite; does nothing when the claim is gone or the row stands already."""
    database.rows(
        "evaluations.save_predictions",
        evaluation=held.evaluation,
        attempt=held.attempt,
        suite=suite_id,
        suite_digest=suite.digest,
        cost=Jsonb(cost),
        **pack(predictions),
    )


def complete(
    database: Database,
    held: Claim,
    weights_digest: str,
    cost: dict[str, Any],
    race: dict[str, Any] | None = None,
) -> bool:
    """End the claim as complete and wake its study, in one transaction; `race`: what it found.

    False when the claim is gone, or when a suite's row is missing.
    """
    found = None if race is None else Jsonb(race)
    return LEASES.end(
        database, "complete", held, weights_digest=weights_digest, cost=Jsonb(cost), race=found
    )


def stop(
    database: Database,
    held: Claim,
    cost: dict[str, Any],
    race: dict[str, Any],
    seen: Sequence[tuple[str, Seen]] = (),
) -> bool:
    """End the claim as stopped by its race and wake its study, in one transaction.

    `race` says by whom, and what was seen (`services.studies.racing`); `seen` is what was scored of
    unfinished suites, by name. False when the claim is gone.
    """

    def save_seen(connection: Connection) -> None:
        for suite, part in seen:
            rows(
                connection,
                "evaluations.save_seen",
                evaluation=held.evaluation,
                attempt=held.attempt,
                suite=suite,
                **pack_seen(part),
            )

    return LEASES.end(database, "stop", held, save_seen, cost=Jsonb(cost), race=Jsonb(race))


def requeue_lost(database: Database, seconds: float) -> int:
    """Send again for evaluations that stayed queued so long that their message must be gone."""
    with database.transaction() as connection:
        lost = [r["id"] for r in rows(connection, "evaluations.lost", seconds=seconds)]
        if lost:
            outbox.add(connection, "evaluate", lost)
            rows(connection, "evaluations.requeued", ids=lost)
    return len(lost)


def _ended(connection: Connection, one: Row) -> None:
    outbox.add(connection, "advance", [one["study_id"]])


LEASES = Leases("evaluations", "evaluate", _ended)


def seen(database: Database, worker: str, kind: str, info: dict[str, Any]) -> None:
    """Write that a worker is alive, and what it is doing."""
    database.rows("read.seen", name=worker, kind=kind, info=Jsonb(info))
