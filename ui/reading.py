"""What pages read, kept while nothing changed: the database handle and snapshots of studies.

Every snapshot is keyed by the study's change mark, so a page asks one cheap query and reads again
only when something happened. Snapshots are frozen and shared by all sessions; nothing of the test
split is ever kept here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from services import noise, suite_health
from services.cli.context import open_database
from services.db import Database, Row
from services.findings import Finding
from services.studies import (
    attribution,
    certainty,
    coalitions,
    columns,
    cost,
    health,
    judge,
    listing,
    multiplicity,
    read,
    suite_answers,
    views,
)
from services.studies.attribution import Attribution
from services.studies.columns import Columns
from services.studies.cost import StudyCost
from services.studies.judge import Comparison
from services.studies.multiplicity import Multiplicity
from services.studies.read import Flip, OpenSplit
from services.studies.record import Study
from services.studies.suite_answers import SuiteAnswers
from services.suite_health import SuiteHealth

Mark = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A study as one page shows it."""

    mark: Mark
    summary: Row
    study: Study

    @property
    def live(self) -> bool:
        """It may still change by itself."""
        return self.study.state in ("running", "paused")


@st.cache_resource(show_spinner="Starting the database …")
def database() -> Database:
    """This process's database, opened once."""
    return open_database()


def snapshot(study_id: int) -> Snapshot:
    """The study as it is now; raises NotFound."""
    return _snapshot(study_id, read.change_mark(database(), study_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def _snapshot(study_id: int, mark: Mark) -> Snapshot:
    return Snapshot(
        mark=mark,
        summary=read.study_summary(database(), study_id),
        study=read.get_study(database(), study_id),
    )


@dataclass
class _Held:
    """The newest columns of one split of one study, and what was derived from them."""

    mark: Mark | None = None
    columns: Columns | None = None
    curve: list[views.Progress] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(show_spinner=False, max_entries=32)
def _held(study_id: int, split: OpenSplit) -> _Held:
    return _Held()


def trials(shown: Snapshot, split: OpenSplit) -> Columns:
    """Every trial on an open split. Read whole once; after that only what changed is read."""
    held = _held(shown.study.id, split)
    with held.lock:
        if held.columns is None or held.mark != shown.mark:
            held.columns = columns.read_columns(database(), shown.study, split, held.columns)
            held.mark = shown.mark
        return held.columns


def on_the_front(shown: Snapshot, split: OpenSplit) -> dict[int, float]:
    """How sure each candidate's place on the front is, by trial number."""
    return _on_the_front(shown.study.id, split, shown.mark, shown.study)


@st.cache_resource(show_spinner="Resampling items …", max_entries=32)
def _on_the_front(study_id: int, split: OpenSplit, mark: Mark, _study: Study) -> dict[int, float]:
    return certainty.on_the_front(database(), _study, split)


def coarse(shown: Snapshot) -> Mark:
    """A mark that changes with the study's state, and with every told trial of a small study, but
    only with every fiftieth more of a large one that goes on: for what takes long and moves little.
    """
    study = shown.study
    if not shown.live:
        return shown.mark
    told = int(trials(shown, "search").told.sum())
    step = 1 << (max(told // 50, 1).bit_length() - 1)
    return (study.state, study.phase, told // step)


def findings(shown: Snapshot) -> list[Finding]:
    """What is wrong with the study, each with its mend; as of the coarse mark."""
    return _findings(shown.study.id, coarse(shown), shown.study)


@st.cache_resource(show_spinner="Looking for what is wrong …", max_entries=32)
def _findings(study_id: int, mark: Mark, _study: Study) -> list[Finding]:
    return health.findings(database(), _study)


def curve(shown: Snapshot) -> list[views.Progress]:
    """Best value and hypervolume against evaluations, on the search split; points that are known
    are not computed again."""
    held, found = _held(shown.study.id, "search"), trials(shown, "search")
    with held.lock:
        if not held.curve or held.curve[-1].evaluations != int(found.told.sum()):
            held.curve = views.progress(shown.study, found, held.curve)
        return held.curve


@st.cache_resource(show_spinner="Comparing answers …", max_entries=64)
def comparison(
    study_id: int, old: int, new: int, split: OpenSplit, mark: Mark, _study: Study
) -> Comparison:
    """One candidate against another, item by item."""
    return judge.compare(database(), _study, old, new, split=split)


@st.cache_resource(show_spinner="Comparing answers …", max_entries=32)
def flips(study_id: int, number: int, split: OpenSplit, mark: Mark, _study: Study) -> list[Flip]:
    """Every answer of a candidate that differs from the reference's."""
    return read.flips(database(), _study, number, split)


def near_best(shown: Snapshot, split: OpenSplit, epsilon: float) -> Multiplicity:
    """What the near-best candidates answer differently; as of the coarse mark."""
    return _near_best(shown.study.id, coarse(shown), split, epsilon, shown.study)


@st.cache_resource(show_spinner="Comparing near-best candidates …", max_entries=16)
def _near_best(
    study_id: int, mark: Mark, split: OpenSplit, epsilon: float, _study: Study
) -> Multiplicity:
    return multiplicity.multiplicity(database(), _study, epsilon=epsilon, split=split)


def costs(shown: Snapshot) -> StudyCost:
    """What the study has cost; as of the coarse mark."""
    return _costs(shown.study.id, coarse(shown), shown.study)


@st.cache_resource(show_spinner=False, max_entries=16)
def _costs(study_id: int, mark: Mark, _study: Study) -> StudyCost:
    return cost.of_study(database(), _study)


@st.cache_resource(show_spinner="Comparing merges …", max_entries=32)
def worth_of_parents(
    study_id: int, number: int, split: OpenSplit, mark: Mark, _study: Study
) -> Attribution:
    """What follows from the merges that were evaluated so far."""
    plan = coalitions.plan(database(), _study, number, split=split)
    return attribution.result(database(), _study, plan)


@st.cache_resource(show_spinner="Looking for what is wrong …", max_entries=32)
def health_of_suite(name: str, digest: str, study: int | None) -> SuiteHealth:
    """What the items of a suite say: its newest content, of that digest, or that of a study."""
    return suite_health.of_items(views.suite(database(), name, study))


@st.cache_resource(show_spinner="Looking at answers …", max_entries=32)
def answers_of_suite(name: str, study_id: int, mark: Mark, _study: Study) -> list[SuiteAnswers]:
    """What a study's answers say of one of its suites."""
    return suite_answers.of_study(database(), _study, read.suite_of(database(), _study, name))


def noise_floor(shown: Snapshot, split: str) -> str | None:
    """How much the reference differs from itself, in one line; it may be measured at any time."""
    return noise.line(database(), shown.study, split)


def nobody_works() -> bool:
    """No worker has been seen for a minute."""
    return not any(w["silent_seconds"] < 60 for w in views.workers(database()))


def list_mark() -> Mark:
    """Differs from an earlier mark when the list of studies changed."""
    return views.list_mark(database())


@st.cache_resource(show_spinner=False, max_entries=4)
def overview(mark: Mark, archived: bool = False) -> list[Row]:
    """Every study, newest first."""
    return listing.listing(database(), archived=archived)
