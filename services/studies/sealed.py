"""The sealed test split: the only reader of test results, and every reading is logged.

The search phase cannot come here: it opens for studies that have made their choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optim.predictions import Predictions
from services.access import User, allow
from services.db import Connection, Database, Row, rows
from services.errors import BadInput
from services.studies.read import CandidateView, candidates_on
from services.studies.record import Study, load_predictions, load_study, load_trials


def final_report(
    database: Database, study_id: int, *, purpose: str, by: User | None = None
) -> list[CandidateView]:
    """Finalists and baselines on the test split, logged with its purpose and who opened it.

    Raises BadInput while the study searches or validates, and for a cancelled one; Forbidden for
    whoever may not steer the study.
    """
    with database.transaction() as connection:
        study, who = _opened(connection, study_id, by)
        found = candidates_on(connection, study, "test")
        _log(connection, study_id, purpose, len(found), who)
    return found


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The test split as one reading saw it."""

    #: finalists and baselines with their metrics
    candidates: list[CandidateView]
    #: what some of them answered, by trial number and suite name
    answers: dict[int, dict[str, Predictions]]


def final_answers(
    database: Database,
    study_id: int,
    trials: Sequence[int],
    *,
    purpose: str,
    by: User | None = None,
) -> Opened:
    """What `final_report` returns, and with it what those trials answered: one reading, logged
    once. A trial that was not scored there has no answers. Raises what `final_report` raises."""
    with database.transaction() as connection:
        study, who = _opened(connection, study_id, by)
        found = candidates_on(connection, study, "test")
        answers = {
            c.trial.number: load_predictions(connection, study, c.trial.id, "test")
            for c in found
            if c.trial.number in trials
        }
        _log(connection, study_id, purpose, len(found), who)
    return Opened(candidates=found, answers=answers)


def sealed_predictions(
    database: Database, study_id: int, trial: int, *, purpose: str, by: User | None = None
) -> dict[str, Predictions]:
    """What one trial answered on the test split, by suite name, logged with its purpose.

    Empty for a trial that was not scored there. Raises what `final_report` raises.
    """
    with database.transaction() as connection:
        study, who = _opened(connection, study_id, by)
        trials = {one.number: one.id for one in load_trials(connection, study_id, "test")}
        if trial not in trials:
            return {}
        _log(connection, study_id, purpose, 1, who)
        return load_predictions(connection, study, trials[trial], "test")


def _opened(connection: Connection, study_id: int, by: User | None) -> tuple[Study, str]:
    """The study, if it has made its choice, and the name of who asks, if they may know."""
    study = load_study(connection, study_id)
    who = allow(by, f"open the test split of study {study_id}", owner=study.owner).name
    if study.state == "cancelled":
        raise BadInput(
            f"study {study_id} was cancelled, so its test split stays sealed",
            mend="Submit it again and let it finish",
        )
    if study.phase not in ("publish", "done"):
        raise BadInput(
            f"the test split is sealed while study {study_id} is in its {study.phase} phase",
            mend="Wait until the study has finished",
        )
    return study, who


def _log(connection: Connection, study_id: int, purpose: str, trials: int, who: str) -> None:
    rows(connection, "studies.open_test", study=study_id, purpose=purpose, trials=trials)
    text = f"test split read by {who}: {purpose}"
    rows(connection, "studies.event", study=study_id, text=text)


def readings(database: Database, study_id: int) -> list[Row]:
    """Who opened the test split, when and what for."""
    return database.rows("studies.test_readings", study=study_id)


def opened_elsewhere(database: Database, study_id: int) -> list[int]:
    """Other studies that have opened the test split of one of this study's suites. What was
    chosen after somebody had looked there is not judged by items that nobody had seen."""
    return [row["study"] for row in database.rows("studies.opened_before", study=study_id)]
