"""Pages of the dashboard, run by Streamlit's own test driver."""

from __future__ import annotations

from pathlib import Path

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
