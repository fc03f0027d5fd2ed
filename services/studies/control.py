"""Pause, resume and cancel. Cancelling is a column: no message is revoked, claims just end."""

from __future__ import annotations

from services import outbox
from services.db import Connection, Database, row, rows
from services.errors import BadInput
from services.studies import probes
from services.studies.record import load_study, lock_study


def pause(database: Database, study_id: int) -> None:
    """Hand out nothing new; what runs is finished. Raises BadInput unless the study runs, or has
    finished and has open probes: then these wait."""
    with database.transaction() as connection:
        _change(connection, study_id, "pause", "paused")


def resume(database: Database, study_id: int) -> None:
    """Go on where it was paused. Raises BadInput unless the study, or its probes, are paused."""
    with database.transaction() as connection:
        _change(connection, study_id, "resume", "resumed")
        queued = rows(connection, "studies.queued_evaluations", study=study_id)
        outbox.add(connection, "evaluate", [e["id"] for e in queued])
        descents = rows(connection, "descents.queued", study=study_id)
        outbox.add(connection, "descend", [d["id"] for d in descents])
        outbox.add(connection, "advance", [study_id])
    outbox.relay(database)


def cancel(database: Database, study_id: int) -> None:
    """End it now; running evaluations stop at their next heartbeat. Of a finished study, end its
    open probes. Raises BadInput when there is nothing to end."""
    with database.transaction() as connection:
        _change(connection, study_id, "cancel", "cancelled")
        rows(connection, "studies.cancel_evaluations", study=study_id)
        rows(connection, "descents.cancel", study=study_id, states=["queued", "running"])


def _change(connection: Connection, study_id: int, query: str, done: str) -> None:
    lock_study(connection, study_id)
    study = load_study(connection, study_id)
    if row(connection, f"studies.{query}", study=study_id) is None:
        if probes.steer(connection, study, query):
            rows(connection, "studies.event", study=study_id, text=f"probes {done}")
            return
        raise BadInput(
            f"study {study_id} is {study.state}, so it cannot be {done}",
            where=f"study {study_id}",
        )
    rows(connection, "studies.event", study=study_id, text=done)
