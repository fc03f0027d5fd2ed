"""Weights and objectives together: parallel coordinates, and which weights go with an objective.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import plotly.graph_objects as go

from services.studies.columns import Columns
from services.studies.looking import weights_of
from services.studies.record import Study
from ui import theme, words
from ui.measures import Measure, objectives

#: more lines than this cannot be followed
MOST_LINES = 150


def parallel_figure(
    study: Study,
    columns: Columns,
    group: int | None = None,
    chosen: int | None = None,
    selected: Collection[int] = (),
) -> go.Figure | None:
    """A line a candidate over weights and objectives, each axis scaled to what is shown and turned
    so that better is up. The selected come first, then the best ranks; None without any."""
    told = columns.take(columns.told)
    ringed = np.isin(told.number, list(selected))
    named = np.isin(told.role, ("reference", "uniform")) | (told.number == (chosen or -1))
    order = np.lexsort((told.number, told.rank, ~ringed, ~named))
    some = told.take(order[:MOST_LINES])
    if len(some) < 2:
        return None
    own = objectives(study)
    names = [*study.pool.names, *(m.title for m in own)]
    values = np.column_stack([weights_of(study, some, group), *(m.values(some) for m in own)])
    downward = np.array([False] * len(study.pool.names) + [m.better == "minimize" for m in own])
    low, high = values.min(axis=0), values.max(axis=0)
    shown = (values - low) / np.where(high > low, high - low, 1.0)
    shown = np.where(downward, 1 - shown, shown)
    figure = go.Figure()
    for name, mask, colour, width in _kinds(some, chosen, selected):
        if mask.any():
            figure.add_trace(_lines(some.take(mask), values[mask], shown[mask], names, name,
                                    colour, width))  # fmt: skip
    what = "Weights and objectives" if group is None else "Weights of one group and objectives"
    count = f"{len(some)} of {len(told)} candidates" if len(some) < len(told) else "every candidate"
    theme.dress(figure, height=430, title=f"{what}: {count}", revision=f"lines|{group}")
    figure.update_layout(margin_r=50)  # the last name would be left out where it is cut off
    ends = [(high, low) if down else (low, high) for low, high, down in
            zip(low, high, downward, strict=True)]  # fmt: skip
    units = [""] * len(study.pool.names) + [m.unit for m in own]
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[f"{words.markup(_short(n))}<br>{_end(e[0], u)}" for n, e, u in
                  zip(names, ends, units, strict=True)],
        range=[-0.3, len(names) - 0.7], showgrid=True, gridcolor=theme.FAINT, zeroline=False,
    )  # fmt: skip
    for place, (end, unit) in enumerate(zip(ends, units, strict=True)):
        figure.add_annotation(
            x=place, y=1.06, text=_end(end[1], unit), showarrow=False, font={"size": 11}
        )
    figure.add_vline(x=len(study.pool.names) - 0.5, line={"color": theme.GREY, "dash": "dot"})
    figure.update_yaxes(
        title="each axis from its lowest to its best or highest", showticklabels=False,
        range=[-0.05, 1.12], showgrid=False, zeroline=False,
    )  # fmt: skip
    return figure


def _kinds(
    some: Columns, chosen: int | None, selected: Collection[int]
) -> list[tuple[str, np.ndarray, str, float]]:
    """(name, bool [T], colour, width) of the lines, the most important last."""
    ringed = np.isin(some.number, list(selected))
    reference = some.role == "reference"
    best = some.number == (-1 if chosen is None else chosen)
    rest = ~(ringed | reference | best)
    # theme.BLUE and theme.ORANGE, through which other lines can be seen
    faint, light = "rgba(0, 114, 178, 0.25)", "rgba(230, 159, 0, 0.4)"
    return [
        ("others", rest & ~some.front, theme.FAINT, 1),
        ("front", rest & some.front, theme.FAINT if ringed.any() else faint, 1),
        ("selected", ringed & ~best, theme.ORANGE if ringed.sum() <= 30 else light, 1.5),
        ("reference", reference, theme.VERMILLION, 2.5),
        ("chosen", best, theme.GREEN, 3),
    ]


def _lines(
    some: Columns,
    values: np.ndarray,
    shown: np.ndarray,
    names: list[str],
    name: str,
    colour: str,
    width: float,
) -> go.Scatter:
    """All lines of a kind as one, with gaps between."""
    count, axes = shown.shape
    x = np.tile([*range(axes), np.nan], count)
    y = np.column_stack([shown, np.full(count, np.nan)]).ravel()
    texts = [
        text
        for number, row in zip(some.number, values, strict=True)
        for text in (
            *(f"trial {number}<br>{words.markup(n)}: {v:.4g}" for n, v in
              zip(names, row, strict=True)),
            "",
        )
    ]  # fmt: skip
    dash = {"reference": "dash", "chosen": "solid"}.get(name, "solid")
    return go.Scatter(
        x=x, y=y, mode="lines", name=name, line={"color": colour, "width": width, "dash": dash},
        hovertext=texts, hovertemplate="%{hovertext}<extra></extra>", connectgaps=False,
    )  # fmt: skip


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _end(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.2f}"


def importance_figure(study: Study, found: np.ndarray, measure: Measure) -> go.Figure:
    """A bar for each checkpoint: how its weight goes with a measure."""
    order = np.argsort(np.abs(found), kind="stable")
    names = [words.markup(study.pool.names[i]) for i in order]
    values = found[order]
    helps = values > 0 if measure.better == "maximize" else values < 0
    figure = go.Figure(
        go.Bar(
            x=values,
            y=names,
            orientation="h",
            marker={
                "color": [theme.BLUE if good else theme.VERMILLION for good in helps],
                "pattern": {"shape": ["" if good else "/" for good in helps]},
            },
            text=[f"{v:+.2f}" for v in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    theme.dress(
        figure, height=150 + 26 * len(names), title=f"Which weights go with {measure.title}"
    )
    figure.update_xaxes(
        title="rank correlation<br>blue: better with more of it, hatched: worse",
        range=[-1.15, 1.15], zeroline=True, zerolinecolor=theme.GREY,
    )  # fmt: skip
    figure.update_layout(showlegend=False)
    return figure
