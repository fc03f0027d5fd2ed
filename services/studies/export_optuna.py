"""A study as an Optuna study in a journal file; `optuna.load_study` and optuna-dashboard open it.

A copy for looking at: parameters are the weights, values the objectives on the search split in the
study's directions. Baselines are trials too, so the distributions span what they weigh.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from services.db import Database
from services.studies import read
from services.studies.read import CandidateView
from services.studies.record import Study
from services.studies.space import labels_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal import BaseJournalBackend
    from optuna.trial import FrozenTrial

#: where Optuna keeps what its samplers and its dashboard take for constraints
CONSTRAINTS = "constraints"
STATES = {
    "complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "abandoned": "FAIL",
    "cancelled": "FAIL", "queued": "WAITING", "running": "RUNNING",
}  # fmt: skip


def optuna_bytes(database: Database, study: Study) -> bytes:
    """The journal file's content; the study in it is called by the study's name."""
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import JournalStorage
    from optuna.study import StudyDirection

    logs: list[dict[str, Any]] = []
    copy = optuna.create_study(
        storage=JournalStorage(_journal(logs)),
        study_name=study.name,
        directions=[StudyDirection[study.direction(i).upper()] for i in range(study.axes)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        copy.set_metric_names([axis.label for axis in study.spec.axes])
    for name, value in _about(study).items():
        copy.set_user_attr(name, value)
    found = read.candidates(database, study, "search")
    times = {r["number"]: r for r in database.rows("read.trial_times", study=study.id)}
    spread = _distributions(study, found)
    copy.add_trials([_trial(study, c, spread, times[c.trial.number]) for c in found])
    return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def _journal(logs: list[dict[str, Any]]) -> BaseJournalBackend:
    """A journal that is a list. Optuna's file backend writes these as lines, and waits for the
    disk after each; its SQLite storage takes 20 ms a trial."""
    from optuna.storages.journal import BaseJournalBackend

    class Journal(BaseJournalBackend):
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return logs[log_number_from:]

        def append_logs(self, new: list[dict[str, Any]]) -> None:
            logs.extend(new)

    return Journal()


def _about(study: Study) -> dict[str, Any]:
    return {
        "remelt:study": study.id,
        "remelt:state": study.state,
        "remelt:pool": study.pool.name,
        "remelt:reference": study.reference,
        "remelt:checkpoints": {m.name: m.digest for m in study.pool.members},
        "remelt:suites": {s.name: s.digest for s in study.suites},
        "remelt:spec": study.spec.model_dump(mode="json"),
    }


def _names(study: Study) -> list[str]:
    """A parameter for every weight, in the order of a trial's weights."""
    return [
        f"{name}:{label}" if label else name
        for label in labels_of(study)
        for name in study.pool.names
    ]


def _distributions(study: Study, found: Sequence[CandidateView]) -> dict[str, BaseDistribution]:
    from optuna.distributions import FloatDistribution

    low, high = study.spec.search.box
    spread: dict[str, BaseDistribution] = {}
    for index, name in enumerate(_names(study)):
        values = [c.trial.weights[index] for c in found]
        spread[name] = FloatDistribution(min([low, *values]), max([high, *values]))
    return spread


def _trial(
    study: Study, candidate: CandidateView, spread: dict[str, BaseDistribution], times: Any
) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    trial = candidate.trial
    state = TrialState[STATES[trial.state]]
    # told a moment after it is complete
    if trial.state == "complete" and trial.objectives is None:
        state = TrialState.RUNNING
    attrs = {
        "role": trial.role,
        "label": trial.label,
        "slot": trial.slot,
        "recipe_digest": trial.recipe_digest,
        "rank": trial.rank,
        "feasible": candidate.feasible if trial.objectives is not None else None,
        "error": trial.error,
        **{
            f"{suite or 'all'}:{name}": metric.value
            for suite, by in candidate.metrics.items()
            for name, metric in by.items()
        },
    }
    finished = state.is_finished()
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=None,
        values=list(trial.objectives) if state == TrialState.COMPLETE else None,  # type: ignore[arg-type]
        datetime_start=_naive(times["started_at"] or times["created_at"]),
        datetime_complete=_naive(times["finished_at"] or times["created_at"]) if finished else None,
        params=dict(zip(spread, trial.weights, strict=True)),
        distributions=spread,
        user_attrs={name: value for name, value in attrs.items() if value is not None},
        system_attrs=({} if trial.violation is None else {CONSTRAINTS: [float(trial.violation)]}),
        intermediate_values={},
    )


def _naive(moment: datetime) -> datetime:
    """Optuna's times have no zone; these are in UTC."""
    return moment.replace(tzinfo=None)
