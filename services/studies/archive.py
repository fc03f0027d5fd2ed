"""Whom a candidate is raced against: the front of what its generation could know, that is of the
baselines and of the trials of earlier generations.

So a race, like a suggestion, depends on rows of finished generations alone, and never on the moment
at which a worker took the candidate up.
"""

from __future__ import annotations

from collections.abc import Sequence

from optim.pareto import ranks
from optim.racing import most_dominating
from optim.search.base import generation_of
from services.db import Database
from services.evaluations import Claim, Job
from services.studies.clusters import clusters_of
from services.studies.propose import BASELINES, minimised
from services.studies.racing import Race
from services.studies.record import Study, Trial, load_predictions, load_study, load_trials

#: each further member would cost power: the wealth to be reached is their number / α
MOST_MEMBERS = 4


def load(database: Database, held: Claim, job: Job) -> Race | None:
    """The race of a claimed evaluation; None where there is none: other splits, baselines, studies
    that do not race. What an earlier attempt left is not raced either: the order of the rest would
    not be fresh any more."""
    generation = generation_of(held.slot) if held.role == "search" else None
    if held.split != "search" or generation is None or job.finished:
        return None
    with database.transaction() as connection:
        study = load_study(connection, held.study)
        if study.spec.search.racing is None:
            return None
        trials = load_trials(connection, study.id, "search")
        reference = next(t for t in trials if t.role == "reference")
        archive = archive_of(study, trials, generation)
        answers = {
            t.number: load_predictions(connection, study, t.id, "search")
            for t in [reference, *archive]
        }
        clusters = clusters_of(connection, study, "search")
    race = Race(
        study,
        reference=answers[reference.number],
        archive={t.number: answers[t.number] for t in archive},
        seed=int(held.recipe.digest[:12], 16),
        clusters=clusters,
    )
    return race if race.members or race.kept else None


def archive_of(study: Study, trials: Sequence[Trial], generation: int) -> list[Trial]:
    """Whom a candidate of a generation is tested against, by number."""
    known = [t for t in trials if t.objectives is not None and _before(t, generation)]
    values = [minimised(study, t.objectives or ()) for t in known]
    rank = ranks(values, [t.violation or 0.0 for t in known])
    front = [i for i, r in enumerate(rank) if r == 1]
    others = [values[i] for i, r in enumerate(rank) if r != 1]
    chosen = most_dominating([values[i] for i in front], others, MOST_MEMBERS)
    return sorted((known[front[i]] for i in chosen), key=lambda t: t.number)


def _before(trial: Trial, generation: int) -> bool:
    if trial.role in BASELINES:
        return True
    own = generation_of(trial.slot)
    return own is not None and own < generation
