"""The scatter of a study: every candidate by two measures, the front and the named models marked.

Pure: columns of trials in, a figure out. Every point carries its trial's number as the first of its
customdata, and every text that is shown is escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from services.studies.columns import Columns
from services.studies.record import Study
from ui import theme, words
from ui.measures import RESTATED, Measure, measures, objectives
from ui.plots import thin
from ui.plots.labels import MOST_OBSTACLES, place

#: more checkpoints than this are named on hovering only
MOST_NAMES = 16
#: intervals of a larger front would hide it: then only the chosen one and the reference have them
MOST_BARS = 10
#: a larger selection is dotted: rings would cover each other
MOST_RINGS = 100
#: share of the shown range that is left free around the points
MARGIN = 0.08
#: a zoomed plot also shows what lies within this share of the focus's range around it
NEARBY = 0.4
#: an axis of shares that spans less has ticks with a second decimal
NARROW = 0.008
CHOSEN, SELECTED = "chosen", "selected"
Range = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """How one kind of candidate is drawn."""

    name: str
    symbol: str
    size: int
    colour: str
    #: colour of the rim
    rim: str = "white"
    bars: bool = False
    #: place in the legend
    rank: int = 5


#: in the order of drawing: what matters most comes last, on top
MARKS = {
    "infeasible": Mark("infeasible", "x-thin-open", 8, theme.GREY, theme.GREY, rank=9),
    "dominated": Mark("dominated", "circle", 7, theme.FAINT, rank=8),
    "single": Mark("checkpoint", "diamond", 11, theme.ORANGE, "#5C4000"),
    "greedy": Mark("greedy soup", "triangle-up", 10, theme.PURPLE, "#5E2F49"),
    "uniform": Mark("uniform soup", "square", 11, theme.GREEN, "#00392A"),
    "front": Mark("front", "circle", 10, theme.BLUE, bars=True, rank=1),
    "reference": Mark("reference", "star", 17, theme.VERMILLION, "#5E2900", bars=True, rank=3),
}
#: rings around candidates of other traces: shapes of their own too
RINGS = {
    CHOSEN: Mark(CHOSEN, "circle-open", 28, theme.VERMILLION, theme.VERMILLION, True, 2),
    "knee": Mark("knee", "diamond-open", 20, theme.GREEN, theme.GREEN, rank=2),
    "few flips": Mark("few flips", "square-open", 19, theme.PURPLE, theme.PURPLE, rank=2),
    SELECTED: Mark(SELECTED, "circle-open", 13, theme.ORANGE, theme.ORANGE, rank=4),
}


def kinds(columns: Columns) -> np.ndarray:
    """object [T]: which of `MARKS` each candidate is drawn as."""
    found = np.where(columns.front, "front", "dominated").astype(object)
    found[~columns.feasible] = "infeasible"
    named = ~np.isin(columns.role, ("warm", "search"))
    found[named] = columns.role[named]
    return found


def revision(x: Measure, y: Measure, split: str, *, zoom: bool) -> str:
    """Differs where a reader's zoom and selection mean nothing any more."""
    return f"{x.key}|{y.key}|{split}|{zoom}"


def front_figure(
    study: Study,
    columns: Columns,
    x: Measure,
    y: Measure,
    *,
    chosen: int | None = None,
    bars: bool = True,
    zoom: bool = True,
    shares: Mapping[int, float] | None = None,
    picks: Mapping[str, int] | None = None,
    selected: Collection[int] = (),
) -> go.Figure:
    """Every told candidate by two measures. `zoom` shows the part around the front; `bars` draws
    95 % intervals of the front and the reference; `shares` says by trial how sure its place on the
    front is. `chosen`, `picks` (by name in `RINGS`) and the `selected` are ringed.

    Its `layout.meta` counts the candidates that are `told`, the points that lie `outside` of the
    range, and those that are `hidden` under others."""
    told = columns.take(~np.isnan(x.values(columns)) & ~np.isnan(y.values(columns)))
    across, up, kind = x.values(told), y.values(told), kinds(told)
    figure = go.Figure()
    _staircase(figure, study, told, x, y)
    theme.dress(figure, height=520, title=f"{words.sentence(y.title)} against {x.title}")
    for measure, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        # in two lines: one would be cut off on a telephone
        update(title=measure.axis(told).replace(" · ", "<br>"))
    figure.update_layout(
        uirevision=revision(x, y, told.split, zoom=zoom),
        clickmode="event",
        meta={"told": len(told), "outside": 0, "hidden": 0},
    )
    if not len(told):
        return figure
    x_range, y_range = _ranges(told, across, up, zoom=zoom, chosen=chosen)
    inside = _within(across, up, x_range, y_range)
    rings = {CHOSEN: [chosen] if chosen is not None else [], SELECTED: list(selected)}
    rings |= {name: [number] for name, number in (picks or {}).items()}
    kept = np.isin(kind, ("dominated", "infeasible", "front"))
    drawn = ~kept
    drawn[kept] = thin.drawn(across[kept], up[kept], x_range, y_range, _importance(told)[kept])
    draw = _Drawing(study, told, x, y, shares or {}, bars)
    for name, mark in MARKS.items():
        members = np.flatnonzero((kind == name) & drawn)
        if len(members):
            few = int((kind == name).sum()) <= MOST_BARS
            figure.add_trace(draw.trace(members, mark, bars=bars and few))
    for name, mark in RINGS.items():
        ringed = np.isin(told.number, rings.get(name, []))
        if ringed.sum() > MOST_RINGS:  # dots, as many as can be told apart
            ringed &= drawn
            mark = replace(mark, symbol="circle", size=5)
        members = np.flatnonzero(ringed)
        if len(members):
            trace = draw.trace(members, mark, bars=bars and mark.bars)
            trace.marker.line.width = 1.5 if name == SELECTED else 2.5
            figure.add_trace(trace)
    figure.update_xaxes(range=x_range, tickformat=_ticks(x, x_range))
    figure.update_yaxes(range=y_range, tickformat=_ticks(y, y_range))
    _names(figure, told, (across, up), x_range, y_range)
    figure.layout.meta |= {
        "outside": int((~inside).sum()), "hidden": int((inside & ~drawn).sum()),
    }  # fmt: skip
    return figure


def _importance(columns: Columns) -> np.ndarray:
    """The lowest is drawn where several lie in one place."""
    return np.where(columns.feasible, np.nan_to_num(columns.rank, nan=1e9), 1e9)


@dataclass(frozen=True)
class _Drawing:
    """What all traces of one scatter share."""

    study: Study
    told: Columns
    x: Measure
    y: Measure
    shares: Mapping[int, float]
    bars: bool

    def trace(self, members: np.ndarray, mark: Mark, *, bars: bool) -> go.Scatter:
        """The points at these places."""
        some = self.told.take(members)
        thin_line = "thin" in mark.symbol
        lines, values = hover_lines(self.study, some)
        return go.Scatter(
            x=self.x.values(some),
            y=self.y.values(some),
            mode="markers",
            name=mark.name,
            legendrank=mark.rank,
            customdata=np.column_stack([some.number, *values]).astype(np.float32),
            hovertext=hover_titles(self.study, some, self.shares),
            hovertemplate="<br>".join(["%{hovertext}", *lines]) + "<extra></extra>",
            marker={
                "symbol": mark.symbol,
                "size": mark.size,
                "color": mark.colour,
                "line": {"width": 1.5 if thin_line else 1, "color": mark.rim},
            },
            # without this a click greys everything else
            unselected={"marker": {"opacity": 1}},
            error_x=_bars(self.x, some) if bars and mark.bars else None,
            error_y=_bars(self.y, some) if bars and mark.bars else None,
        )


def hover_titles(
    study: Study, columns: Columns, shares: Mapping[int, float] | None = None
) -> list[str]:
    """Of each trial its number, what it is, weights, and how sure its place on the front is."""
    found = []
    for number, role, label, weights, feasible, front in zip(
        columns.number.tolist(), columns.role, columns.label, columns.weights.tolist(),
        columns.feasible, columns.front, strict=True,
    ):  # fmt: skip
        what = {"reference": "reference", "search": ""}.get(role, role)
        title = f"<b>trial {number}</b> {words.markup(label)}"
        lines = [f"{title} ({what})" if what and what != label else title]
        lines.append(words.markup(words.trial_weights(study, weights)))
        if not feasible:
            lines.append("breaks a constraint")
        elif front:
            lines.append("on the front")
        if shares and number in shares:
            lines.append(f"on the front of {words.percent(shares[number], 0)} of resampled items")
        found.append("<br>".join(lines))
    return found


def hover_lines(study: Study, columns: Columns) -> tuple[list[str], list[np.ndarray]]:
    """A line of a plotly template for each overall measure and each suite's score, with its
    interval; and the columns that follow the number in the points' customdata."""
    lines: list[str] = []
    values: list[np.ndarray] = []
    for measure in measures(study):
        numbers = measure.numbers(columns)
        overall = measure.suite == "" or measure.metric == "score"
        if numbers is None or not overall or measure.metric in ("inconsistency", *RESTATED):
            continue
        if np.isnan(numbers.value).any():
            continue
        form, unit = (".1%", "") if measure.unit == "%" else (".3f", f" {measure.unit}")
        first = len(values) + 1
        value, low, high = (f"%{{customdata[{first + i}]:{form}}}" for i in range(3))
        bounded = not (np.isnan(numbers.low).any() or np.isnan(numbers.high).any())
        interval = f" ({low} to {high})" if bounded else ""
        lines.append(f"{words.markup(measure.title)}: {value}{unit}{interval}")
        values += [numbers.value, numbers.low, numbers.high]
    return lines, values


def _bars(measure: Measure, columns: Columns) -> dict[str, Any]:
    numbers = measure.numbers(columns)
    assert numbers is not None
    return {
        "type": "data", "symmetric": False,
        "array": np.nan_to_num(numbers.high - numbers.value),
        "arrayminus": np.nan_to_num(numbers.value - numbers.low),
        "thickness": 1, "width": 0, "color": theme.FAINT,
    }  # fmt: skip


def _staircase(figure: go.Figure, study: Study, told: Columns, x: Measure, y: Measure) -> None:
    """The front's edge, where the two axes are all the objectives there are."""
    own = objectives(study)
    if {m.key for m in own} != {x.key, y.key} or len(own) != 2:
        return
    rising = next(m.better for m in own if m.key == x.key) == "maximize"
    front = told.take(told.front)
    across, up = x.values(front), y.values(front)
    order = np.lexsort((up, across))[:: -1 if rising else 1]
    figure.add_trace(
        go.Scatter(
            x=across[order],
            y=up[order],
            mode="lines",
            line={"shape": "hv", "color": theme.SKY, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _ranges(
    told: Columns, across: np.ndarray, up: np.ndarray, *, zoom: bool, chosen: int | None
) -> tuple[Range, Range]:
    if not zoom:
        return _padded(across, MARGIN), _padded(up, MARGIN)
    focus = in_focus(told, chosen)
    if not told.front.any():  # nothing to look at more closely yet
        focus = np.ones(len(told), bool)
    wide = _padded(across[focus], NEARBY), _padded(up[focus], NEARBY)
    near = _within(across, up, *wide)
    return _padded(across[near], MARGIN), _padded(up[near], MARGIN)


def _ticks(measure: Measure, shown: Range) -> str | None:
    """Format of an axis: digits enough that no two ticks read the same."""
    if measure.unit != "%":
        return None
    return ".1%" if shown[1] - shown[0] > NARROW else ".2%"


def in_focus(columns: Columns, chosen: int | None) -> np.ndarray:
    """bool [T]: what a zoomed plot must show; others are shown when they lie near these."""
    named = np.isin(columns.role, ("reference", "uniform"))
    return named | (columns.rank == 1) | (columns.number == (-1 if chosen is None else chosen))


def _within(x: np.ndarray, y: np.ndarray, across: Range, up: Range) -> np.ndarray:
    return (across[0] <= x) & (x <= across[1]) & (up[0] <= y) & (y <= up[1])


def _padded(values: np.ndarray, share: float) -> Range:
    low, high = float(values.min()), float(values.max())
    free = share * (high - low) if high > low else 0.01 + abs(low) * 0.01
    return low - free, high + free


def _names(
    figure: go.Figure,
    told: Columns,
    points: tuple[np.ndarray, np.ndarray],
    across: Range,
    up: Range,
) -> None:
    """Names beside the reference, the checkpoints and the uniform soup that are in range."""
    inside = np.flatnonzero(_within(*points, across, up))
    order = ("reference", "uniform", "single")
    named = [i for role in order for i in inside[told.role[inside] == role]][:MOST_NAMES]
    if not named:
        return
    places = [(float(points[0][i]), float(points[1][i])) for i in named]
    labels = [str(told.label[i]) for i in named]
    near: Sequence[tuple[float, float]] = list(
        zip(*(axis[inside[:MOST_OBSTACLES]].tolist() for axis in points), strict=True)
    )
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in places],
            y=[p[1] for p in places],
            mode="markers+text",
            text=[words.markup(label) for label in labels],
            textposition=place(places, labels, across, up, near),
            textfont={"size": 11},
            # unseen, but they keep the text away from the point
            marker={"size": 18, "opacity": 0},
            unselected={"marker": {"opacity": 0}},
            selected={"marker": {"opacity": 0}},
            customdata=[[int(told.number[i])] for i in named],
            hoverinfo="skip",
            showlegend=False,
        )
    )
