"""Artefacts: casting a trial as a checkpoint on disk, publishing it, pulling it back.

What is published has the weights digest that the engine reported when it evaluated the trial;
anything else is refused. Claims work as they do for evaluations: attempt, lease, fence.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optim.recipe import Recipe
from services import outbox, registry
from services.access import User, allow
from services.checkpoints import Checkpoint, belonging_files, read_checkpoint
from services.db import Connection, Database, Row, row, rows
from services.errors import BadInput, IntegrityError, NotFound, RemeltError
from services.settings import Settings, settings
from services.store import open_store, publish_checkpoint, pull_checkpoint

Progress = Callable[[int, int], None]


def store_url(config: Settings) -> str:
    """Where this installation publishes."""
    return config.store_url or (config.home / "store").resolve().as_uri()


def trial_id(connection: Connection, study: int, number: int) -> int:
    """The id of a study's trial; raises NotFound."""
    found = row(connection, "artefacts.trial_by_number", study=study, number=number)
    if found is None:
        raise NotFound(
            f"study {study} has no trial {number}", mend=f"List them: remelt study show {study}"
        )
    return int(found["id"])


def queue_artefact(connection: Connection, trial: int) -> None:
    """Ask the workers to publish a trial; does nothing when it is published or under way."""
    outbox.add(connection, "publish", [own_artefact(connection, trial)])


def request(database: Database, study: int, number: int, *, by: User | None = None) -> int:
    """Ask the workers to publish a trial, from outside of a study's own life; its artefact's id.

    Raises NotFound, or Forbidden for whoever may not steer the study.
    """
    with database.transaction() as connection:
        artefact = ask(connection, study, number, by=by)
        outbox.add(connection, "publish", [artefact])
    outbox.relay(database)
    return artefact


def ask(connection: Connection, study: int, number: int, *, by: User | None = None) -> int:
    """The id of the trial's artefact, queued for whoever publishes it; who asked is an event."""
    trial = trial_id(connection, study, number)
    found = row(connection, "studies.get", study=study)
    assert found is not None
    user = allow(by, f"publish candidates of study {study}", owner=found["owner"])
    text = f"publishing of trial {number} asked for by {user.name}"
    rows(connection, "studies.event", study=study, text=text)
    return own_artefact(connection, trial)


def own_artefact(connection: Connection, trial: int) -> int:
    """The id of a trial's artefact in this installation's store, queued when it was not there or
    had failed. The caller publishes it, or tells the workers to."""
    values = {"trial": trial, "store": store_url(settings())}
    made = row(connection, "artefacts.queue", **values)
    found = made or row(connection, "artefacts.of_trial", **values)
    assert found is not None
    return int(found["id"])


def artefact_state(connection: Connection, trial: int) -> tuple[str, str | None]:
    """(state, error) of a trial's artefact in this installation's store; 'none' without one."""
    found = row(connection, "artefacts.of_trial", trial=trial, store=store_url(settings()))
    return ("none", None) if found is None else (found["state"], found["error"])


def cast_trial(
    database: Database, config: Settings, trial: int, out: Path, progress: Progress | None = None
) -> Checkpoint:
    """Write a trial as a checkpoint in Hugging Face layout, its weights digest checked.

    Raises BadInput when the trial was never evaluated, IntegrityError when bytes differ from those
    that were evaluated. Imports torch: never call it in a Celery process.
    """
    from services.cast import cast

    with database.transaction() as connection:
        source = row(connection, "artefacts.source", trial=trial)
        assert source is not None
        pool = registry.pool_by_id(connection, source["pool_id"])
    where = f"study {source['study_id']} trial {source['number']}"
    if source["weights_digest"] is None:
        raise BadInput(
            "has not been evaluated, so there is nothing to check the cast against",
            where=where,
            mend="Wait until it is complete",
        )
    if source["digests"] > 1:
        raise IntegrityError(
            "was evaluated with different weights on different splits", where=where
        )
    recipe = Recipe.from_dict(source["recipe"])
    card = {
        "study": source["study"],
        "study_number": source["study_id"],
        "trial": source["number"],
        "label": source["label"],
        "parents": {m.digest: {"name": m.name, "uri": m.uri} for m in pool.members},
    }
    return cast(
        recipe,
        [_parent(m, config) for m in pool.members],
        out,
        weights_digest=source["weights_digest"],
        card=card,
        progress=progress,
    )


def _parent(member: registry.Member, config: Settings) -> Checkpoint:
    path = registry.local_path(member.uri, config)
    checkpoint = read_checkpoint(path, check_values=False)
    if checkpoint.digest != member.digest:
        raise IntegrityError(
            f"checkpoint {member.name!r} was changed since it was registered",
            where=str(path),
            mend="Restore its files, or register the changed pool under a new name",
        )
    return checkpoint


def publish_artefact(
    database: Database, config: Settings, artefact: int, worker: str
) -> Row | None:
    """Cast and publish under a claim; the artefact's row, or None when there was nothing to do.

    The cast runs in a process of its own (torch stays out of this one). Raises RemeltError after
    the failure has been written down.
    """
    held = database.row(
        "artefacts.claim",
        artefact=artefact,
        worker=worker,
        lease=config.lease_seconds,
        max_attempts=config.max_attempts,
    )
    if held is None:
        return None
    fence = {"artefact": held["id"], "attempt": held["attempt"]}
    out = config.home / "cast" / f"{held['id']}-{held['attempt']}"
    keep = _keeper(database, config, fence)
    try:
        with database.transaction() as connection:
            source = row(connection, "artefacts.source", trial=held["trial_id"])
        assert source is not None
        _cast_elsewhere(source["study_id"], source["number"], out, keep)
        with open_store(held["store"], config) as store:
            digest = publish_checkpoint(store, out, progress=lambda *_: keep())
        ended = _end(
            database,
            "artefacts.published",
            digest=digest,
            weights_digest=source["weights_digest"],
            bytes=sum((out / name).stat().st_size for name in belonging_files(out)),
            **fence,
        )
    except (RemeltError, OSError) as error:
        retryable = not isinstance(error, BadInput | IntegrityError)
        _end(
            database,
            "artefacts.fail",
            error=str(error)[:2000],
            retryable=retryable,
            max_attempts=config.max_attempts,
            **fence,
        )
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return None if ended is None else {"digest": digest, "store": held["store"]}


def _keeper(database: Database, config: Settings, fence: dict[str, int]) -> Callable[[], None]:
    """A function that renews the lease when a third of it has passed."""
    last = [time.monotonic()]

    def keep() -> None:
        if time.monotonic() - last[0] > config.lease_seconds / 3:
            last[0] = time.monotonic()
            if database.row("artefacts.renew", lease=config.lease_seconds, **fence) is None:
                raise IntegrityError("the claim was lost", where=f"artefact {fence['artefact']}")

    return keep


def _cast_elsewhere(study: int, number: int, out: Path, keep: Callable[[], None]) -> None:
    command = [sys.executable, "-m", "services.cli", "cast", str(study), str(number), str(out)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [*command, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            try:
                _, problem = process.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                keep()
    if process.returncode:
        kind = BadInput if process.returncode == BadInput.exit_code else RemeltError
        raise kind(problem.strip().splitlines()[-1] if problem.strip() else "the cast died")


def _end(database: Database, name: str, **values: Any) -> Row | None:
    """Write an artefact's end and send the hints it calls for."""
    with database.transaction() as connection:
        ended = row(connection, name, **values)
        if ended is not None:
            _follow_up(connection, values["artefact"], ended)
    outbox.relay(database)
    return ended


def _follow_up(connection: Connection, artefact: int, ended: Row) -> None:
    if ended.get("state") == "queued":
        outbox.add(connection, "publish", [artefact])
        return
    study = row(connection, "artefacts.study_of_trial", trial=ended["trial_id"])
    assert study is not None
    outbox.add(connection, "advance", [study["study_id"]])


def mend(database: Database, lost_after: float, config: Settings) -> int:
    """Return expired claims and send again for artefacts whose message is gone; how many."""
    with database.transaction() as connection:
        expired = rows(connection, "artefacts.expire", max_attempts=config.max_attempts)
        for one in expired:
            _follow_up(connection, one["id"], one)
        lost = [r["id"] for r in rows(connection, "artefacts.lost", seconds=lost_after)]
        outbox.add(connection, "publish", lost)
    return len(expired) + len(lost)


def resolve(database: Database | None, config: Settings, reference: str) -> tuple[str, str]:
    """(store URL, digest) of `STUDY/TRIAL`, or of a published digest in this installation's store.

    Raises NotFound when nothing is published under it.
    """
    if "/" not in reference:
        return store_url(config), reference.removeprefix("sha256:")
    study, _, number = reference.partition("/")
    if not (study.isdigit() and number.isdigit()):
        raise BadInput(
            f"{reference!r} names no artefact",
            mend="Give STUDY/TRIAL as numbers, or the digest printed when it was published",
        )
    assert database is not None
    with database.transaction() as connection:
        trial = trial_id(connection, int(study), int(number))
        found = row(connection, "artefacts.of_trial", trial=trial, store=store_url(config))
    if found is None or found["state"] != "published":
        state = "not published" if found is None else found["state"]
        raise NotFound(
            f"study {study} trial {number} is {state}",
            mend=f"Publish it first: remelt publish {study} {number}",
        )
    return found["store"], found["digest"]


def pull(
    database: Database | None,
    config: Settings,
    reference: str,
    out: Path,
    progress: Progress | None = None,
) -> str:
    """Fetch a published checkpoint into `out`, every file verified; returns its digest."""
    url, digest = resolve(database, config, reference)
    with open_store(url, config) as store:
        pull_checkpoint(store, digest, out, progress=progress)
    return digest
