"""Charts as they are sent to the browser; what it makes of them: test_browser.py."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from ui import chart


def page() -> None:
    import plotly.graph_objects as go

    from ui import chart, theme

    looks = theme.dress(go.Figure(go.Scatter(y=[1, 2])), height=300, title="One")
    assert chart.draw(looks, key="looks", alt="one line") is None
    points = theme.dress(go.Figure(go.Scatter(y=[3])), height=300, title="Two")
    chart.draw(points, key="points__of_somebody", alt="a point", selects=True)


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    app = AppTest.from_function(page).run()
    assert not app.exception
    return [json.loads(found.proto.bytes) for found in app.get("bidi_component")]


def test_a_chart_says_what_it_shows_and_has_its_figure(sent: list[dict[str, Any]]) -> None:
    assert [one["about"]["alt"] for one in sent] == ["one line", "a point"]
    first = sent[0]["figure"]
    assert (first["layout"]["title"]["text"], first["data"][0]["y"]) == ("One", [1, 2])
    assert "template" not in first["layout"]  # that of the page, made where its colours are known


def test_only_a_chart_that_listens_has_tools_to_select(sent: list[dict[str, Any]]) -> None:
    looks, points = (set(one["config"]["modeBarButtonsToRemove"]) for one in sent)
    assert looks - points == {"select2d", "lasso2d"}
    assert "sendChartToCloud" in looks & points
    assert [one["about"]["selects"] for one in sent] == [False, True]


@pytest.mark.parametrize(
    ("base", "start"), [("", "/component/"), ("/remelt/", "/remelt/component/")]
)
def test_the_library_is_one_of_the_installed_package(
    base: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "get_option", lambda name: base)
    path = urllib.parse.urlsplit(chart._url()).path
    assert path.startswith(start)
    assert (Path(chart._served.path) / path.rsplit("/", 1)[1]).stat().st_size > 1e6


def test_a_selection_counts_for_the_axes_it_was_made_on(monkeypatch: pytest.MonkeyPatch) -> None:
    box = {"box": [{"x": [0, 1], "y": [0, 1]}], "lasso": [], "revision": "a|b"}
    monkeypatch.setattr(st, "session_state", {"points": {"selection": box}, "none": {}})
    assert chart.selection("points", "a|b") == box
    assert chart.selection("points", "a|c") == {}
    assert chart.selection("none", "a|b") == chart.selection("unknown", "a|b") == {}
