"""What each parent is worth to a candidate, as bars. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from services.studies.attribution import AxisFigures, Figure
from services.studies.coalitions import Player
from ui import theme, words
from ui.measures import Measure

#: what the two kinds of bars are called
WITHOUT, SHAPLEY = "left out, it loses", "Shapley value"


def worth_figure(
    players: Sequence[Player], axis: AxisFigures, measure: Measure
) -> go.Figure | None:
    """Two bars for each parent with 95 % intervals, the heaviest parent on top; None before any is
    known. Shares are in points of a hundred."""
    kinds = (
        (SHAPLEY, axis.shapley, theme.BLUE, ""),
        (WITHOUT, axis.leave_one_out, theme.ORANGE, "/"),
    )
    if all(f.value is None for _, figures, _, _ in kinds for f in figures):
        return None
    scale, written = (100, "points") if measure.unit == "%" else (1, measure.unit)
    names = [f"{words.markup(p.name)} {p.weight:.2f}" for p in players]
    figure = go.Figure(
        [
            go.Bar(
                name=name, x=_values(figures, scale), y=names, orientation="h",
                marker={"color": colour, "pattern": {"shape": shape}},
                error_x=_errors(figures, scale),
                hovertemplate=f"%{{y}}<br>{name} %{{x:+.3g}} {written}<extra></extra>",
            )
            for name, figures, colour, shape in kinds
        ]
    )  # fmt: skip
    better = "more is better" if axis.direction == "maximize" else "less is better"
    theme.dress(
        figure, height=190 + 46 * len(names), title=words.markup(words.sentence(measure.title))
    )
    figure.update_layout(barmode="group", bargap=0.3)
    # in groups of bars the first trace stands lowest
    figure.update_yaxes(autorange="reversed", title="parent and its weight")
    figure.update_xaxes(
        title=f"{written}; {better}", zeroline=True, zerolinecolor=theme.GREY, zerolinewidth=2
    )
    return figure


def _values(figures: Sequence[Figure], scale: float) -> list[float | None]:
    return [None if f.value is None else scale * f.value for f in figures]


def _errors(figures: Sequence[Figure], scale: float) -> dict[str, object]:
    """From each value to the ends of its interval; none where one is unknown."""
    ends = [
        (f.high - f.value, f.value - f.low)
        if f.value is not None and f.low is not None and f.high is not None
        else (0.0, 0.0)
        for f in figures
    ]
    up, down = (scale * np.maximum(end, 0.0) for end in np.transpose(ends))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down,
            "color": theme.GREY, "thickness": 1.5}  # fmt: skip
