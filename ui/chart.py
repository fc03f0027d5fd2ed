"""Plotly charts that are changed in place.

Streamlit's own chart is a new one whenever its figure differs: a study that goes on would throw its
reader's zoom and selection away every two seconds, and the browser would build every point anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from plotly.offline import get_plotlyjs_version
from streamlit.components.v1 import declare_component

LIBRARY = "plotly.min.js"
#: tools that a reader of these plots has no use for, one in whose place stands our own, and one
#: that would send the data to somebody else's servers
REMOVED = ("autoScale2d", "resetScale2d", "toImage", "sendChartToCloud")
SELECTING = ("select2d", "lasso2d")

# only so that Streamlit serves the folder: it is never mounted
_served = declare_component("plotly", path=str(files("plotly") / "package_data"))
_chart = st.components.v2.component(
    "remelt_chart",
    js=Path(__file__).with_suffix(".js").read_text(),
    css=".remelt-chart:fullscreen { background: var(--st-background-color); }",
    isolate_styles=False,
)


def draw(figure: go.Figure, *, key: str, alt: str, selects: bool = False) -> int | None:
    """Show the figure under a `key` of its own; `alt` says what is shown, for those who cannot see.

    Zoom and selection stay for as long as the figure's `uirevision` is the same. `selects`: points
    can be clicked, and boxes and lassos drawn. Returns the first `customdata` of the point that was
    clicked just now."""
    removed = [*REMOVED, *(() if selects else SELECTING)]
    held = selection(key, figure.layout.uirevision) if selects else {}
    about = {"url": _url(), "alt": alt, "selects": selects, "selection": held or None}
    config = {
        "displaylogo": False, "doubleClick": False, "modeBarButtonsToRemove": removed,
        "showSendToCloud": False,
    }  # fmt: skip
    payload = (
        f'{{"about":{json.dumps(about)},"config":{json.dumps(config)},"figure":{figure.to_json()}}}'
    )
    heard = _heard if selects else None
    found = _chart(
        key=_safe(key), data=payload.encode(), on_clicked_change=heard, on_selection_change=heard
    )
    clicked = found.get("clicked")
    return None if clicked is None else int(clicked)


def selection(key: str, revision: str) -> Mapping[str, Any]:
    """The boxes and lassos in the chart of that `uirevision`, in the units of its axes; to be asked
    for before it is drawn again."""
    held: Any = st.session_state.get(_safe(key)) or {}
    found = held.get("selection") or {}
    return found if found.get("revision") == revision else {}


def _safe(key: str) -> str:
    """Streamlit refuses two underscores in a row, which a name may have; a tilde is in no name."""
    return key.replace("__", "~~")


def _heard() -> None:
    """Streamlit keeps what a component says only where something listens."""


def _url() -> str:
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    version = get_plotlyjs_version()
    return f"{'/' + base if base else ''}/component/{_served.name}/{LIBRARY}?v={version}"
