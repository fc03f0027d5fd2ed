"""What the sections of a report are written from, read once.

Claims rest on the test split where the study has made its choice and the candidate was scored
there; reading it is logged with its purpose. Before that they rest on an open split, and the report
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from optim.predictions import Predictions
from services import leakage
from services.access import User
from services.db import Database, Row
from services.errors import BadInput, NoFeasibleCandidate
from services.findings import Finding
from services.report import paired
from services.studies import certainty, health, read, sealed
from services.studies.clusters import clusters_of
from services.studies.propose import BASELINES, merit
from services.studies.read import CandidateView, Metric, OpenSplit
from services.studies.record import Split, Study
from services.suites import Suite


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """One candidate of one study, with what it is compared to."""

    database: Database
    study: Study
    summary: Row
    #: code version and dates of the study, digest of its pool
    about: Row
    #: the candidate's trial: recipe, evaluations, artefacts
    detail: Row
    #: where the claims come from
    split: Split
    #: everything that was told on `split`
    found: Sequence[CandidateView]
    #: everything told on the open splits; `validation` is empty before it is scored
    search: Sequence[CandidateView]
    validation: Sequence[CandidateView]
    candidate: CandidateView
    reference: CandidateView
    #: the other checkpoint with the best mean score, judged on an open split
    single: CandidateView | None
    uniform: CandidateView | None
    #: on `split`, of the four above, by trial number and suite name
    answers: Mapping[int, Mapping[str, Predictions]]
    #: which items of `split` share a context, by suite name
    clusters: Mapping[str, np.ndarray | None]
    suites: Sequence[Suite]
    made_at: datetime

    @property
    def number(self) -> int:
        """The candidate's trial number."""
        return self.candidate.trial.number

    @property
    def chosen(self) -> bool:
        """The candidate is the study's choice."""
        return bool(self.summary["chosen"] == self.number)

    @property
    def keeps(self) -> bool:
        """The candidate is what is deployed already."""
        return self.candidate.trial.role == "reference"

    @property
    def name(self) -> str:
        """The candidate for people."""
        trial = self.candidate.trial
        named = "" if trial.role in ("search", "warm") else f" ({trial.label})"
        return f"trial {trial.number}{named}"

    @property
    def open_split(self) -> OpenSplit:
        """The latest open split."""
        return "validation" if self.validation else "search"

    @property
    def open_found(self) -> Sequence[CandidateView]:
        """Everything told on the latest open split."""
        return self.validation or self.search

    def of(self, candidate: CandidateView) -> Mapping[str, Predictions]:
        """What one of the four answered on `split`."""
        return self.answers[candidate.trial.number]

    @cached_property
    def shares(self) -> dict[int, float]:
        """How often each candidate is on the front of resampled items of the open split."""
        return certainty.on_the_front(self.database, self.study, self.open_split)

    @cached_property
    def flips(self) -> dict[str, paired.Flips]:
        """How the candidate's answers differ from the reference's on `split`, by suite name; under
        '' of all suites together. Empty for text suites alone."""
        old, new = self.of(self.reference), self.of(self.candidate)
        return paired.flips(self.suites, old, new, self.clusters)

    @cached_property
    def inherited(self) -> list[leakage.Inherited]:
        """Suites that parents of the candidate may have seen."""
        return leakage.of_candidate(self.database, self.study, self.candidate.trial)

    @cached_property
    def findings(self) -> list[Finding]:
        """What is wrong with the study."""
        return health.findings(self.database, self.study)


def gather(
    database: Database,
    study_id: int,
    *,
    candidate: int | None = None,
    test: bool = True,
    purpose: str = "report",
    by: User | None = None,
) -> Material:
    """Read everything. `candidate`: another trial than the chosen one. `test`: read the sealed
    split where that is allowed (logged with `purpose`).

    Raises NotFound for a study or trial that does not exist, BadInput where there are no results
    yet, NoFeasibleCandidate where none may be deployed and none is named.
    """
    summary, study = read.study_summary(database, study_id), read.get_study(database, study_id)
    search = _told(read.candidates(database, study, "search"))
    validation = _told(read.candidates(database, study, "validation"))
    if study.phase in ("search", "validation") or not _reference(validation):
        validation = []  # not all of them are there
    reference = _reference(search)
    if reference is None:
        raise BadInput(
            f"study {study_id} has no results of its reference yet, so there is nothing to report",
            mend="Wait for the baselines: remelt study show " + str(study_id),
        )
    number = _number(study, summary, validation or search, candidate)
    detail = read.trial_detail(database, study, number)
    split = _split(study, detail, search, validation, test=test)
    opened = validation or search
    single = max((c for c in opened if c.trial.role == "single"), key=mean_score, default=None)
    uniform = next((c for c in opened if c.trial.role == "uniform"), None)
    wanted = {c.trial.number for c in (reference, single, uniform) if c is not None} | {number}
    found, answers = _on(database, study, split, sorted(wanted), search, validation, purpose, by)
    by_number = {c.trial.number: c for c in found}
    if not {number, reference.trial.number} <= set(by_number):  # its results could not be told
        return gather(database, study_id, candidate=candidate, test=False)
    about = database.row("report.study", study=study_id)
    assert about is not None
    with database.transaction() as connection:
        clusters = clusters_of(connection, study, split)
    return Material(
        database=database,
        study=study,
        summary=summary,
        about=about,
        detail=detail,
        split=split,
        found=found,
        search=search,
        validation=validation,
        candidate=by_number[number],
        reference=by_number[reference.trial.number],
        single=None if single is None else by_number.get(single.trial.number),
        uniform=None if uniform is None else by_number.get(uniform.trial.number),
        answers=answers,
        clusters=clusters,
        suites=read.suites_with_items(database, study),
        made_at=datetime.now(UTC),
    )


def mean_score(candidate: CandidateView) -> float:
    """Mean score of the suites with right and wrong answers; of text suites alone, minus their
    mean of nats per token."""
    macro = candidate.metrics.get("", {}).get("macro")
    if macro is not None and macro.value is not None:
        return macro.value
    scores = [m.value for by in candidate.metrics.values() if (m := by.get("score"))]
    known = [value for value in scores if value is not None]
    return -sum(known) / max(len(known), 1)


def metric_of(candidate: CandidateView | None, name: str, suite: str = "") -> Metric | None:
    """One metric of a candidate; None where it has none."""
    return None if candidate is None else candidate.metrics.get(suite, {}).get(name)


def _told(found: Sequence[CandidateView]) -> list[CandidateView]:
    return [c for c in found if c.trial.objectives is not None]


def _number(
    study: Study, summary: Row, told: Sequence[CandidateView], candidate: int | None
) -> int:
    """The trial that is reported: the one named, the chosen one, or the best so far."""
    if candidate is not None:
        return candidate
    if summary["chosen"] is not None:
        return int(summary["chosen"])
    feasible = [c for c in told if c.feasible]
    found = [c for c in feasible if c.trial.role not in BASELINES] or feasible
    if not found:
        raise NoFeasibleCandidate(
            f"no candidate of study {study.id} meets its constraints",
            mend="Name one all the same: --candidate N",
        )
    return max(found, key=lambda c: merit(study, c.trial)).trial.number


def _reference(told: Sequence[CandidateView]) -> CandidateView | None:
    return next((c for c in told if c.trial.role == "reference"), None)


def _split(
    study: Study,
    detail: Row,
    search: Sequence[CandidateView],
    validation: Sequence[CandidateView],
    *,
    test: bool,
) -> Split:
    """The best split on which the candidate was scored and that may be read."""
    number = detail["number"]
    opened = study.phase in ("publish", "done") and study.state != "cancelled"
    scored = any(e["split"] == "test" and e["state"] == "complete" for e in detail["evaluations"])
    if test and opened and scored:
        return "test"
    if any(c.trial.number == number for c in validation):
        return "validation"
    if any(c.trial.number == number for c in search):
        return "search"
    raise BadInput(
        f"trial {number} of study {study.id} has no results on a whole split",
        mend=f"Name a candidate that was evaluated to the end: remelt study show {study.id}",
    )


def _on(
    database: Database,
    study: Study,
    split: Split,
    wanted: Sequence[int],
    search: Sequence[CandidateView],
    validation: Sequence[CandidateView],
    purpose: str,
    by: User | None,
) -> tuple[Sequence[CandidateView], Mapping[int, Mapping[str, Predictions]]]:
    if split == "test":
        opened = sealed.final_answers(database, study.id, wanted, purpose=purpose, by=by)
        found: Sequence[CandidateView] = _told(opened.candidates)
        answers: Mapping[int, Mapping[str, Predictions]] = opened.answers
    else:
        found = validation if split == "validation" else search
        answers = {n: read.predictions(database, study, n, split) for n in wanted}
    return found, answers
