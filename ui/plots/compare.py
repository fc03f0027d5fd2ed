"""A few candidates against each other: what changes from each to each other one, and their
objectives side by side. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from services.studies.pairs import Pairs
from services.studies.read import CandidateView
from ui import theme, words
from ui.measures import Measure

COLOURS = (theme.BLUE, theme.ORANGE, theme.GREEN, theme.PURPLE, theme.SKY, theme.VERMILLION)
#: light for few changes, dark for many; told apart without colour too
SCALE = [[0.0, "#F7F7F7"], [1.0, theme.BLUE]]


def pairs_figure(pairs: Pairs, names: Mapping[int, str], kind: str) -> go.Figure:
    """Share of items that change from the row's candidate to the column's; `kind` is `churn` or
    `negative`, items that the row's has right and the column's wrong."""
    titles = {"churn": "Churn", "negative": "Negative flips"}
    labels = [words.markup(names[n]) for n in pairs.numbers]
    values: list[list[float | None]] = []
    text: list[list[str]] = []
    for a in pairs.numbers:
        found = [None if a == b else pairs.counts[a, b] for b in pairs.numbers]
        share = [
            None if c is None else (c.churn if kind == "churn" else c.negative_flip_rate)
            for c in found
        ]
        values.append([None if s is None else 100 * s for s in share])
        text.append(["" if s is None else f"{100 * s:.1f}" for s in share])
    top = max((v for row in values for v in row if v is not None), default=0.0) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values, x=labels, y=labels, text=text, texttemplate="%{text}", colorscale=SCALE,
            zmin=0, zmax=top, xgap=2, ygap=2, colorbar={"title": "%", "thickness": 10},
            hovertemplate="from %{y} to %{x}: %{z:.1f} % of items<extra></extra>",
        )
    )  # fmt: skip
    theme.dress(
        figure, height=170 + 44 * len(labels), title=f"{titles[kind]} (% of items)",
        revision="|".join(labels),
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", title="from", type="category", showgrid=False)
    figure.update_xaxes(title="to", type="category", showgrid=False)
    return figure


def parallel_figure(
    measures: Sequence[Measure], found: Sequence[CandidateView], names: Mapping[int, str]
) -> go.Figure:
    """One line a candidate over the objectives, each scaled to its own span, better upwards."""
    figure = go.Figure()
    spans = []
    for measure in measures:
        values = [v for c in found if (v := measure.value(c)) is not None]
        spans.append((min(values, default=0.0), max(values, default=1.0)))
    axes = [_axis(m, *span) for m, span in zip(measures, spans, strict=True)]
    for index, candidate in enumerate(found):
        heights, hover = [], []
        for measure, (low, high) in zip(measures, spans, strict=True):
            value = measure.value(candidate)
            share = None if value is None else (value - low) / (high - low) if high > low else 0.5
            if share is not None and measure.better == "minimize":
                share = 1 - share
            heights.append(share)
            hover.append(words.amount(value, measure.unit))
        name = words.markup(names[candidate.trial.number])
        figure.add_scatter(
            x=axes, y=heights, mode="lines+markers", name=name,
            line={"color": COLOURS[index % len(COLOURS)], "width": 2},
            marker={"symbol": index, "size": 10}, customdata=hover,
            hovertemplate="%{x}: %{customdata}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    title = "Objectives side by side (best of these on top)"
    theme.dress(figure, height=360, title=title, revision="|".join(axes))
    figure.update_yaxes(
        range=[-0.08, 1.08], tickvals=[0, 1], ticktext=["worst", "best"], title=None
    )
    figure.update_xaxes(type="category")
    return figure


def _axis(measure: Measure, low: float, high: float) -> str:
    """Its name and what its ends stand for, the best first."""
    ends = (low, high) if measure.better == "minimize" else (high, low)
    best, worst = (words.amount(end, measure.unit) for end in ends)
    return f"{words.markup(measure.title)}<br>best {best}<br>worst {worst}"
