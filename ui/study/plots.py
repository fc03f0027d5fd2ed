"""The plots below the scatter: progress, racing, weights and objectives together, the workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from services.studies import views
from services.studies.columns import Columns
from services.studies.looking import CAVEAT, ENOUGH, importance
from services.studies.space import labels_of
from ui import chart, reading
from ui.measures import Measure
from ui.plots.progress import best_figure, racing_figure, timeline_figure, volume_figure
from ui.plots.relations import importance_figure, parallel_figure
from ui.plots.weights import heat_figure
from ui.reading import Snapshot

#: seconds between two drawings of the workers' timeline while a study goes on
TIMELINE_SECONDS = 20
Selected = Collection[int]


def draw(
    shown: Snapshot, trials: Columns, y: Measure, selected: Selected, about: tuple[Any, ...]
) -> None:
    """All of them; what the study has no data for is left out, or says what it waits for. `about`:
    what `trials` were chosen by. Figures that take long and move little are kept for as long as
    the coarse mark: the browser draws nothing again whose figure is the same."""
    mark = (shown.study.id, reading.coarse(shown), y.key, tuple(selected), about)
    _progress(shown, trials, y, selected, mark)
    _relations(shown, trials, y, selected, mark)
    now = int(time.time() // TIMELINE_SECONDS) if shown.live else 0
    _chart(_timeline(shown.study.id, now, shown.mark if not shown.live else ()), "timeline",
           "Evaluations by worker over time")  # fmt: skip


@st.cache_resource(show_spinner=False, max_entries=64)
def _kept(name: str, mark: tuple[Any, ...], _make: Callable[[], go.Figure | None]) -> Any:
    """The figure of that name as it was first made for this mark."""
    return _make()


@st.cache_resource(show_spinner=False, max_entries=16)
def _timeline(study: int, now: int, mark: tuple[Any, ...]) -> Any:
    return timeline_figure(views.timeline(reading.database(), study))


def _chart(figure: go.Figure | None, key: str, alt: str) -> None:
    if figure is not None:
        chart.draw(figure, key=key, alt=alt)


def _progress(
    shown: Snapshot, trials: Columns, y: Measure, selected: Selected, mark: tuple[Any, ...]
) -> None:
    best = _kept("best", mark, lambda: best_figure(trials, y, selected))
    plots = [(best, "best", f"Best {y.title} so far, by trial")]
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


def _relations(
    shown: Snapshot, trials: Columns, y: Measure, selected: Selected, mark: tuple[Any, ...]
) -> None:
    study, chosen, group = shown.study, shown.summary["chosen"], None
    labels = labels_of(study)
    if len(labels) > 1:
        names = ["mean of the groups", *labels]
        picked = st.selectbox("Weights of", names, key=f"group-{study.id}", width=260)
        group = names.index(picked) - 1 if picked in labels else None
    mark = (*mark, group)
    lines = _kept("parallel", mark,
                  lambda: parallel_figure(study, trials, group, chosen, selected))  # fmt: skip
    _chart(lines, "parallel", "Parallel coordinates of weights and objectives")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        heat = _kept("heat", mark, lambda: heat_figure(study, trials, y, chosen, selected))
        _chart(heat, "heat", "Weights of the front's candidates")
        if heat is None:
            st.caption("No candidate of the front is shown, so there is no map of its weights.")
    with right:
        bars = _kept("importance", mark, lambda: _importance(shown, trials, y, group))
        _chart(bars, "importance", f"Rank correlation of each weight with {y.title}")
        st.caption(
            CAVEAT
            if bars is not None
            else f"Which weights go with {y.title} is shown from {ENOUGH} candidates on."
        )


def _importance(
    shown: Snapshot, trials: Columns, y: Measure, group: int | None
) -> go.Figure | None:
    found = importance(shown.study, trials, y.values(trials), group)
    return None if found is None else importance_figure(shown.study, found, y)
