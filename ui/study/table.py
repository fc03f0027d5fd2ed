"""The table of trials and the log of events at the foot of the study page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from services.studies import read
from services.studies.read import CandidateView
from ui import reading, tables, words
from ui.reading import Snapshot
from ui.study import splits
from ui.study.front import open_candidate

CLICK = "trial-click"


def draw(shown: Snapshot, found: Sequence[CandidateView], split: str) -> None:
    """Every trial, best rank first; the first column opens it."""
    shares = splits.on_the_front(shown, split) if found else {}
    frame = tables.trial_frame(shown.study, found, shown.summary["chosen"], shares)
    st.markdown(f"##### Trials · {split} split")
    if frame.empty:
        st.caption("none yet")
        return
    st.dataframe(
        frame,
        key=f"trials-{shown.study.id}",
        column_config=_columns(shown),
        hide_index=True,
        width="stretch",
        alt="Trials with their metrics",
    )
    n = max((m.n for c in found for m in [c.metrics.get("", {}).get("churn")] if m), default=0)
    st.caption(
        f"Shares in percent; ± is half of the 95 % interval. Over all suites n = {n} items of the "
        f"{split} split. Flips and churn are against {words.plain(shown.study.reference)}."
    )
    click = st.session_state.get(CLICK)
    if click is not None:
        open_candidate(shown, int(frame["number"].iloc[click["row"]]))


def _columns(shown: Snapshot) -> dict[str, Any]:
    config: dict[str, Any] = {
        "open": st.column_config.ButtonColumn(
            "", type="tertiary", key=CLICK, help="open the candidate", width=70, pinned=True
        ),
        "number": None,
        "what": st.column_config.TextColumn("what", width=130),
        "name": st.column_config.TextColumn("name", width=110),
        "state": st.column_config.TextColumn(
            "state", width=80 if shown.study.spec.search.racing is None else 230
        ),
        "rank": st.column_config.NumberColumn("rank", help="1: the front", width=50),
        "on front": st.column_config.NumberColumn(
            "on front %",
            format="%.0f",
            help="in how many of 1,000 resamples of the items it is on the front",
            width=70,
        ),
        "feasible": st.column_config.CheckboxColumn("ok", help="meets the constraints", width=40),
        "weights": st.column_config.TextColumn("weights", width=330),
    }
    for measure in tables.shown_measures(shown.study):
        form = "%.1f" if measure.unit == "%" else "%.3f"
        unit = " %" if measure.unit == "%" else " nats"
        config[measure.key] = st.column_config.NumberColumn(
            f"{measure.title}{unit}", format=form, help=measure.meaning
        )
        config[f"± {measure.key}"] = st.column_config.NumberColumn("±", format=form, width=50)
    return config


def descents(shown: Snapshot) -> None:
    """How far the descents of a search with gradients are; nothing for other methods."""
    found = shown.summary["descents"]
    if not found:
        return
    st.markdown("##### Descents")
    frame = pd.DataFrame(
        {
            "descent": [d["number"] for d in found],
            "preference": [" ".join(f"{x:.2f}" for x in d["preference"]) for d in found],
            "state": [d["state"] for d in found],
            "steps": [d["step"] for d in found],
            "loss": [d["cost"].get("loss") for d in found],
            "item evaluations": [d["cost"].get("passes") for d in found],
            "error": [d["error"] or "" for d in found],
        }
    )
    st.dataframe(frame, hide_index=True, width="stretch", alt="Descents of the study")


def events(shown: Snapshot) -> None:
    """What happened, newest first, and what the submitter wrote."""
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("##### Events")
        found = read.events(reading.database(), shown.study.id)
        frame = pd.DataFrame(
            {
                "when (UTC)": [f"{e['at']:%Y-%m-%d %H:%M:%S}" for e in reversed(found)],
                "what": [e["text"] for e in reversed(found)],
            }
        )
        st.dataframe(frame, hide_index=True, width="stretch", alt="Events of the study")
    with right:
        st.markdown("##### Spec")
        if shown.study.spec.notes:
            st.text(shown.study.spec.notes)
        with st.expander("as it was submitted, defaults filled in"):
            st.json(shown.study.spec.model_dump(mode="json"))
