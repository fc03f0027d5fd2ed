"""Weights as bars (one candidate) and as heat maps (its groups, the front). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from services.studies.columns import Columns
from services.studies.looking import weights_of
from services.studies.record import Study
from services.studies.space import rows_of
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
    room = 0.3 * (high - low or 1)  # for a number beside the longest bar, on a telephone too
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
    study: Study,
    columns: Columns,
    order: Measure,
    chosen: int | None = None,
    selected: Collection[int] = (),
) -> go.Figure | None:
    """Weights of the front's candidates, or of the selected ones, sorted by a measure; None where
    there are none."""
    mask = np.isin(columns.number, list(selected)) & columns.told if selected else columns.front
    some = columns.take(mask)
    values = order.values(some)
    sign = -1 if order.better == "maximize" else 1
    places = np.argsort(sign * np.nan_to_num(values), kind="stable")[:MOST_COLUMNS]
    some, left_out = some.take(places), len(some) - len(places)
    if not len(some):
        return None
    names = [_name(study, name) for name in study.pool.names]
    rows = weights_of(study, some)
    figure = _heat(rows.T.tolist(), [_column(some, i, chosen) for i in range(len(some))], names)
    grouped = any(len(rows_of(study, weights)) > 1 for weights in some.weights.tolist())
    what = "Mean weights of the groups" if grouped else "Weights"
    where = "the selected" if selected else "the front"
    best = f"{len(some)} best of {len(some) + left_out}" if left_out else "best"
    title = f"{what} over {where}<br><sup>{best} {order.title} first</sup>"
    theme.dress(figure, height=160 + 26 * len(names), title=title)
    figure.update_layout(margin_t=58)
    figure.update_yaxes(autorange="reversed")
    candidate = "selected candidate" if selected else "candidate on the front"
    figure.update_xaxes(type="category", title=f"{candidate} (trial)")
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


def _column(columns: Columns, place: int, chosen: int | None) -> str:
    number, role = int(columns.number[place]), columns.role[place]
    mark = " chosen" if number == chosen else ""
    return f"#{number}{mark}" if role == "search" else words.markup(columns.label[place])
