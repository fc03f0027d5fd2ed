"""Weights as bars (one candidate) and as heat maps (its groups, the front). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from services.studies.read import CandidateView
from services.studies.record import Study
from services.studies.space import mean_of, rows_of
from ui import theme, words
from ui.measures import Measure

#: the widest heat map; more candidates than this are left out, the worst first
MOST_COLUMNS = 40
#: cells show their number up to this many columns
NUMBERED_COLUMNS = 16


def bars_figure(study: Study, weights: Sequence[float]) -> go.Figure:
    """One bar per checkpoint, largest on top; negative weights in the other colour."""
    pairs = sorted(zip(study.pool.names, weights, strict=True), key=lambda pair: pair[1])
    figure = go.Figure(
        go.Bar(
            x=[w for _, w in pairs],
            y=[_name(study, n) for n, _ in pairs],
            orientation="h",
            marker_color=[theme.BLUE if w < 0 else theme.VERMILLION for _, w in pairs],
            text=[f"{w:.3f}" for _, w in pairs],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.6f}<extra></extra>",
        )
    )
    theme.dress(figure, height=110 + 26 * len(pairs), title="Weights of the checkpoints")
    low, high = min(0.0, *weights), max(0.0, *weights)
    room = 0.15 * (high - low or 1)
    figure.update_xaxes(
        title=f"weight (sum {sum(weights):.3f})",
        range=[low - (room if low < 0 else 0), high + room],
        zeroline=True,
        zerolinecolor=theme.GREY,
    )
    figure.update_layout(showlegend=False)
    return figure


def groups_figure(study: Study, rows: Mapping[str, Sequence[float]]) -> go.Figure:
    """One column for each group of tensors, one row for each checkpoint."""
    names = [_name(study, name) for name in study.pool.names]
    columns = [words.markup(label) for label in rows]
    figure = _heat(list(map(list, zip(*rows.values(), strict=True))), columns, names)
    theme.dress(figure, height=190 + 26 * len(names), title="Weights of the checkpoints by group")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(type="category", title="group of tensors")
    return figure


def heat_figure(
    study: Study, found: Sequence[CandidateView], order: Measure, chosen: int | None = None
) -> go.Figure | None:
    """Weights of the front's candidates, sorted by a measure; None without a front."""
    front = [c for c in found if c.trial.rank == 1 and c.trial.objectives is not None]
    sign = -1 if order.better == "maximize" else 1
    front.sort(key=lambda c: sign * (order.value(c) or 0.0))
    front = front[:MOST_COLUMNS]
    if not front:
        return None
    names = [_name(study, name) for name in study.pool.names]
    rows = [mean_of(study, c.trial.weights) for c in front]
    values = [[row[parent] for row in rows] for parent in range(len(names))]
    figure = _heat(values, [_column(c, chosen) for c in front], names)
    grouped = any(len(rows_of(study, c.trial.weights)) > 1 for c in front)
    what = "Mean weights of the groups" if grouped else "Weights"
    title = f"{what} over the front, best {order.title} first"
    theme.dress(figure, height=150 + 26 * len(names), title=title)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(type="category", title="candidate on the front (trial)")
    return figure


def _heat(values: list[list[float]], columns: list[str], names: list[str]) -> go.Figure:
    """Weights by checkpoint (row) and column, around a white 0."""
    numbered = len(columns) <= NUMBERED_COLUMNS
    largest = max(abs(w) for row in values for w in row) or 1.0
    return go.Figure(
        go.Heatmap(
            z=values,
            x=columns,
            y=names,
            colorscale=theme.DIVERGING,
            zmin=-largest,
            zmax=largest,
            xgap=1,
            ygap=1,
            text=[[f"{w:.2f}" for w in row] for row in values] if numbered else None,
            texttemplate="%{text}" if numbered else None,
            textfont={"size": 11},
            colorbar={"title": "weight", "thickness": 12},
            hovertemplate="%{x}<br>%{y}: %{z:.4f}<extra></extra>",
        )
    )


def _name(study: Study, name: str) -> str:
    return words.markup(name) + (" (reference)" if name == study.reference else "")


def _column(candidate: CandidateView, chosen: int | None) -> str:
    trial = candidate.trial
    mark = " chosen" if trial.number == chosen else ""
    return f"#{trial.number}{mark}" if trial.role == "search" else words.markup(trial.label)
