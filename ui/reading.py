"""What pages read, kept while nothing changed: the database handle and snapshots of studies.

Every snapshot is keyed by the study's change mark, so a page asks one cheap query and reads again
only when something happened. Snapshots are frozen and shared by all sessions; nothing of the test
split is ever kept here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from services import noise
from services.cli.context import open_database
from services.db import Database, Row
from services.findings import Finding
from services.studies import certainty, health, listing, read, views
from services.studies.read import CandidateView, Flip, OpenSplit
from services.studies.record import Study

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


def candidates(shown: Snapshot, split: OpenSplit) -> list[CandidateView]:
    """Every trial with its metrics on an open split."""
    return _candidates(shown.study.id, split, shown.mark, shown.study)


@st.cache_resource(show_spinner="Reading candidates …", max_entries=32)
def _candidates(study_id: int, split: OpenSplit, mark: Mark, _study: Study) -> list[CandidateView]:
    return read.candidates(database(), _study, split)


def on_the_front(shown: Snapshot, split: OpenSplit) -> dict[int, float]:
    """How sure each candidate's place on the front is, by trial number."""
    return _on_the_front(shown.study.id, split, shown.mark, shown.study)


@st.cache_resource(show_spinner="Resampling items …", max_entries=32)
def _on_the_front(study_id: int, split: OpenSplit, mark: Mark, _study: Study) -> dict[int, float]:
    return certainty.on_the_front(database(), _study, split)


@st.cache_resource(show_spinner=False, max_entries=32)
def _findings(study_id: int, mark: Mark, _study: Study) -> list[Finding]:
    return health.findings(database(), _study)


def findings(shown: Snapshot) -> list[Finding]:
    """What is wrong with the study, each with its mend."""
    return _findings(shown.study.id, shown.mark, shown.study)


def curve(shown: Snapshot) -> list[views.Progress]:
    """Best value and hypervolume against evaluations, on the search split."""
    return _curve(shown.study.id, shown.mark, shown.study)


@st.cache_resource(show_spinner=False, max_entries=32)
def _curve(study_id: int, mark: Mark, _study: Study) -> list[views.Progress]:
    return views.progress(_study, read.candidates(database(), _study, "search"))


@st.cache_resource(show_spinner="Comparing answers …", max_entries=32)
def flips(study_id: int, number: int, split: OpenSplit, mark: Mark, _study: Study) -> list[Flip]:
    """Every answer of a candidate that differs from the reference's."""
    return read.flips(database(), _study, number, split)


def noise_floor(shown: Snapshot, split: str) -> str | None:
    """How much the reference differs from itself, in one line; it may be measured at any time."""
    return noise.line(database(), shown.study, split)


def list_mark() -> Mark:
    """Differs from an earlier mark when the list of studies changed."""
    return views.list_mark(database())


@st.cache_resource(show_spinner=False, max_entries=4)
def overview(mark: Mark, archived: bool = False) -> list[Row]:
    """Every study, newest first."""
    return listing.listing(database(), archived=archived)
