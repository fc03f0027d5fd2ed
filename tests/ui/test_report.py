"""The report's page, run by Streamlit's own test driver: what it shows, and what it reads."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from services.studies import read, sealed
from tests.plugins.pages import open_page

OPEN = "Judge on the test split (logged)"


def shown(app: AppTest) -> str:
    """The report's HTML; '' where there is none."""
    bodies = [e.proto.body for e in app.get("html") if 'class="report"' in e.proto.body]
    return "".join(map(str, bodies))


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def test_the_report_of_open_splits_is_there_without_a_click(study_with_results: Any) -> None:
    before = sealed.readings(study_with_results.database, 1)
    app = open_page("report", study=1)
    page = shown(app)
    for heading in ("Verdict", "The question", "The pool", "The front", "How far to trust this",
                    "Cost", "Provenance"):  # fmt: skip
        assert f">{heading}</" in page
    assert "Judged on the validation split" in page
    assert "<script" not in page
    assert "data:image/svg+xml;base64," in page
    assert sealed.readings(study_with_results.database, 1) == before
    assert [b.label for b in app.get("download_button")] == ["Download HTML", "Download Markdown"]


def test_the_test_split_is_opened_once_and_on_purpose(study_with_results: Any) -> None:
    database = study_with_results.database
    before = len(sealed.readings(database, 1))
    app = open_page("report", study=1)
    (button,) = [b for b in app.button if b.label == OPEN]
    app = button.click().run()
    assert "Judged on the test split" in shown(app)
    assert OPEN not in labels(app)
    app = app.run()
    assert "Judged on the test split" in shown(app)
    readings = sealed.readings(database, 1)
    assert len(readings) == before + 1
    assert readings[-1]["purpose"] == "report in the dashboard"


def test_a_candidate_has_a_report_of_its_own(study_with_results: Any) -> None:
    study = read.get_study(study_with_results.database, 1)
    found = read.candidates(study_with_results.database, study, "validation")
    other = next(c.trial.number for c in found if c.trial.role == "search")
    page = shown(open_page("report", study=1, trial=other))
    assert f"trial {other} instead of deployed?" in page
    assert "Answers that break" in page or "no answer breaks" in page


def test_an_unfinished_study_reports_what_it_has_or_says_why_not(
    study_with_results: Any, work_off: Any
) -> None:
    app = open_page("report", study=2)
    assert "Judged on the search split: the study goes on" in shown(app)
    assert OPEN not in labels(app)
    assert sealed.readings(study_with_results.database, 2) == []


@pytest.mark.parametrize(
    ("ids", "said"),
    [({"study": 7}, "no study has the number 7"), ({"study": 1, "trial": 999}, "no trial 999")],
)
def test_errors_are_explained(study_with_results: Any, ids: dict[str, int], said: str) -> None:
    app = open_page("report", **ids)
    assert said in "\n".join(e.value for e in app.error).replace("\\", "")
    assert shown(app) == ""


def test_a_page_without_a_study_points_to_the_list(study_with_results: Any) -> None:
    app = open_page(
        "report",
    )
    assert "No study is named" in "\n".join(m.value for m in app.markdown)
