"""The table of trials and the log of events at the foot of the study page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
import streamlit as st

from services.studies import read
from services.studies.columns import Columns
from ui import badges, reading, tables, words
from ui.reading import Snapshot
from ui.study import splits

#: rows that a table sends to the browser, at most
MOST_ROWS = 500


def draw(shown: Snapshot, columns: Columns, split: str) -> None:
    """Every trial that passes the filters, best rank first; the first column opens it."""
    shares = splits.on_the_front(shown, split) if len(columns) else {}
    st.markdown(f"##### Trials · {split} split")
    if not len(columns):
        st.caption("No trial passes the filters: widen them above." if shown.summary["complete"]
                   else "none yet")  # fmt: skip
        return
    grid(shown, columns, shares, key="trials", alt="Trials with their metrics")
    churn = columns.metrics.get(("", "churn"))
    n = 0 if churn is None else int(churn.n.max())
    more = (
        f"The best {words.count(MOST_ROWS)} of {words.count(len(columns))} by rank; filter to see "
        "others, or export all. "
        if len(columns) > MOST_ROWS
        else ""
    )
    st.caption(
        f"{more}Shares in percent; ± is half of the 95 % interval. Over all suites n = "
        f"{words.count(n)} items of the {split} split. Flips and churn are against "
        f"{words.plain(shown.study.reference)}."
    )


def grid(
    shown: Snapshot,
    columns: Columns,
    shares: Mapping[int, float],
    *,
    key: str,
    alt: str,
    height: int | Literal["auto"] = "auto",
) -> None:
    """Trials as a table, at most `MOST_ROWS`; a click on the first column opens one."""
    frame = tables.trial_frame(
        shown.study, columns, shown.summary["chosen"], shares, most=MOST_ROWS
    )
    st.dataframe(
        frame,
        key=f"{key}-{shown.study.id}",
        column_config=_columns(shown, f"{key}-click"),
        hide_index=True,
        width="stretch",
        height=height,
        alt=alt,
    )
    click = st.session_state.get(f"{key}-click")
    if click is not None:
        badges.go(
            badges.CANDIDATE,
            study=shown.study.id,
            trial=int(frame["number"].iloc[click["row"]]),
        )


def _columns(shown: Snapshot, click: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "open": st.column_config.ButtonColumn(
            "", type="tertiary", key=click, help="open the candidate", width=70, pinned=True
        ),
        "number": None,
        "what": st.column_config.TextColumn("what", width=130),
        "name": st.column_config.TextColumn("name", width=140),
        "state": st.column_config.TextColumn(
            "state", width=80 if shown.study.spec.search.racing is None else 230
        ),
        "rank": st.column_config.NumberColumn("rank", help="1: the front", width=50),
        "on front": st.column_config.NumberColumn(
            "on front %",
            format="%.0f",
            help="in how many of 1\u202f000 resamples of the items it is on the front",
            width=70,
        ),
        "feasible": st.column_config.CheckboxColumn(
            "feasible", help="meets the constraints", width=70
        ),
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
    counts = tables.counted(frame, "steps", "item evaluations")
    st.dataframe(counts, hide_index=True, width="stretch", alt="Descents of the study")


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
