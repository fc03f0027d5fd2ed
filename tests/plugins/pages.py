"""Pages of the dashboard, run by Streamlit's own test driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "ui" / "app.py"
SECONDS = 60


def open_page(page: str, **ids: int | str) -> AppTest:
    """A page of the dashboard, run once; '' is the list of studies."""
    return shown(AppTest.from_file(str(APP), default_timeout=SECONDS), page, **ids)


def shown(app: AppTest, page: str, **ids: int | str) -> AppTest:
    """The same with an app that was set up already."""
    app.run()
    if page:
        app.switch_page(f"views/{page}.py")
    for name, value in ids.items():
        app.query_params[name] = str(value)
    app.run()
    assert not app.exception
    return app


def figures(app: AppTest) -> list[dict[str, Any]]:
    """The plots of a page, as they are sent to the browser."""
    return [json.loads(chart.proto.bytes)["figure"] for chart in app.get("bidi_component")]
