"""How alike the checkpoints of a pool are, as a heat map. Pure."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from services.kinship import PoolKinship
from ui import theme, words

#: cells show their number up to this many checkpoints
NUMBERED = 16


def kinship_figure(found: PoolKinship) -> go.Figure:
    """Cosines of the task vectors, with correlation and distance in the tip; what is undefined
    stays blank."""
    names = [words.markup(name) for name in found.names]
    kinship = found.kinship
    cosine, pearson, distance = kinship.cosine, kinship.pearson, kinship.distance
    shown = [[None if np.isnan(v) else float(v) for v in row] for row in cosine]
    tips = [
        [
            f"{a} and {b}<br>cosine {_number(cosine[i, j])}<br>correlation "
            f"{_number(pearson[i, j])}<br>distance {distance[i, j]:.4g}"
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    numbered = len(names) <= NUMBERED
    figure = go.Figure(
        go.Heatmap(
            z=shown, x=names, y=names, zmin=-1, zmax=1, colorscale=theme.DIVERGING,
            xgap=1, ygap=1,
            text=[[_number(v) for v in row] for row in cosine] if numbered else None,
            texttemplate="%{text}" if numbered else None, textfont={"size": 11},
            colorbar={"title": "cosine", "thickness": 12},
            customdata=tips, hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    title = f"Kinship: task vectors from {words.markup(found.base)}"
    theme.dress(figure, height=180 + 30 * len(names), title=title)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    return figure


def _number(value: float) -> str:
    return words.DASH if np.isnan(value) else f"{value:.2f}"
