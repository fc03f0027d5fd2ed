"""Claims on descents: taking one, storing where it stands, ending it; `LEASES` keeps them.

Every write names the attempt it was claimed with, as in `services.leases`. What is stored of a
descent is all that another worker needs to go on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from optim.descent import Job, State
from optim.recipe import Recipe
from services import outbox, registry, stored_suites
from services.db import Connection, Database, Row, rows
from services.leases import Leases
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

    @property
    def id(self) -> int:
        """For `services.leases`."""
        return self.descent


def claim(database: Database, descent: int, worker: str, config: Settings) -> Claim | None:
    """Take a queued descent, or None when there is nothing to do (done, taken, cancelled)."""
    found = LEASES.claim(database, descent, worker, config)
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
    return pool, [stored_suites.suite_from_row(r) for r in stored if r["name"] in wanted]


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
    return LEASES.end(
        database,
        "complete",
        held,
        recipe=Jsonb(recipe.to_dict()),
        weights=list(weights),
        step=step,
        cost=Jsonb(cost),
    )


def mend(database: Database, lost_after: float, config: Settings) -> int:
    """Return or abandon claims whose lease ran out, and send again for descents that nobody picked
    up; how many."""
    expired = LEASES.expire(database, config)
    with database.transaction() as connection:
        lost = [r["id"] for r in rows(connection, "descents.lost", seconds=lost_after)]
        outbox.add(connection, "descend", lost)
    return expired + len(lost)


def _ended(connection: Connection, one: Row) -> None:
    """It is told of, and its study wakes."""
    text = f"descent {one['number']} {one['state']}: {one['error']}"
    rows(connection, "studies.event", study=one["study_id"], text=text)
    outbox.add(connection, "advance", [one["study_id"]])


LEASES = Leases("descents", "descend", _ended)
