"""The buttons that steer a study, and its exports. What a role may not do is not offered; the check
itself is in `services`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from services.access import User
from services.studies import control, export
from ui import badges, guard, reading, sign_in, words
from ui.reading import Snapshot

AGAIN = {
    "unfinished": "what is unfinished",
    "failed": "and what was given up after too many tries",
    "all": "and everything that failed",
}
ENDED = ("finished", "failed", "cancelled")


def draw(shown: Snapshot) -> None:
    """Every button that this user has on this study."""
    study, who = shown.study, sign_in.user()
    mine = who.may("submitter", owner=study.owner)
    with st.container(horizontal=True, width="content", gap="small", vertical_alignment="center"):
        if mine:
            _run_or_stop(shown, who)
            if shown.live and study.phase == "search":
                _edit(shown, who)
        if who.may("submitter") and st.button("Clone", icon=":material/content_copy:"):
            badges.go(badges.NEW_STUDY, clone=study.id)
        if mine and study.state in ENDED:
            _archive(shown, who)
        if shown.summary["complete"]:
            st.page_link(
                badges.REPORT,
                label="Report",
                icon=":material/description:",
                query_params={"study": str(study.id)},
                width="content",
            )
        _export(shown)


def refusal(shown: Snapshot) -> str | None:
    """Why somebody has no buttons, None for those who have."""
    who, owner = sign_in.user(), shown.study.owner
    if who.may("submitter", owner=owner):
        return None
    if who.may("submitter"):
        return f"This study belongs to {owner or 'nobody'}: only its owner and admins steer it."
    return f"You are a {who.role}: you may look and export, but not change anything."


def _run_or_stop(shown: Snapshot, who: User) -> None:
    state = shown.study.state
    if state == "running" and st.button("Pause", icon=":material/pause:"):
        _act(control.pause, shown, by=who)
    if state in ("paused", "failed"):
        _resume(shown, who)
    if shown.live:
        _cancel(shown, who)


def _resume(shown: Snapshot, who: User) -> None:
    lost = ("failed", "abandoned")
    some = (c["state"] in lost and c["split"] == shown.study.phase for c in shown.summary["counts"])
    if shown.study.state == "paused" and not any(some):
        if st.button("Resume", icon=":material/play_arrow:"):
            _act(control.resume, shown, by=who)
        return
    with st.popover("Resume", icon=":material/play_arrow:"):
        # of a study that failed, what is unfinished alone would fail again
        choices = [a for a in AGAIN if shown.study.state == "paused" or a != "unfinished"]
        again = st.radio("Evaluate", choices, format_func=AGAIN.get, key="resume-again")
        st.caption(
            "A failed candidate is tried again only while no later generation was suggested "
            "from its failure."
        )
        if st.button("Resume the study", type="primary"):
            _act(control.resume, shown, again, by=who)


def _cancel(shown: Snapshot, who: User) -> None:
    """The button opens what it would do; only the second press does it."""
    with st.popover("Cancel", icon=":material/block:"):
        st.markdown(
            "Running evaluations stop within seconds and no candidate is chosen. What was "
            "evaluated stays. **This cannot be undone**; to go on later, pause instead."
        )
        if st.button("Cancel the study", type="primary", icon=":material/block:"):
            _act(control.cancel, shown, by=who)


def _edit(shown: Snapshot, who: User) -> None:
    spec = shown.study.spec
    with st.popover("Edit", icon=":material/edit:"), st.form("edit", border=False):
        st.caption("Budget and parallelism; for anything else clone the study.")
        budget = spec.budget
        changes = {
            "trials": st.number_input("Candidates", 1, 100_000, budget.trials),
            "item_evaluations": _clearable("Item evaluations", 1, budget.item_evaluations),
            "wall_minutes": _clearable("Minutes", 0.1, budget.wall_minutes),
            "parallelism": st.number_input(
                "Candidates at a time", 1, 1024, spec.search.parallelism
            ),
        }
        if st.form_submit_button("Save", type="primary"):
            _act(control.edit, shown, changes, by=who)


def _clearable(label: str, least: float, value: float | None) -> float | None:
    """A number that may be emptied: a widget with a value of its own would fall back to it."""
    key = f"edit-{label}-{value}"
    st.session_state.setdefault(key, value)
    return st.number_input(label, min_value=least, value=None, key=key, placeholder="no limit")


def _archive(shown: Snapshot, who: User) -> None:
    if shown.study.archived:
        if st.button("Unarchive", icon=":material/unarchive:"):
            _act(control.unarchive, shown, by=who)
    elif st.button(
        "Archive", icon=":material/archive:", help="hide it from the list; nothing is deleted"
    ):
        _act(control.archive, shown, by=who)


def _act(action: Callable[..., Any], shown: Snapshot, *values: Any, by: User) -> None:
    with guard.explained():
        action(reading.database(), shown.study.id, *values, by=by)
        st.rerun()


def _export(shown: Snapshot) -> None:
    study = shown.study
    with st.popover("Export", icon=":material/download:"):
        for kind, form in export.FORMATS.items():
            if form.one_trial and shown.summary["chosen"] is None:
                continue
            st.download_button(
                form.label,
                data=partial(export.export_study, reading.database(), study.id, kind),
                file_name=f"study-{study.id}.{form.suffix}",
                mime=form.mime,
                width="stretch",
            )
        st.caption(words.plain(f"lm-eval's sample logs: remelt export {study.id} --lm-eval DIR"))
