"""Claims on descents: taking one, keeping its lease, storing where it stands, ending it.

As `services.evaluations`, which this follows rule by rule: every write names the attempt it was
claimed with. What is stored of a descent is all that another worker needs to go on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from optim.descent import Job, State
from optim.recipe import Recipe
from services import outbox, registry
from services.db import Connection, Database, Row, row, rows
from services.settings import Settings
from services.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A running attempt held by one worker."""

    descent: int
    attempt: int
    study: int
    number: int
    pool_id: int
    job: Job
    #: where an earlier attempt had come
    state: State | None


def claim(database: Database, descent: int, worker: str, config: Settings) -> Claim | None:
    """Take a queued descent, or None when there is nothing to do (done, taken, cancelled)."""
    found = database.row(
        "descents.claim",
        descent=descent,
        worker=worker,
        lease=config.lease_seconds,
        max_attempts=config.max_attempts,
    )
    if found is None:
        return None
    return Claim(
        descent=found["id"],
        attempt=found["attempt"],
        study=found["study_id"],
        number=found["number"],
        pool_id=found["pool_id"],
        job=Job.from_dict(found["job"]),
        state=None if found["memory"] is None else State.from_bytes(found["memory"]),
    )


def load_job(database: Database, held: Claim) -> tuple[registry.Pool, list[Suite]]:
    """The pool and the suites of a claim's tasks. Raises IntegrityError for a changed suite."""
    wanted = {task.suite for task in held.job.tasks}
    with database.transaction() as connection:
        stored = rows(connection, "studies.suites_with_content", study=held.study)
        pool = registry.pool_by_id(connection, held.pool_id)
    return pool, [registry.suite_from_row(r) for r in stored if r["name"] in wanted]


def renew(database: Database, held: Claim, progress: float, config: Settings) -> bool:
    """Keep the lease; False when the claim is gone (expired and retaken, or cancelled)."""
    kept = database.row(
        "descents.renew",
        descent=held.descent,
        attempt=held.attempt,
        lease=config.lease_seconds,
        progress=progress,
    )
    return kept is not None


def save(database: Database, held: Claim, state: State) -> None:
    """Store where it stands; does nothing when the claim is gone or a later step stands already."""
    database.rows(
        "descents.save",
        descent=held.descent,
        attempt=held.attempt,
        memory=state.to_bytes(),
        step=state.step,
        cost=Jsonb({**state.about(), "passes": state.passes}),
    )


def complete(
    database: Database,
    held: Claim,
    *,
    recipe: Recipe,
    weights: tuple[float, ...],
    step: int,
    cost: dict[str, Any],
) -> bool:
    """End the claim as complete and wake its study, in one transaction; False if it is gone."""
    with database.transaction() as connection:
        ended = row(
            connection,
            "descents.complete",
            descent=held.descent,
            attempt=held.attempt,
            recipe=Jsonb(recipe.to_dict()),
            weights=list(weights),
            step=step,
            cost=Jsonb(cost),
        )
        if ended is not None:
            outbox.add(connection, "advance", [ended["study_id"]])
    if ended is not None:
        outbox.relay(database)
    return ended is not None


def fail(
    database: Database, held: Claim, error: str, *, retryable: bool, config: Settings
) -> str | None:
    """End the claim as failed; returns the new state ('queued' = will be tried again), or None
    when the claim is gone."""
    with database.transaction() as connection:
        ended = row(
            connection,
            "descents.fail",
            descent=held.descent,
            attempt=held.attempt,
            error=error[:2000],
            retryable=retryable,
            max_attempts=config.max_attempts,
        )
        if ended is None:
            return None
        _follow_up(connection, ended)
    outbox.relay(database)
    return str(ended["state"])


def give_back(database: Database, held: Claim) -> None:
    """Return a claim unharmed, for a worker that is told to stop."""
    with database.transaction() as connection:
        found = row(connection, "descents.give_back", descent=held.descent, attempt=held.attempt)
        if found is not None:
            outbox.add(connection, "descend", [held.descent])
    outbox.relay(database)


def mend(database: Database, lost_after: float, config: Settings) -> int:
    """Return or abandon claims whose lease ran out, and send again for descents that nobody picked
    up; how many."""
    with database.transaction() as connection:
        expired = rows(connection, "descents.expire", max_attempts=config.max_attempts)
        for one in expired:
            _follow_up(connection, one)
        lost = [r["id"] for r in rows(connection, "descents.lost", seconds=lost_after)]
        outbox.add(connection, "descend", lost)
    return len(expired) + len(lost)


def _follow_up(connection: Connection, ended: Row) -> None:
    """A requeued descent needs a message; an ended one is told of, and wakes its study."""
    if ended["state"] == "queued":
        outbox.add(connection, "descend", [ended["id"]])
    else:
        text = f"descent {ended['number']} {ended['state']}: {ended['error']}"
        rows(connection, "studies.event", study=ended["study_id"], text=text)
        outbox.add(connection, "advance", [ended["study_id"]])
