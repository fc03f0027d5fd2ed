"""`advance(study)`: the only place where a study asks for candidates and is told of results.

One transaction under the study's advisory lock: tell what came in, rank, ask for more, move to the
next phase. Called any number of times, late or twice, it does what is left to do and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from services import outbox
from services.db import Connection, Database, row, rows
from services.studies import descend, earlier, finals, probes
from services.studies.budget import affordable, spent
from services.studies.evidence import gather
from services.studies.propose import (
    Candidate,
    greedy_steps_left,
    next_candidates,
)
from services.studies.record import Split, Study, Trial, load_study, load_trials, lock_study
from services.studies.space import make_recipe
from services.studies.tell import tell


def advance(database: Database, study_id: int) -> None:
    """Do everything that can be done for a study now. Raises NotFound for an unknown study."""
    with database.transaction() as connection:
        lock_study(connection, study_id)
        study = load_study(connection, study_id)
        while study.state == "running" and _step(connection, study):
            study = load_study(connection, study_id)
        probes.tell(connection, study)
    outbox.relay(database)


def _step(connection: Connection, study: Study) -> bool:
    """One phase's work; True when the study moved on and there may be more to do."""
    if study.phase == "search":
        return _search(connection, study)
    if study.phase == "validation":
        return _rescored(connection, study, "validation", after=finals.choose)
    if study.phase == "test":
        return _rescored(connection, study, "test", after=finals.start_publishing)
    return finals.finish_when_published(connection, study)


def _search(connection: Connection, study: Study) -> bool:
    tell(connection, study, "search")
    trials = load_trials(connection, study.id, "search")
    if _lost_reference(connection, study, trials, "search"):
        return False
    if entering := descend.enter(connection, study):
        _insert(connection, study, trials, entering)
        trials = load_trials(connection, study.id, "search")
    room = study.spec.search.parallelism - sum(not t.closed for t in trials)
    if room < 1:
        return False
    earlier.tell(connection, study, trials)
    known = gather(connection, study, trials)
    left = affordable(
        study.spec.budget, spent(connection, study.id), reserved=greedy_steps_left(study, trials)
    )
    warming = descend.warming(connection, study, trials, closing=left < 1)
    asked = 0 if warming else left
    found = next_candidates(study, trials, room, evidence=known, left=asked)
    _insert(connection, study, trials, found)
    if found or warming or not all(trial.closed for trial in trials):
        return False
    if descend.under_way(connection, study, trials, closing=left < 1):
        return False
    rows(connection, "studies.set_phase", study=study.id, phase="validation")
    finals.queue_validation(connection, study, trials)
    return True


def _rescored(connection: Connection, study: Study, split: Split, *, after: finals.Step) -> bool:
    tell(connection, study, split)
    trials = load_trials(connection, study.id, split)
    if _lost_reference(connection, study, trials, split):
        return False
    return all(t.closed for t in trials) and after(connection, study, trials)


def _lost_reference(
    connection: Connection, study: Study, trials: Sequence[Trial], split: Split
) -> bool:
    """End a study whose reference has no results on a split: nothing can be compared there."""
    reference = next((t for t in trials if t.role == "reference"), None)
    if reference is None or not reference.closed or reference.objectives is not None:
        return False
    problem = f"the reference could not be evaluated on the {split} split: {reference.error}"
    finals.end(connection, study, "failed", problem)
    return True


def _insert(
    connection: Connection, study: Study, trials: Sequence[Trial], found: Sequence[Candidate]
) -> None:
    first = len(trials)
    evaluations: list[int] = []
    for number, candidate in enumerate(found, start=first):
        recipe = candidate.recipe or make_recipe(study.spec.search, study.pool, candidate.weights)
        made = row(
            connection,
            "studies.insert_trial",
            study=study.id,
            number=number,
            role=candidate.role,
            slot=candidate.slot,
            label=candidate.label,
            weights=list(candidate.weights),
            recipe=Jsonb(recipe.to_dict()),
            recipe_digest=recipe.digest,
        )
        assert made is not None
        queued = row(connection, "studies.insert_evaluation", trial=made["id"], split="search")
        assert queued is not None
        evaluations.append(queued["id"])
    outbox.add(connection, "evaluate", evaluations)
    if evaluations:
        rows(connection, "studies.touch", study=study.id)
