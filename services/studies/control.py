"""Steering a study: pause, resume, cancel, archive, edit its budget. Cancelling is a column: no
message is revoked, claims just end.

Whoever submitted a study steers it, and admins; every function takes who acts (`by`, None: the user
of the operating system), raises Forbidden, and writes who it was into the study's events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from psycopg.types.json import Jsonb

from optim.search.base import generation_of
from services import outbox
from services.access import User, allow
from services.artefacts import queue_artefact
from services.db import Connection, Database, row, rows
from services.errors import BadInput
from services.spec import StudySpec, spec_from_dict
from services.studies import probes
from services.studies.record import Split, Study, Trial, load_study, load_trials, lock_study

#: what resuming evaluates: what is unfinished; also what was given up after too many tries; also
#: what failed for a reason of its own
Again = Literal["unfinished", "failed", "all"]
AGAIN: dict[Again, tuple[str, ...]] = {
    "unfinished": (),
    "failed": ("abandoned",),
    "all": ("abandoned", "failed"),
}
#: what of a spec may be edited while the study searches
EDITABLE = ("trials", "item_evaluations", "wall_minutes")
STAGES: tuple[Split, ...] = ("search", "validation", "test")
#: what of a finished study is done to its probes instead
PROBED = ("pause", "cancel")


def pause(database: Database, study_id: int, *, by: User | None = None) -> None:
    """Hand out nothing new; what runs is finished. Raises BadInput unless the study runs, or has
    finished and has open probes: then these wait."""
    with database.transaction() as connection:
        _change(connection, study_id, "pause", "paused", by)


def resume(
    database: Database, study_id: int, again: Again = "unfinished", *, by: User | None = None
) -> int:
    """Go on where it was paused, or where it failed; how many evaluations are tried again.

    A failed candidate is tried again only while nothing was built on its failure: once the searcher
    has suggested a later generation, its rows must stay what that was suggested from. Raises
    BadInput unless the study, or its probes, are paused, or it failed and there is something to try
    again.
    """
    with database.transaction() as connection:
        study, who = _mine(connection, study_id, "resume", by)
        if study.state in ("paused", "failed"):
            text, retried = _go_on(connection, study, again, who)
        elif probes.steer(connection, study, "resume"):
            text, retried = f"probes resumed by {who}", 0
        else:
            raise _wrong(study, "resumed")
        rows(connection, "studies.event", study=study_id, text=text)
        queued = rows(connection, "studies.queued_evaluations", study=study_id)
        outbox.add(connection, "evaluate", [e["id"] for e in queued])
        descents = rows(connection, "descents.queued", study=study_id)
        outbox.add(connection, "descend", [d["id"] for d in descents])
        outbox.add(connection, "advance", [study_id])
    outbox.relay(database)
    return retried


def _go_on(connection: Connection, study: Study, again: Again, who: str) -> tuple[str, int]:
    """(what to tell, evaluations tried again) of a paused or failed study that runs now."""
    stage = study.phase if study.state == "paused" else _stage(connection, study)
    retried, kept = _try_again(connection, study, stage, again)
    if study.state == "failed" and not retried:
        raise BadInput(
            f"study {study.id} failed and nothing of it can be tried again",
            where=f"study {study.id}",
            mend="Resume with `all`, or clone it",
        )
    rows(connection, "studies.resume", study=study.id, phase=stage)
    text = f"resumed by {who}"
    if retried:
        text += f"; {retried} failed evaluations are tried again"
    if kept:
        text += f"; {kept} stay failed, for later candidates were suggested from that"
    return text, retried


def cancel(database: Database, study_id: int, *, by: User | None = None) -> None:
    """End it now; running evaluations stop at their next heartbeat. Of a finished study, end its
    open probes. Raises BadInput when there is nothing to end."""
    with database.transaction() as connection:
        _change(connection, study_id, "cancel", "cancelled", by)
        rows(connection, "studies.cancel_evaluations", study=study_id)
        rows(connection, "descents.cancel", study=study_id, states=["queued", "running"])


def archive(database: Database, study_id: int, *, by: User | None = None) -> None:
    """Hide an ended study from the list; everything of it stays. Raises BadInput while it runs, or
    when it is archived."""
    with database.transaction() as connection:
        _change(connection, study_id, "archive", "archived", by)


def unarchive(database: Database, study_id: int, *, by: User | None = None) -> None:
    """Show an archived study in the list again. Raises BadInput when it is not archived."""
    with database.transaction() as connection:
        _change(connection, study_id, "unarchive", "taken out of the archive", by)


def edit(
    database: Database, study_id: int, changes: dict[str, Any], *, by: User | None = None
) -> None:
    """Change limits of the budget (`EDITABLE`) or `parallelism` of a study that searches.

    Neither enters a suggestion, so the study still replays from its rows. Raises BadInput for
    another key or a study that does not search any more, SpecRefused for a value that no spec may
    have.
    """
    if unknown := sorted(set(changes) - {*EDITABLE, "parallelism"}):
        raise BadInput(
            f"{unknown[0]!r} cannot be edited",
            where=f"study {study_id}",
            mend=f"Only {', '.join(EDITABLE)} and parallelism; for the rest clone the study",
        )
    with database.transaction() as connection:
        study, who = _mine(connection, study_id, "edit", by)
        if study.state not in ("running", "paused") or study.phase != "search":
            raise BadInput(
                f"study {study_id} does not search any more, so its budget cannot be edited",
                where=f"study {study_id}",
                mend="Clone it with another budget",
            )
        spec = _edited(study.spec, changes)
        told = _told(study.spec, spec)
        if not told:
            return
        rows(
            connection,
            "studies.edit",
            study=study_id,
            spec=Jsonb(spec.model_dump(mode="json")),
        )
        rows(connection, "studies.event", study=study_id, text=f"{told}, by {who}")
        outbox.add(connection, "advance", [study_id])
    outbox.relay(database)


def _edited(spec: StudySpec, changes: dict[str, Any]) -> StudySpec:
    data = spec.model_dump(mode="json")
    for key, value in changes.items():
        data["search" if key == "parallelism" else "budget"][key] = value
    return spec_from_dict(data)


def _told(old: StudySpec, new: StudySpec) -> str:
    """`trials 40 → 60, parallelism 8 → 4`."""
    pairs = [(name, getattr(old.budget, name), getattr(new.budget, name)) for name in EDITABLE]
    pairs.append(("parallelism", old.search.parallelism, new.search.parallelism))
    return ", ".join(
        f"{name} {'no limit' if a is None else a} → {'no limit' if b is None else b}"
        for name, a, b in pairs
        if a != b
    )


def _mine(connection: Connection, study_id: int, what: str, by: User | None) -> tuple[Study, str]:
    """The locked study and the name of who acts, if they may."""
    lock_study(connection, study_id)
    study = load_study(connection, study_id)
    return study, allow(by, f"{what} study {study_id}", owner=study.owner).name


def _change(connection: Connection, study_id: int, query: str, done: str, by: User | None) -> None:
    study, who = _mine(connection, study_id, query, by)
    if row(connection, f"studies.{query}", study=study_id) is None:
        if query in PROBED and probes.steer(connection, study, query):
            rows(connection, "studies.event", study=study_id, text=f"probes {done} by {who}")
            return
        raise _wrong(study, done)
    rows(connection, "studies.event", study=study_id, text=f"{done} by {who}")


def _wrong(study: Study, done: str) -> BadInput:
    state = f"{study.state} and archived" if study.archived else study.state
    return BadInput(
        f"study {study.id} is {state}, so it cannot be {done}", where=f"study {study.id}"
    )


def _stage(connection: Connection, study: Study) -> str:
    """The phase in which a study failed: that of its latest evaluations; publishing after those."""
    if study.chosen_trial_id is not None and study.failure and "publishing" in study.failure:
        return "publish"
    return next(s for s in reversed(STAGES) if load_trials(connection, study.id, s))


def _try_again(connection: Connection, study: Study, stage: str, again: Again) -> tuple[int, int]:
    """(evaluations put back into the queue, failed ones that have to stay failed)."""
    if stage not in STAGES:
        return (_publish_again(connection, study) if again != "unfinished" else 0), 0
    trials = load_trials(connection, study.id, stage)
    states = AGAIN[again]
    failed = [t for t in trials if t.state in states]
    free = [t for t in failed if stage != "search" or not _built_on(t, trials)]
    # ended with the study, before anybody could evaluate them
    ended = [t for t in trials if study.state == "failed" and t.state == "cancelled"]
    if study.state == "failed" and not free:
        return 0, len(failed)
    ids = [t.evaluation_id for t in (*free, *ended)]
    rows(connection, "studies.try_again", ids=ids)
    return len(free), len(failed) - len(free)


def _publish_again(connection: Connection, study: Study) -> int:
    assert study.chosen_trial_id is not None
    queue_artefact(connection, study.chosen_trial_id)
    return 1


def _built_on(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a later trial of the search was made knowing how this one ended."""
    if trial.role == "search":
        own = generation_of(trial.slot)
        later = [generation_of(t.slot) for t in trials if t.role == "search"]
        return own is not None and any(g is not None and g > own for g in later)
    if trial.role == "warm":
        return any(t.role == "search" for t in trials)
    return any(t.role in ("greedy", "warm", "search") and t.number > trial.number for t in trials)
