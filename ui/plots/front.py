"""The scatter of a study: every candidate by two measures, the front and the named models marked.

Pure: `CandidateView`s in, a figure out. Every point carries its trial's number as customdata, and
every text that is shown is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from services.studies.read import CandidateView
from services.studies.record import Study
from ui import theme, words
from ui.measures import RESTATED, Measure, measures, objectives
from ui.plots.labels import place

#: more checkpoints than this are named on hovering only
MOST_NAMES = 16
#: intervals of a larger front would hide it: then only the chosen one and the reference have them
MOST_BARS = 10
#: share of the shown range that is left free around the points
MARGIN = 0.08
#: a zoomed plot also shows what lies within this share of the focus's range around it
NEARBY = 0.4
CHOSEN = "chosen"
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
    "infeasible": Mark("breaks a constraint", "x-thin-open", 8, theme.GREY, theme.GREY, rank=9),
    "dominated": Mark("dominated", "circle", 7, theme.FAINT, rank=8),
    "single": Mark("checkpoint", "diamond", 11, theme.ORANGE, "#5C4000"),
    "greedy": Mark("greedy soup, steps", "triangle-up", 10, theme.PURPLE, "#5E2F49"),
    "uniform": Mark("uniform soup", "square", 11, theme.GREEN, "#00392A"),
    "front": Mark("front", "circle", 10, theme.BLUE, bars=True, rank=1),
    "reference": Mark("reference", "star", 17, theme.VERMILLION, "#5E2900", bars=True, rank=3),
}


def kind(candidate: CandidateView) -> str:
    """Which of `MARKS` a candidate is drawn as."""
    role = candidate.trial.role
    if role not in ("warm", "search"):
        return role
    if not candidate.feasible:
        return "infeasible"
    return "front" if candidate.trial.rank == 1 else "dominated"


def front_figure(
    study: Study,
    found: Sequence[CandidateView],
    x: Measure,
    y: Measure,
    *,
    chosen: int | None = None,
    bars: bool = True,
    zoom: bool = True,
    shares: Mapping[int, float] | None = None,
) -> go.Figure:
    """Every told candidate by two measures. `zoom` shows the part around the front; `bars` draws
    95 % intervals of the front and the reference; `chosen` is ringed; `shares` says by trial how
    sure its place on the front is."""
    texts = {c.trial.number: hover(study, c, (shares or {}).get(c.trial.number)) for c in found}
    told = [c for c in found if _point(c, x, y) is not None]
    figure = go.Figure()
    _staircase(figure, study, told, x, y)
    for name, mark in MARKS.items():
        members = [c for c in told if kind(c) == name]
        if members:
            drawn = bars and len(members) <= MOST_BARS
            figure.add_trace(_trace(texts, members, x, y, mark, bars=drawn))
    _ring(figure, texts, [c for c in told if c.trial.number == chosen], x, y, bars=bars)
    theme.dress(figure, height=520, title=f"{y.title.capitalize()} against {x.title}")
    percents = {"tickformat": ".1%"}
    figure.update_xaxes(title=x.axis(told), **(percents if x.unit == "%" else {}))
    figure.update_yaxes(title=y.axis(told), **(percents if y.unit == "%" else {}))
    if told:
        x_range, y_range = _ranges(told, x, y, zoom=zoom, chosen=chosen)
        figure.update_xaxes(range=x_range)
        figure.update_yaxes(range=y_range)
        _names(figure, told, x, y, x_range, y_range)
    split = told[0].split if told else ""
    figure.update_layout(uirevision=f"{x.key}|{y.key}|{split}|{zoom}", clickmode="event+select")
    return figure


def _point(candidate: CandidateView, x: Measure, y: Measure) -> tuple[float, float] | None:
    across, up = x.value(candidate), y.value(candidate)
    return None if across is None or up is None else (across, up)


def _trace(
    texts: Mapping[int, str],
    members: Sequence[CandidateView],
    x: Measure,
    y: Measure,
    mark: Mark,
    bars: bool,
) -> go.Scatter:
    thin = "thin" in mark.symbol
    return go.Scatter(
        x=[x.value(c) for c in members],
        y=[y.value(c) for c in members],
        mode="markers",
        name=mark.name,
        legendrank=mark.rank,
        customdata=[[c.trial.number] for c in members],
        hovertext=[texts[c.trial.number] for c in members],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={
            "symbol": mark.symbol,
            "size": mark.size,
            "color": mark.colour,
            "line": {"width": 1.5 if thin else 1, "color": mark.rim},
        },
        # without this a click greys everything else
        unselected={"marker": {"opacity": 1}},
        error_x=_bars(members, x) if bars and mark.bars else None,
        error_y=_bars(members, y) if bars and mark.bars else None,
    )


def _bars(members: Sequence[CandidateView], measure: Measure) -> dict[str, object]:
    above, below = [], []
    for candidate in members:
        metric = measure.of(candidate)
        known = metric is not None and None not in (metric.value, metric.low, metric.high)
        above.append(metric.high - metric.value if known else 0)  # type: ignore[union-attr, operator]
        below.append(metric.value - metric.low if known else 0)  # type: ignore[union-attr, operator]
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below,
        "thickness": 1, "width": 0, "color": theme.FAINT,
    }  # fmt: skip


def _ring(
    figure: go.Figure,
    texts: Mapping[int, str],
    members: Sequence[CandidateView],
    x: Measure,
    y: Measure,
    *,
    bars: bool,
) -> None:
    if not members:
        return
    mark = Mark(CHOSEN, "circle-open", 21, theme.VERMILLION, theme.VERMILLION, bars=True, rank=2)
    trace = _trace(texts, members, x, y, mark, bars=bars)
    trace.marker.line.width = 2.5
    figure.add_trace(trace)


def _staircase(
    figure: go.Figure, study: Study, told: Sequence[CandidateView], x: Measure, y: Measure
) -> None:
    """The front's edge, where the two axes are all the objectives there are."""
    own = objectives(study)
    if {m.key for m in own} != {x.key, y.key} or len(own) != 2:
        return
    directions = {m.key: m.better for m in own}
    points = [p for c in told if c.trial.rank == 1 and (p := _point(c, x, y))]
    rising = directions[x.key] == "maximize"
    points.sort(key=lambda p: (p[0], p[1]), reverse=rising)
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="lines",
            line={"shape": "hv", "color": theme.SKY, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _ranges(
    told: Sequence[CandidateView], x: Measure, y: Measure, *, zoom: bool, chosen: int | None
) -> tuple[Range, Range]:
    points = [p for c in told if (p := _point(c, x, y))]
    if not zoom:
        return _padded(points, 0, MARGIN), _padded(points, 1, MARGIN)
    focus = [p for c in told if in_focus(c, chosen) and (p := _point(c, x, y))] or points
    across, up = _padded(focus, 0, NEARBY), _padded(focus, 1, NEARBY)
    near = [p for p in points if _within(p, across, up)]
    return _padded(near, 0, MARGIN), _padded(near, 1, MARGIN)


def in_focus(candidate: CandidateView, chosen: int | None) -> bool:
    """What a zoomed plot must show; other points are shown when they lie near these."""
    trial = candidate.trial
    named = trial.role in ("reference", "uniform")
    return named or trial.rank == 1 or trial.number == chosen


def _within(point: tuple[float, float], across: Range, up: Range) -> bool:
    return across[0] <= point[0] <= across[1] and up[0] <= point[1] <= up[1]


def _padded(points: Sequence[tuple[float, float]], index: int, share: float) -> Range:
    values = [p[index] for p in points]
    low, high = min(values), max(values)
    free = share * (high - low) if high > low else 0.01 + abs(low) * 0.01
    return low - free, high + free


def outside(figure: go.Figure) -> int:
    """How many points of a figure lie outside of the range that it shows."""
    across, up = figure.layout.xaxis.range, figure.layout.yaxis.range
    return sum(
        not _within(point, across, up)
        for trace in figure.data
        if trace.mode == "markers" and trace.name != CHOSEN
        for point in zip(trace.x, trace.y, strict=True)
    )


def _names(
    figure: go.Figure,
    told: Sequence[CandidateView],
    x: Measure,
    y: Measure,
    across: Range,
    up: Range,
) -> None:
    """Names beside the reference, the checkpoints and the uniform soup that are in range."""
    order = {"reference": 0, "uniform": 1, "single": 2}
    inside = [(p, c) for c in told if (p := _point(c, x, y)) and _within(p, across, up)]
    named = sorted(
        ((p, c) for p, c in inside if c.trial.role in order),
        key=lambda pair: order[pair[1].trial.role],
    )[:MOST_NAMES]
    if not named:
        return
    points, labels = [p for p, _ in named], [c.trial.label for _, c in named]
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="markers+text",
            text=[words.markup(label) for label in labels],
            textposition=place(points, labels, across, up, [p for p, _ in inside]),
            textfont={"size": 11},
            # unseen, but they keep the text away from the point
            marker={"size": 18, "opacity": 0},
            unselected={"marker": {"opacity": 0}},
            selected={"marker": {"opacity": 0}},
            customdata=[[c.trial.number] for _, c in named],
            hoverinfo="skip",
            showlegend=False,
        )
    )


def hover(study: Study, candidate: CandidateView, share: float | None = None) -> str:
    """Number, what it is, weights, every score with its interval, flips, and how sure its place
    on the front is."""
    trial = candidate.trial
    what = {"reference": "reference", "search": ""}.get(trial.role, trial.role)
    title = f"<b>trial {trial.number}</b> {words.markup(trial.label)}"
    lines = [f"{title} ({what})" if what and what != trial.label else title]
    lines.append(words.markup(words.trial_weights(study, trial.weights)))
    for measure in measures(study):
        metric = measure.of(candidate)
        overall = measure.suite == "" or measure.metric == "score"
        if metric is None or not overall or measure.metric in ("inconsistency", *RESTATED):
            continue
        lines.append(
            f"{words.markup(measure.title)}: {words.amount(metric.value, measure.unit)} "
            f"({words.interval(metric, measure.unit)})"
        )
    if not candidate.feasible:
        lines.append("breaks a constraint")
    elif trial.rank == 1:
        lines.append("on the front")
    if share is not None:
        lines.append(f"on the front of {words.percent(share, 0)} of resampled items")
    return "<br>".join(lines)
