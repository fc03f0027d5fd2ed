"""What all claimed work has in common: taking it, keeping a lease, ending it, giving it back.

Every write names the attempt that the work was claimed with, so who lost a lease can neither write
results nor end the next attempt. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from services import outbox
from services.db import Connection, Database, Row, row, rows
from services.settings import Settings

#: characters kept of an error
ERROR_LENGTH = 2000


class Held(Protocol):
    """A claim: which piece of work, and the attempt that fences all writes."""

    @property
    def id(self) -> int:
        """The row of the work."""

    @property
    def attempt(self) -> int:
        """The number of this attempt."""


@dataclass(frozen=True)
class Leases:
    """Leases on one kind of work, by its queries `claim`, `renew`, `fail`, `give_back`, `expire`
    and those that end it."""

    #: the file of its queries
    queries: str
    #: the outbox topic that offers it to workers
    topic: str
    #: what follows when one has ended for good
    ended: Callable[[Connection, Row], None]

    def claim(self, database: Database, id: int, worker: str, config: Settings) -> Row | None:
        """Take queued work, or None when there is nothing to do (done, taken, cancelled)."""
        return database.row(
            f"{self.queries}.claim",
            id=id,
            worker=worker,
            lease=config.lease_seconds,
            max_attempts=config.max_attempts,
        )

    def end(
        self,
        database: Database,
        query: str,
        held: Held,
        before: Callable[[Connection], None] = lambda _: None,
        **values: Any,
    ) -> bool:
        """End the claim by one of its queries, after `before`, and wake its study, in one
        transaction; False when the claim is gone."""
        with database.transaction() as connection:
            before(connection)
            name = f"{self.queries}.{query}"
            ended = row(connection, name, id=held.id, attempt=held.attempt, **values)
            if ended is not None:
                outbox.add(connection, "advance", [ended["study_id"]])
        if ended is not None:
            outbox.relay(database)
        return ended is not None

    def renew(self, database: Database, held: Held, progress: float, config: Settings) -> bool:
        """Keep the lease; False when the claim is gone (expired and retaken, or cancelled)."""
        kept = database.row(
            f"{self.queries}.renew",
            id=held.id,
            attempt=held.attempt,
            lease=config.lease_seconds,
            progress=progress,
        )
        return kept is not None

    def fail(
        self, database: Database, held: Held, error: str, *, retryable: bool, config: Settings
    ) -> str | None:
        """End the claim as failed; returns the new state ('queued' = will be tried again), or
        None when the claim is gone."""
        with database.transaction() as connection:
            one = row(
                connection,
                f"{self.queries}.fail",
                id=held.id,
                attempt=held.attempt,
                error=error[:ERROR_LENGTH],
                retryable=retryable,
                max_attempts=config.max_attempts,
            )
            if one is None:
                return None
            self._follow_up(connection, one)
        outbox.relay(database)
        return str(one["state"])

    def give_back(self, database: Database, held: Held) -> None:
        """Return a claim unharmed, for a worker that is told to stop."""
        with database.transaction() as connection:
            query = f"{self.queries}.give_back"
            if row(connection, query, id=held.id, attempt=held.attempt) is not None:
                outbox.add(connection, self.topic, [held.id])
        outbox.relay(database)

    def expire(self, database: Database, config: Settings) -> int:
        """Return or abandon claims whose lease ran out; how many."""
        with database.transaction() as connection:
            query = f"{self.queries}.expire"
            found = rows(connection, query, max_attempts=config.max_attempts)
            for one in found:
                self._follow_up(connection, one)
        return len(found)

    def _follow_up(self, connection: Connection, one: Row) -> None:
        """Queued again, it needs a message; ended, somebody has to know."""
        if one["state"] == "queued":
            outbox.add(connection, self.topic, [one["id"]])
        else:
            self.ended(connection, one)
