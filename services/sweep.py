"""The sweep: every few seconds it mends what a crash, a lost message or a dead broker left behind.

It decides nothing about a study; it only returns expired claims, sends hints again and wakes
studies. Any number of sweeps may run at once.
"""

from __future__ import annotations

from services import artefacts, descents, evaluations, outbox
from services.db import Database, rows
from services.settings import Settings

#: queued for longer than this many leases: the message is taken for lost
LOST_LEASES = 2.0


def sweep(database: Database, config: Settings) -> dict[str, int]:
    """Mend and relay; returns how many of each were mended."""
    lost_after = LOST_LEASES * config.lease_seconds
    done = {
        "expired": evaluations.LEASES.expire(database, config),
        "resent": evaluations.requeue_lost(database, lost_after),
        "descents": descents.mend(database, lost_after, config),
        "artefacts": artefacts.mend(database, lost_after, config),
        "woken": wake(database, 2 * config.sweep_seconds),
    }
    done["relayed"] = outbox.relay(database)
    return done


def wake(database: Database, seconds: float) -> int:
    """Hint at running studies that have nothing in flight, or results nobody told them of."""
    with database.transaction() as connection:
        sleeping = [r["id"] for r in rows(connection, "studies.sleeping", seconds=seconds)]
        outbox.add(connection, "advance", sleeping)
    return len(sleeping)
