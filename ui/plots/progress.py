"""How the search came along: best value so far, hypervolume, what racing saved, and when which
worker did what. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import numpy as np
import plotly.graph_objects as go

from services.studies.columns import Columns
from services.studies.views import Progress, Span
from ui import theme, words
from ui.measures import Measure
from ui.plots import thin

HEIGHT = 270
#: a larger selection is dotted: rings would cover each other
MOST_RINGS = 100


def best_figure(columns: Columns, measure: Measure, selected: Collection[int] = ()) -> go.Figure:
    """One measure of every candidate in the order of the trials, and the best feasible so far."""
    told = columns.take(~np.isnan(measure.values(columns)))
    values, numbers = measure.values(told), told.number
    drawn = _drawn(numbers, values)
    figure = theme.dress(go.Figure(), height=HEIGHT, title=f"Best {measure.title} so far")
    _points(figure, numbers[drawn], values[drawn], "candidate", theme.FAINT)
    best = _best(told, measure)
    steps = np.ones(len(best), bool)
    # compared, not subtracted: before a feasible one there is none
    known = np.nan_to_num(best, nan=np.inf)
    steps[1:-1] = known[1:-1] != known[:-2]
    figure.add_trace(
        go.Scatter(
            x=numbers[steps],
            y=best[steps],
            mode="lines",
            name="best feasible so far",
            line={"shape": "hv", "color": theme.BLUE, "width": 2},
            hoverinfo="skip",
        )
    )
    ringed = np.isin(numbers, list(selected))
    if ringed.any():
        few = ringed.sum() <= MOST_RINGS
        ringed &= drawn | few
        symbol = "circle-open" if few else "circle"
        _points(figure, numbers[ringed], values[ringed], "selected", theme.ORANGE, symbol)
    lines = {"reference": theme.VERMILLION, "uniform": theme.GREEN}
    places = np.flatnonzero(np.isin(told.role, list(lines)))
    for place in places:
        colour, highest = lines[told.role[place]], values[place] == values[places].max()
        figure.add_hline(
            y=float(values[place]),
            line={"color": colour, "width": 1, "dash": "dot"},
            annotation_text=words.markup(told.label[place]),
            # above the upper line and below the lower: they may lie close together
            annotation_position="top right" if highest and len(places) > 1 else "bottom right",
            annotation_font={"size": 11, "color": colour},
        )
    figure.update_xaxes(title="trial")
    form = ".1%" if measure.unit == "%" else None
    figure.update_yaxes(title=f"{measure.title} ({measure.what})", tickformat=form)
    figure.update_layout(showlegend=False)
    return figure


def _points(
    figure: go.Figure, x: np.ndarray, y: np.ndarray, name: str, colour: str, symbol: str = "circle"
) -> None:
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 5 if symbol == "circle" else 9, "symbol": symbol},
            hovertemplate="trial %{x}: %{y}<extra></extra>",
        )
    )


def _drawn(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.ones(0, bool)
    across = float(numbers[0]), float(numbers[-1])
    return thin.drawn(numbers, values, across, (values.min(), values.max()), -numbers)


def _best(told: Columns, measure: Measure) -> np.ndarray:
    """float64 [T]: the best feasible value up to each trial, NaN before there is one."""
    sign = 1 if measure.better == "maximize" else -1
    merits = np.where(told.feasible, sign * measure.values(told), -np.inf)
    best = np.maximum.accumulate(merits)
    return np.where(np.isfinite(best), sign * best, np.nan)


def volume_figure(curve: Sequence[Progress]) -> go.Figure:
    """Hypervolume of the feasible candidates against evaluations."""
    known = [p for p in curve if p.hypervolume is not None]
    figure = go.Figure(
        go.Scatter(
            x=[p.evaluations for p in known],
            y=[p.hypervolume for p in known],
            mode="lines",
            line={"shape": "hv", "color": theme.BLUE, "width": 2},
            hovertemplate="%{x} evaluations: %{y:.4g}<extra></extra>",
        )
    )
    theme.dress(
        figure,
        height=HEIGHT,
        title="Hypervolume of the front<br><sup>grows as the front gets better</sup>",
    )
    figure.update_xaxes(title="evaluations on the search split")
    figure.update_yaxes(title="product of the objectives", rangemode="tozero")
    return figure


def racing_figure(columns: Columns, whole: int) -> go.Figure | None:
    """Items scored for the searcher's candidates, in the order of the trials, against those that
    scoring every one of them whole (`whole` items) would have taken. None before one has ended."""
    ended = np.isin(columns.state, ("complete", "stopped")) & (columns.role == "search")
    some = columns.take(ended & ~np.isnan(columns.items))
    if not len(some):
        return None
    count = np.arange(1, len(some) + 1)
    used, stopped = np.cumsum(some.items), np.cumsum(some.state == "stopped")
    places = np.unique(np.linspace(0, len(some) - 1, min(len(some), 300)).astype(np.int64))
    share = 100 * stopped[-1] / len(some)
    figure = go.Figure()
    for name, y, colour, dash in (
        ("every candidate whole", count * whole, theme.GREY, "dot"),
        ("with racing", used, theme.BLUE, "solid"),
    ):
        figure.add_trace(
            go.Scatter(
                x=count[places],
                y=y[places],
                mode="lines",
                name=name,
                line={"color": colour, "width": 2, "dash": dash},
                customdata=stopped[places],
                text=[words.count(items) for items in y[places]],
                hovertemplate="%{x} ended, %{customdata} of them stopped early: %{text} items",
            )
        )
    title = f"Items scored: {share:.0f} % of the candidates stopped early"
    theme.dress(figure, height=HEIGHT + 30, title=title, revision="racing")
    figure.update_xaxes(title="candidates of the searcher that have ended")
    figure.update_yaxes(title="items scored, in all", rangemode="tozero")
    return figure


#: state -> colour, width of its bars in pixels: told apart without colour too
SPANS = {
    "complete": (theme.BLUE, 10), "running": (theme.SKY, 14), "stopped": (theme.ORANGE, 6),
    "failed": (theme.VERMILLION, 14), "abandoned": (theme.VERMILLION, 14),
    "cancelled": (theme.GREY, 6), "queued": (theme.PURPLE, 4),
}  # fmt: skip
#: workers of a timeline at most, those that did most
MOST_WORKERS = 24


def timeline_figure(spans: Sequence[Span]) -> go.Figure | None:
    """Evaluations as bars by worker over time (UTC), one colour a state; None without any."""
    if not spans:
        return None
    totals: dict[str, int] = {}
    for span in spans:
        totals[span.worker] = totals.get(span.worker, 0) + 1
    most = sorted(totals, key=lambda name: -totals[name])[:MOST_WORKERS]
    names = sorted(most, key=lambda name: [int(p) if p.isdigit() else p for p in
                                           re.split(r"(\d+)", name)])  # fmt: skip
    figure = go.Figure()
    for state, (colour, width) in SPANS.items():
        some = [s for s in spans if s.state == state and s.worker in names]
        if not some:
            continue
        # one line with gaps: a bar each would be slow to draw
        x = [t for s in some for t in (_moment(s.started), _moment(s.finished), None)]
        y = [n for s in some for n in (words.markup(s.worker), words.markup(s.worker), None)]
        texts = [text for s in some for text in (_told(s), _told(s), "")]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name=state if state != "queued" else "given back, queued again",
                line={"color": colour, "width": width},
                connectgaps=False,
                hovertext=texts,
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    title = f"Workers: the newest {len(spans)} evaluations" if len(spans) > 1 else "Workers"
    theme.dress(figure, height=150 + 22 * len(names), title=title, revision="workers")
    figure.update_xaxes(title="time (UTC)", type="date")
    # below, its legend would take half of so low a plot
    figure.update_layout(
        legend={"xref": "paper", "yref": "paper", "y": 1.02, "x": 1, "xanchor": "right"}
    )
    figure.update_yaxes(
        title="worker", type="category", categoryorder="array",
        categoryarray=[words.markup(name) for name in reversed(names)],
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip
    return figure


def _told(span: Span) -> str:
    took = words.duration(span.finished - span.started)
    again = f", attempt {span.attempt}" if span.attempt > 1 else ""
    return f"trial {span.trial} on {span.split}: {span.state} after {took}{again}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
