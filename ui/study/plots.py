"""The plots below the scatter: progress, racing, weights and objectives together, the workers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from services.studies import views
from services.studies.columns import Columns
from services.studies.looking import CAVEAT, ENOUGH, importance
from services.studies.space import labels_of
from ui import reading
from ui.measures import Measure
from ui.plots.progress import best_figure, racing_figure, timeline_figure, volume_figure
from ui.plots.relations import importance_figure, parallel_figure
from ui.plots.weights import heat_figure
from ui.reading import Snapshot

PLOT: dict[str, Any] = {"displaylogo": False, "modeBarButtonsToRemove": ["autoScale2d", "toImage"]}


def draw(shown: Snapshot, trials: Columns, y: Measure, selected: Collection[int]) -> None:
    """All of them; what the study has no data for is left out, or says what it waits for."""
    _progress(shown, trials, y, selected)
    _relations(shown, trials, y, selected)
    figure = timeline_figure(views.timeline(reading.database(), shown.study.id))
    if figure is not None:
        _chart(figure, "timeline", "Evaluations by worker over time")


def _chart(figure: go.Figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, key=key, config=PLOT, alt=alt)


def _progress(shown: Snapshot, trials: Columns, y: Measure, selected: Collection[int]) -> None:
    plots = [(best_figure(trials, y, selected), "best", f"Best {y.title} so far, by trial")]
    curve = reading.curve(shown)
    if any(point.hypervolume is not None for point in curve):
        plots.append((volume_figure(curve), "volume", "Hypervolume of the front by evaluations"))
    if shown.study.spec.search.racing is not None:
        whole = sum(suite.search_items for suite in shown.study.suites)
        racing = racing_figure(reading.trials(shown, "search"), whole)
        if racing is not None:
            plots.append((racing, "racing", "Items scored with racing, and without"))
    for column, (figure, key, alt) in zip(st.columns(len(plots)), plots, strict=True):
        with column:
            _chart(figure, key, alt)


def _relations(shown: Snapshot, trials: Columns, y: Measure, selected: Collection[int]) -> None:
    study, chosen, group = shown.study, shown.summary["chosen"], None
    labels = labels_of(study)
    if len(labels) > 1:
        names = ["mean of the groups", *labels]
        picked = st.selectbox("Weights of", names, key=f"group-{study.id}", width=260)
        group = names.index(picked) - 1 if picked in labels else None
    lines = parallel_figure(study, trials, group, chosen, selected)
    if lines is not None:
        _chart(lines, "parallel", "Parallel coordinates of weights and objectives")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        heat = heat_figure(study, trials, y, chosen, selected)
        if heat is not None:
            _chart(heat, "heat", "Weights of the front's candidates")
        else:
            st.caption("No candidate of the front is shown, so there is no map of its weights.")
    with right:
        found = importance(study, trials, y.values(trials), group)
        if found is None:
            st.caption(f"Which weights go with {y.title} is shown from {ENOUGH} candidates on.")
        else:
            _chart(importance_figure(study, found, y), "importance",
                   f"Rank correlation of each weight with {y.title}")  # fmt: skip
            st.caption(CAVEAT)
