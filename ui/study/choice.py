"""Which candidates the study page is about: filters that hold for every plot and table, and what
was selected in the front's plot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from services.studies.columns import Columns
from services.studies.record import Study
from ui import tables, words
from ui.measures import Measure, measures

SHOWN = {
    "all": "every candidate",
    "feasible": "those that meet the constraints",
    "front": "those on the front",
}


def filters(study: Study, columns: Columns) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The controls; bool [T]: which trials pass, and what was chosen, to be compared."""
    keys = [f"filter-{name}-{study.id}" for name in ("shown", "roles", "text")]
    scores = [m for m in measures(study) if m.metric == "score"]
    with st.popover("Filter", icon=":material/filter_alt:", key="filter"):
        shown = st.segmented_control(
            "Show", list(SHOWN), default="all", format_func=lambda k: k, key=keys[0],
            required=True, help="; ".join(f"**{k}**: {v}" for k, v in SHOWN.items()),
        )  # fmt: skip
        present = [role for role in tables.ROLES if (columns.role == role).any()]
        roles = st.pills(
            "What", present, selection_mode="multi", default=None, key=keys[1],
            format_func=lambda role: tables.ROLES[role], help="none chosen: all",
        )  # fmt: skip
        text = st.text_input("Number or name", key=keys[2], placeholder="12, or part of a name")
        ranges = {}
        for measure in scores:
            if (chosen := _range(study, measure, columns)) is not None:
                ranges[measure] = chosen
        st.caption("Filters hold for every plot and for the table below.")
    made = (shown or "all", tuple(roles), text, tuple(ranges.items()))
    return matching(columns, shown or "all", roles, text, ranges), made


def _range(study: Study, measure: Measure, columns: Columns) -> tuple[float, float] | None:
    """A slider over the scores of one suite; None while it leaves nothing out."""
    values = measure.values(columns)
    known = values[~np.isnan(values)]
    if not len(known) or known.min() == known.max():
        return None
    scale, step = (100, 0.1) if measure.unit == "%" else (1, 0.001)
    low = float(np.floor(scale * known.min() / step) * step)
    high = float(np.ceil(scale * known.max() / step) * step)
    unit = "%" if measure.unit == "%" else "nats/token"
    key = f"filter-{measure.key}-{study.id}"
    held = st.session_state.get(key)
    if held is not None:  # of a study that goes on the ends move
        st.session_state[key] = (min(max(held[0], low), high), min(max(held[1], low), high))
    chosen = st.slider(
        f"{words.plain(measure.title)} ({unit})", low, high,
        **({} if held is not None else {"value": (low, high)}), step=step, key=key,
    )  # type: ignore[call-overload]  # fmt: skip
    if chosen[0] <= low and chosen[1] >= high:
        return None
    return chosen[0] / scale, chosen[1] / scale


def matching(
    columns: Columns,
    shown: str = "all",
    roles: Any = (),
    text: str = "",
    ranges: Mapping[Measure, tuple[float, float]] | None = None,
) -> np.ndarray:
    """bool [T]: the trials that pass. `shown` is one of `SHOWN`; no `roles` are all; `text` is a
    number or part of a name; `ranges` hold for each measure. One without results passes no range.
    """
    mask = np.ones(len(columns), bool)
    if shown == "feasible":
        mask &= columns.feasible
    elif shown == "front":
        mask &= columns.front
    if roles:
        mask &= np.isin(columns.role, list(roles))
    if text := text.strip().casefold().removeprefix("trial ").removeprefix("#"):
        names = np.array([text in label.casefold() for label in columns.label], bool)
        mask &= columns.number == int(text) if text.isdecimal() else names
    for measure, (low, high) in (ranges or {}).items():
        values = measure.values(columns)
        mask &= (values >= low - 1e-12) & (values <= high + 1e-12)
    return mask


def inside(columns: Columns, x: Measure, y: Measure, selection: Mapping[str, Any]) -> np.ndarray:
    """bool [T]: the told trials within any box or lasso of a plot's selection, drawn or not."""
    across, up = x.values(columns), y.values(columns)
    mask = np.zeros(len(columns), bool)
    for box in selection.get("box", ()):
        (x0, x1), (y0, y1) = sorted(box["x"]), sorted(box["y"])
        mask |= (x0 <= across) & (across <= x1) & (y0 <= up) & (up <= y1)
    for lasso in selection.get("lasso", ()):
        mask |= within_polygon(across, up, lasso["x"], lasso["y"])
    return mask


def within_polygon(
    x: np.ndarray, y: np.ndarray, corners_x: list[float], corners_y: list[float]
) -> np.ndarray:
    """bool [k]: points whose ray to the right crosses the polygon's edges an odd number of times;
    NaN is nowhere."""
    found = np.zeros(len(x), bool)
    ax, ay = np.array(corners_x, np.float64), np.array(corners_y, np.float64)
    for x0, y0, x1, y1 in zip(ax, ay, np.roll(ax, -1), np.roll(ay, -1), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        found ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return found & ~np.isnan(x)
