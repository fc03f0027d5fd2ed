"""Colours and marks. Okabe and Ito's palette: told apart by readers with any colour vision, and
every kind of point also has a shape of its own.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#8A8F98"
FAINT = "rgba(138, 143, 152, 0.35)"
#: blue for negative, white for none, vermillion for positive: not red against green
DIVERGING = [[0.0, BLUE], [0.5, "#F7F7F7"], [1.0, VERMILLION]]
#: state of a study or evaluation -> (colour of its badge, icon); the word always stands beside
STATES: dict[str, tuple[Any, str]] = {
    "running": ("blue", ":material/play_arrow:"),
    "paused": ("orange", ":material/pause:"),
    "finished": ("green", ":material/check:"),
    "complete": ("green", ":material/check:"),
    "published": ("green", ":material/check:"),
    "stopped": ("gray", ":material/front_hand:"),
    "failed": ("red", ":material/error:"),
    "abandoned": ("red", ":material/error:"),
    "cancelled": ("gray", ":material/block:"),
    "queued": ("gray", ":material/schedule:"),
    "publishing": ("blue", ":material/upload:"),
}


#: less empty space than Streamlit leaves around a page, and specs in a fixed-width font
STYLE = """
<style>
@media (min-width: 700px) {
  .stMainBlockContainer { padding: 2.75rem 2.5rem 4rem 2.5rem; }
}
@media (max-width: 699px) {
  .stMainBlockContainer { padding-top: 3.75rem; }
  .st-key-wide-only { display: none; }
  /* rows without columns need a line between them */
  [class*="st-key-study-row-"] { border-top: 1px solid rgba(128, 128, 128, 0.3); padding-top: 8px; }
  /* a dozen axes side by side: to be moved across rather than pressed together */
  .st-key-parallel { overflow-x: auto; }
  .st-key-parallel > div { min-width: 1100px; }
  /* no room for numbers: a tap shows them */
  .st-key-heat .heatmap-label { display: none; }
}
/* links have a margin inside, for when they are pointed at */
.st-key-crumbs { margin-left: -8px; }
.st-key-spec textarea { font-family: monospace; font-size: 0.875rem; }
</style>
"""


def dress(figure: go.Figure, *, height: int, title: str, revision: str | None = None) -> go.Figure:
    """Give a figure the layout that every plot shares, in place of any. A reader's zoom stays as
    long as the `revision` is the same; the title is one where it holds no numbers."""
    # at once: property by property it takes Plotly ten times as long
    figure.layout = {
        "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 48, "b": 10},
        "uirevision": revision or title,
        "hoverlabel": {"align": "left"},
        # below the axis, however many lines it takes on a narrow screen
        "legend": {
            "orientation": "h",
            "title": None,
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
        },
        "dragmode": "zoom",
    }
    # in its place stand the page's own font and colours, light or dark, and axes: ui/chart.js
    figure.layout.template = None
    return figure
