"""Reading studies for people and programs: lists, fronts, candidates, flips.

Reads only, never the test split: that is `services.studies.sealed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from psycopg.rows import tuple_row

from optim.predictions import Predictions
from services import stored_suites
from services.db import Connection, Database, Row, query, row, rows
from services.errors import BadInput, NotFound
from services.spec import Budget
from services.studies import budget
from services.studies.record import (
    Split,
    Study,
    Trial,
    load_predictions,
    load_study,
    load_trials,
)
from services.suites import Suite

OpenSplit = Literal["search", "validation"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number with what must stand beside it; the split is that of the candidate."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class CandidateView:
    """A trial with its metrics on one split. `metrics[suite][name]`, suite '' for all together."""

    trial: Trial
    split: str
    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """It met every constraint on this split."""
        return self.trial.violation is not None and self.trial.violation <= 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self.trial),
            "split": self.split,
            "feasible": self.feasible,
            "metrics": {s: {n: asdict(m) for n, m in by.items()} for s, by in self.metrics.items()},
        }


def list_studies(database: Database, *, archived: bool = False) -> list[Row]:
    """Every study with its progress, newest first; archived ones only where asked for."""
    found = database.rows("read.studies", study=None)
    found = [study for study in found if archived or study["archived_at"] is None]
    for study in found:
        del study["limits"]
    return found


def study_summary(database: Database, study_id: int) -> Row:
    """One study with its progress; raises NotFound. `left`: candidates still to be asked for, as
    far as can be said now; `used`: every limit of the budget with what is used of it."""
    found = database.row("read.studies", study=study_id)
    if found is None:
        raise NotFound(f"no study has the number {study_id}", mend="List them: remelt study list")
    limits = Budget.model_validate(found.pop("limits"))
    with database.transaction() as connection:
        used = budget.spent(connection, study_id)
        searching = found["phase"] == "search"
        rest = found["budget"] - found["asked"]
        found["left"] = min(budget.affordable(limits, used), rest) if searching else 0
        found["used"] = budget.used_text(limits, used)
        found["counts"] = rows(connection, "read.counts", study=study_id)
        found["pace"] = row(connection, "read.pace", study=study_id)
        found["descents"] = rows(connection, "descents.of_study", study=study_id)
    return found


def get_study(database: Database, study_id: int) -> Study:
    """A study with its spec, pool and suites; raises NotFound."""
    with database.transaction() as connection:
        return load_study(connection, study_id)


def racing_saved(database: Database, study_id: int) -> Row:
    """What racing saved: `candidates` that could be raced and have ended, `stopped` ones of them,
    `used` items in all, `items` of the search split, and `saved`: 1 − used / (candidates · items),
    None before there is one."""
    found = database.row("read.racing", study=study_id)
    assert found is not None
    whole = found["items"] * found["candidates"]
    return {**found, "saved": 1 - found["used"] / whole if whole else None}


def change_mark(database: Database, study_id: int) -> tuple[Any, ...]:
    """Differs from an earlier mark whenever the study changed; one cheap query."""
    found = database.row("read.change_mark", study=study_id)
    return () if found is None else tuple(found.values())


def candidates(
    database: Database, study: Study, split: OpenSplit = "search"
) -> list[CandidateView]:
    """Every trial with its metrics on one open split, by number."""
    refuse_test(split)
    with database.transaction() as connection:
        return candidates_on(connection, study, split)


def candidates_on(connection: Connection, study: Study, split: Split) -> list[CandidateView]:
    """Trials with metrics on any split; for the test split only `sealed` may call this."""
    by_number: dict[int, dict[str, dict[str, Metric]]] = {}
    # dozens of rows a trial: binary tuples are read in half the time
    with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        cursor.execute(query("studies.metrics"), {"study": study.id, "split": split})
        for _, number, suite, name, value, low, high, n in cursor:
            of_suite = by_number.setdefault(number, {}).setdefault(suite, {})
            of_suite[name] = Metric(value=value, low=low, high=high, n=n)
    return [
        CandidateView(trial=trial, split=split, metrics=by_number.get(trial.number, {}))
        for trial in load_trials(connection, study.id, split)
    ]


def refuse_test(split: str) -> None:
    """Raise BadInput for the sealed split."""
    if split == "test":
        raise BadInput(
            "the test split is sealed",
            mend="It is opened once, by the final report of a finished study",
        )


def predictions(
    database: Database, study: Study, number: int, split: OpenSplit
) -> dict[str, Predictions]:
    """What one trial answered on an open split, by suite name; empty if it was not scored there."""
    refuse_test(split)
    with database.transaction() as connection:
        trial = next(
            (t for t in load_trials(connection, study.id, split) if t.number == number), None
        )
        return {} if trial is None else load_predictions(connection, study, trial.id, split)


def suites_with_items(database: Database, study: Study) -> list[Suite]:
    """The study's suites as they were when it was submitted."""
    stored = database.rows("studies.suites_with_content", study=study.id)
    return [stored_suites.suite_from_row(row) for row in stored]


def suite_of(database: Database, study: Study, name: str) -> Suite:
    """One of them; raises NotFound."""
    found = next((s for s in suites_with_items(database, study) if s.name == name), None)
    if found is None:
        names = ", ".join(suite.name for suite in study.suites)
        raise NotFound(f"study {study.id} has no suite {name!r}", mend=f"Has: {names}")
    return found


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One item whose answer changed between the reference and a candidate."""

    suite: str
    item: str
    kind: Literal["negative", "positive", "both wrong"]
    prompt: str
    gold: str
    old: str
    new: str
    old_margin: float | None
    new_margin: float | None


def flips(database: Database, study: Study, number: int, split: OpenSplit = "search") -> list[Flip]:
    """Every answer that differs from the reference's, suite by suite, worst new margin first."""
    refuse_test(split)
    with database.transaction() as connection:
        trials = load_trials(connection, study.id, split)
        trial = next((t for t in trials if t.number == number), None)
        reference = next((t for t in trials if t.role == "reference"), None)
        if trial is None or reference is None:
            raise NotFound(f"study {study.id} has no trial {number} on {split}")
        new = load_predictions(connection, study, trial.id, split)
        old = load_predictions(connection, study, reference.id, split)
    found: list[Flip] = []
    for suite in suites_with_items(database, study):
        if suite.form != "text" and suite.name in new and suite.name in old:
            found += _flips_of(suite, old[suite.name], new[suite.name], split)
    return found


def _flips_of(suite: Any, old: Any, new: Any, split: Split) -> list[Flip]:
    items = suite.split(split)
    order = np.flatnonzero(old.answer != new.answer)
    if new.margin is not None:
        order = order[np.argsort(new.margin[order].astype(float), kind="stable")]
    return [
        Flip(
            suite=suite.name,
            item=items[i].id,
            kind=_kind(bool(old.correct[i]), bool(new.correct[i])),
            prompt=items[i].context or items[i].prompt,
            gold=_gold(items[i]),
            old=_answer(items[i], old, i),
            new=_answer(items[i], new, i),
            old_margin=None if old.margin is None else float(old.margin[i]),
            new_margin=None if new.margin is None else float(new.margin[i]),
        )
        for i in map(int, order)
    ]


def _gold(item: Any) -> str:
    return str(item.choices[item.gold] if item.choices else item.expect or item.target)


def _kind(old: bool, new: bool) -> Literal["negative", "positive", "both wrong"]:
    if old and not new:
        return "negative"
    return "positive" if new and not old else "both wrong"


def _answer(item: Any, predictions: Any, index: int) -> str:
    if item.choices:
        return str(item.choices[int(predictions.answer[index])])
    return predictions.texts[index] if predictions.texts else ""


def trial_detail(database: Database, study: Study, number: int) -> Row:
    """One trial's recipe, evaluations and artefacts; raises NotFound."""
    found = database.row("read.trial_detail", study=study.id, number=number)
    if found is None:
        raise NotFound(f"study {study.id} has no trial {number}")
    found["evaluations"] = database.rows("read.evaluations_of_trial", trial=found["id"])
    found["artefacts"] = [
        a for a in database.rows("artefacts.of_study", study=study.id) if a["number"] == number
    ]
    return found


def events(database: Database, study_id: int) -> Sequence[Row]:
    """What happened to a study, in order."""
    return database.rows("studies.events", study=study_id)
