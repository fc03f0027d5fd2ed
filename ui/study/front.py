"""The plots of the study page: the scatter with its axes, progress, weights of the front."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from services.studies.read import CandidateView
from ui import badges, reading
from ui.measures import Measure, defaults, measures
from ui.plots.front import front_figure, outside
from ui.plots.progress import best_figure, volume_figure
from ui.plots.weights import heat_figure
from ui.reading import Snapshot
from ui.study import cards, splits

PLOT = {"displaylogo": False, "modeBarButtonsToRemove": ["autoScale2d", "toImage"]}


def draw(shown: Snapshot) -> tuple[list[CandidateView], str]:
    """Controls and plots; returns what the rest of the page shows too: candidates and split."""
    study = shown.study
    known = {m.key: m for m in measures(study)}
    first_x, first_y = defaults(study)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        split = splits.choose(shown)
        y = _axis("Y axis", "y", known, first_y)
        x = _axis("X axis", "x", known, first_x)
        zoom = st.toggle("around the front", value=True, key="zoom")
        bars = st.toggle("95 % intervals", value=True, key="bars")
        st.space("stretch")
        splits.test_report(shown)
    found = splits.read(shown, split)
    told = [c for c in found if c.trial.objectives is not None]
    if not told:
        return found, split
    left, right = st.columns([7, 3], gap="medium")
    with left:
        _scatter(shown, found, split, x, y, zoom=zoom, bars=bars)
    with right:
        best = found if split == "test" else reading.candidates(shown, splits.best_open(shown))
        cards.draw(shown, best)
    _progress(shown, y)
    heat = heat_figure(study, found, y, shown.summary["chosen"])
    if heat is not None:
        st.plotly_chart(heat, key="heat", config=PLOT, alt="Weights of the front's candidates")
    return found, split


def _axis(label: str, key: str, known: dict[str, Measure], first: str) -> Measure:
    options = list(known)
    chosen = st.selectbox(
        label,
        options,
        index=options.index(first),
        format_func=lambda k: known[k].title,
        key=key,
        bind="query-params",
        width=200,
    )
    return known[chosen or first]


def _scatter(
    shown: Snapshot,
    found: Sequence[CandidateView],
    split: str,
    x: Measure,
    y: Measure,
    *,
    zoom: bool,
    bars: bool,
) -> None:
    chosen, shares = shown.summary["chosen"], splits.on_the_front(shown, split)
    figure = front_figure(
        shown.study, found, x, y, chosen=chosen, bars=bars, zoom=zoom, shares=shares
    )
    event = st.plotly_chart(
        figure,
        key=f"front-{shown.study.id}",
        on_select="rerun",
        selection_mode="points",
        config=PLOT,
        alt=f"{y.title} against {x.title} of every candidate",
    )
    hidden = outside(figure)
    more = f" {hidden} points lie outside: switch off *around the front*." if hidden else ""
    st.caption(f"Click a point to open the candidate; drag to zoom, double-click to reset.{more}")
    points = event["selection"]["points"]
    if points and points[0].get("customdata"):
        open_candidate(shown, int(points[0]["customdata"][0]))


def _progress(shown: Snapshot, y: Measure) -> None:
    found = reading.candidates(shown, "search")
    plots = [(best_figure(found, y), "best", "Best value so far")]
    curve = reading.curve(shown)
    if any(point.hypervolume is not None for point in curve):
        plots.append((volume_figure(curve), "volume", "Hypervolume of the front"))
    for column, (figure, key, alt) in zip(st.columns(len(plots)), plots, strict=True):
        column.plotly_chart(figure, key=key, config=PLOT, alt=alt)


def open_candidate(shown: Snapshot, number: int) -> None:
    """Go to the candidate's page."""
    badges.go(badges.CANDIDATE, study=shown.study.id, trial=number)
