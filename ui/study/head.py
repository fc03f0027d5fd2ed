"""The top of the study page: what it is and how far it is."""

from __future__ import annotations

import streamlit as st

from services.studies import read, views
from services.studies.space import labels_of
from ui import badges, live, reading, words
from ui.reading import Snapshot
from ui.study import controls

PHASES = {
    "search": "searching",
    "validation": "re-scoring the best on validation",
    "test": "final report on the test split",
    "publish": "publishing the chosen candidate",
    "done": "done",
}


def draw(shown: Snapshot) -> None:
    """Title, state, buttons, live progress."""
    study = shown.study
    badges.crumbs((badges.STUDIES, "Studies", {}))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(f"#{study.id} {words.plain(study.name)}", anchor=False, width="content")
        badges.state(study.state)
        if study.archived:
            st.badge("archived", icon=":material/archive:", color="gray")
        st.space("stretch")
        controls.draw(shown)
    st.caption(_facts(shown))
    # always there: what comes and goes by itself moves the plots below, and they lose their zoom
    with st.container():
        if why := controls.refusal(shown):
            st.caption(f":material/lock: {words.plain(why)}")
        if study.failure:
            st.error(words.plain(study.failure), icon=":material/error:")
    live.follow(
        shown.mark,
        lambda: read.change_mark(reading.database(), study.id),
        active=shown.live,
        pulse=(lambda: _progress(shown)) if shown.live else None,
    )


def _facts(shown: Snapshot) -> str:
    study, summary = shown.study, shown.summary
    spec = study.spec
    parts = [
        f"pool {study.pool.name}, {len(study.pool.members)} checkpoints",
        f"reference {study.reference}",
        f"suites {', '.join(s.name for s in study.suites)}",
        f"{spec.search.method}, {_space(shown)}, seed {spec.search.seed}",
        f"created {words.when(summary['created_at'])}"
        + (f" by {summary['owner']}" if summary["owner"] else ""),
    ]
    if spec.search.racing is not None:
        parts.append(words.saved(read.racing_saved(reading.database(), study.id)))
    if summary["finished_at"]:
        took = (summary["finished_at"] - summary["created_at"]).total_seconds()
        done, _ = views.expected(study, summary)
        parts.append(f"{words.count(done)} evaluations in {words.duration(took)}")
    return words.plain(" · ".join(parts))


def _space(shown: Snapshot) -> str:
    search, groups = shown.study.spec.search, len(labels_of(shown.study))
    base = f" around {search.base or shown.study.reference}" if search.space == "task" else ""
    return f"{search.space} space{base}" + (f", {groups} groups of tensors" if groups > 1 else "")


def _progress(shown: Snapshot) -> None:
    """The bar; drawn every two seconds while the study runs, from one more cheap query."""
    study, summary = shown.study, shown.summary
    done, total = views.expected(study, summary)
    flight = views.flight(reading.database(), study.id)
    parts = [PHASES[study.phase], f"{words.count(done)} of about {words.count(total)} evaluations"]
    if study.phase == "search":
        parts += summary["used"]
    parts.append(f"{flight['running']} running" if flight["running"] else "none running")
    if study.state == "paused":
        parts.append("paused")
    elif flight["running"]:
        left = views.remaining_seconds(summary, total - done - flight["share"])
        parts += [f"about {words.duration(left)} left"] if left is not None else []
    if summary["failed"]:
        parts.append(f"{summary['failed']} failed")
    st.progress(min(1.0, (done + flight["share"]) / max(total, 1)), text=" · ".join(parts))
    if study.state == "running" and not flight["running"] and reading.nobody_works():
        st.warning("No worker has been seen for a minute. Start one: `remelt worker`")
