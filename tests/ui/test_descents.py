"""Descents on the study page: how far each is, and nothing where there are none."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def _page() -> None:
    from types import SimpleNamespace
    from typing import Any

    from ui.study import table

    begun: dict[str, Any] = {
        "number": 0, "preference": [0.5, 0.5], "state": "running", "step": 3,
        "cost": {"loss": 0.25, "passes": 12}, "error": None,
    }  # fmt: skip
    waiting = {**begun, "number": 1, "state": "queued", "step": 0, "cost": {}, "error": "killed"}
    for descents in ([], [begun, waiting]):
        table.descents(SimpleNamespace(summary={"descents": descents}))  # type: ignore[arg-type]


def test_descents_are_a_table_of_their_own() -> None:
    page = AppTest.from_function(_page).run(timeout=60)
    assert not page.exception
    (shown,) = page.dataframe
    assert shown.value["state"].tolist() == ["running", "queued"]
    assert shown.value["preference"].tolist() == ["0.50 0.50"] * 2
    assert shown.value["item evaluations"][0] == 12
    assert shown.value["error"].tolist() == ["", "killed"]
