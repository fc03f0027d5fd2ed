"""The transactional outbox: work and the hint that it exists commit together.

The relay publishes after the commit. A hint that is sent twice is harmless; one that is never
sent would stall a study, so rows leave the table only once the broker has taken them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kombu.exceptions import OperationalError

from services.db import Connection, Database, rows
from services.queue import send

log = logging.getLogger(__name__)


def add(connection: Connection, topic: str, subjects: Sequence[int]) -> None:
    """Note hints in the caller's transaction."""
    if subjects:
        rows(connection, "outbox.add", topic=topic, subjects=list(subjects))


def relay(database: Database, publish: Callable[[str, int], None] = send) -> int:
    """Send what waits; returns how many were sent. A dead broker leaves the rest in place."""
    total = 0
    while batch := database.rows("outbox.next"):
        sent: list[int] = []
        for message in batch:
            try:
                publish(message["topic"], message["subject"])
            except (OperationalError, OSError) as error:
                log.warning("broker unreachable, hints wait in the outbox: %s", error)
                break
            sent.append(message["id"])
        database.rows("outbox.sent", ids=sent)
        total += len(sent)
        if len(sent) < len(batch):
            break
    return total


def waiting(database: Database) -> int:
    """How many hints the broker has not taken yet."""
    found = database.row("outbox.waiting")
    return int(found["n"]) if found else 0
