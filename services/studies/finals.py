"""The end of a study: finalists on validation, the choice, the sealed test split, publishing.

The choice is made from validation before the test split is opened, and opening it is logged; no
later step goes back to the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optim.pareto import finalists
from services import outbox
from services.artefacts import artefact_state, queue_artefact
from services.db import Connection, row, rows
from services.studies.propose import BASELINES, merit, minimised
from services.studies.record import Split, Study, Trial

Step = Callable[[Connection, Study, Sequence[Trial]], bool]


def queue_validation(connection: Connection, study: Study, trials: Sequence[Trial]) -> None:
    """The best found candidates by rank on the search split, and every baseline."""
    told = [t for t in trials if t.objectives is not None]
    found = [t for t in told if t.role not in BASELINES]
    best = finalists(
        [minimised(study, t.objectives or ()) for t in found],
        [t.violation or 0.0 for t in found],
        study.spec.budget.finalists,
    )
    chosen = [found[i] for i in best]
    front = sum(t.rank == 1 for t in found)
    text = f"search over; validating {len(chosen)} candidates, "
    text += f"{sum(t.rank == 1 for t in chosen)} of the {front} on the front, and the baselines"
    rows(connection, "studies.event", study=study.id, text=text)
    _queue(connection, [t for t in told if t.role in BASELINES] + chosen, "validation")


def choose(connection: Connection, study: Study, trials: Sequence[Trial]) -> bool:
    """Pick the feasible candidate of highest merit on validation, then open the test split."""
    told = [t for t in trials if t.objectives is not None]
    feasible = [t for t in told if (t.violation or 0.0) <= 0]
    if feasible:
        best = max(feasible, key=lambda t: (merit(study, t), t.role not in BASELINES, -t.number))
        rows(connection, "studies.set_chosen", study=study.id, trial=best.id)
        text = f"chose trial {best.number} ({best.label}) on validation"
    else:
        text = "no candidate meets the constraints on validation"
    rows(connection, "studies.event", study=study.id, text=text)
    rows(connection, "studies.set_phase", study=study.id, phase="test")
    rows(
        connection,
        "studies.open_test",
        study=study.id,
        purpose="final report: finalists and baselines",
        trials=len(told),
    )
    before = [str(r["study"]) for r in rows(connection, "studies.opened_before", study=study.id)]
    text = f"opened the test split for {len(told)} candidates"
    text += f"; of these suites it was open to studies {', '.join(before)} before" if before else ""
    rows(connection, "studies.event", study=study.id, text=text)
    _queue(connection, told, "test")
    return True


def start_publishing(connection: Connection, study: Study, trials: Sequence[Trial]) -> bool:
    """Queue the chosen candidate's artefact when the spec asks for it."""
    rows(connection, "studies.set_phase", study=study.id, phase="publish")
    if study.spec.publish is not None and study.chosen_trial_id is not None:
        queue_artefact(connection, study.chosen_trial_id)
    return True


def finish_when_published(connection: Connection, study: Study) -> bool:
    """Finish, once the artefact (if any) is published or has failed for good."""
    if study.spec.publish is not None and study.chosen_trial_id is not None:
        state, error = artefact_state(connection, study.chosen_trial_id)
        if state == "failed":
            return end(connection, study, "failed", f"publishing failed: {error}")
        if state != "published":
            return False
    return end(connection, study, "finished", None)


def end(connection: Connection, study: Study, state: str, failure: str | None) -> bool:
    """Write the final state."""
    rows(connection, "studies.finish", study=study.id, state=state, failure=failure)
    rows(connection, "studies.cancel_evaluations", study=study.id)
    rows(connection, "descents.cancel", study=study.id, states=["queued", "running"])
    text = state if failure is None else f"{state}: {failure}"
    rows(connection, "studies.event", study=study.id, text=text)
    return False


def _queue(connection: Connection, trials: Sequence[Trial], split: Split) -> None:
    made = [
        row(connection, "studies.insert_evaluation", trial=trial.id, split=split)
        for trial in trials
    ]
    outbox.add(connection, "evaluate", [int(m["id"]) for m in made if m is not None])
