"""How the search came along: best value so far and hypervolume against evaluations. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from services.studies.read import CandidateView
from services.studies.views import Progress
from ui import theme, words
from ui.measures import Measure


def best_figure(found: Sequence[CandidateView], measure: Measure) -> go.Figure:
    """One measure of every candidate in the order of the trials, and the best feasible so far."""
    told = [c for c in found if measure.value(c) is not None]
    numbers = [c.trial.number for c in told]
    figure = go.Figure(
        go.Scatter(
            x=numbers,
            y=[measure.value(c) for c in told],
            mode="markers",
            name="candidate",
            marker={"color": theme.FAINT, "size": 6},
            customdata=[[n] for n in numbers],
            hovertemplate="trial %{x}: %{y}<extra></extra>",
        )
    )
    best = _best(told, measure)
    figure.add_trace(
        go.Scatter(
            x=numbers,
            y=best,
            mode="lines",
            name="best feasible so far",
            line={"shape": "hv", "color": theme.BLUE, "width": 2},
            hoverinfo="skip",
        )
    )
    for role, colour in (("reference", theme.VERMILLION), ("uniform", theme.GREEN)):
        for candidate in [c for c in told if c.trial.role == role]:
            figure.add_hline(
                y=measure.value(candidate),
                line={"color": colour, "width": 1, "dash": "dot"},
                annotation_text=words.markup(candidate.trial.label),
                annotation_position="bottom right",
                annotation_font={"size": 11, "color": colour},
            )
    theme.dress(figure, height=270, title=f"Best {measure.title} so far")
    figure.update_xaxes(title="trial")
    figure.update_yaxes(
        title="% right" if measure.unit == "%" else measure.unit,
        tickformat=".0%" if measure.unit == "%" else None,
    )
    figure.update_layout(showlegend=False)
    return figure


def _best(told: Sequence[CandidateView], measure: Measure) -> list[float | None]:
    better = max if measure.better == "maximize" else min
    best: float | None = None
    found: list[float | None] = []
    for candidate in told:
        value = measure.value(candidate)
        if candidate.feasible and value is not None:
            best = value if best is None else better(best, value)
        found.append(best)
    return found


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
    theme.dress(figure, height=270, title="Hypervolume of the front")
    figure.update_xaxes(title="evaluations on the search split")
    figure.update_yaxes(title="product of the objectives", rangemode="tozero")
    return figure
