"""Who may what on the pages: what is offered, and what is refused all the same."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from services.settings import settings
from services.studies import read
from tests.plugins.pages import APP, SECONDS, shown

UI = APP.parent
SECRETS = {"auth": {"client_id": "x", "server_metadata_url": "https://id.example"}}
#: functions of services that take who acts
GUARDED = {
    "submit", "pause", "resume", "cancel", "archive", "unarchive", "edit", "request", "add_pool",
    "add_suite", "add_suite_bytes", "store_suite", "final_report", "sealed_predictions",
    "final_answers", "of_pool",
}  # fmt: skip


@pytest.fixture
def roles(study_with_results: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Studies of ada's, who submits, with bob, another submitter, and a root."""
    monkeypatch.setenv("REMELT_SUBMITTERS", "ada@lab.example, bob@lab.example")
    monkeypatch.setenv("REMELT_ADMINS", "root@lab.example")
    settings.cache_clear()
    with study_with_results.database.transaction() as connection:
        connection.execute("UPDATE study SET owner = 'ada@lab.example'")
    return study_with_results


def open_as(user: dict[str, Any], page: str = "", **ids: int) -> AppTest:
    """A page as somebody sees it who has signed in with these claims."""
    app = AppTest.from_file(str(APP), default_timeout=SECONDS)
    app.secrets = SECRETS
    app.user = {"is_logged_in": True, **user}
    return shown(app, page, **ids)


def labels(app: AppTest) -> set[str]:
    """What the buttons say."""
    return {b.label for b in app.button}


def said(app: AppTest) -> str:
    """What the page says."""
    return "\n".join(str(e.value) for k in ("caption", "error", "title") for e in app.get(k))


STEER = {"Pause", "Cancel the study", "Save"}


@pytest.mark.parametrize(
    ("email", "offered", "why"),
    [
        ("eve@lab.example", set(), "You are a viewer"),
        ("bob@lab.example", {"Clone"}, "belongs to ada"),
        ("ada@lab.example", STEER | {"Clone"}, ""),
        ("root@lab.example", STEER | {"Clone"}, ""),
    ],
)
def test_a_study_offers_what_the_role_may(
    roles: Any, email: str, offered: set[str], why: str
) -> None:
    app = open_as({"email": email}, "study", study=2)
    assert labels(app) & (STEER | {"Clone"}) == offered
    assert why in said(app)
    assert email in said(app).replace("\\", "")


def test_a_viewer_is_told_instead_of_asked(roles: Any) -> None:
    eve = {"email": "eve@lab.example"}
    assert "Submit study" not in labels(open_as(eve, "new_study"))
    assert "viewer" in said(open_as(eve, "new_study"))
    assert "Publish" not in labels(open_as(eve, "candidate", study=1, trial=6))
    assert "Open test report (logged)" not in labels(open_as(eve, "study", study=1))
    assert "New study" not in labels(open_as(eve))


def test_a_role_that_is_lost_in_between_is_refused_by_the_service(
    roles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_as({"email": "ada@lab.example"}, "study", study=2)
    pause = next(b for b in app.button if b.label == "Pause")
    # the button is still on her screen
    monkeypatch.setenv("REMELT_SUBMITTERS", "")
    settings.cache_clear()
    pause.click().run()
    assert read.study_summary(roles.database, 2)["state"] == "running"


def test_who_acted_stands_in_the_events(roles: Any) -> None:
    app = open_as({"email": "ada@lab.example"}, "study", study=2)
    next(b for b in app.button if b.label == "Pause").click().run()
    assert not app.exception
    assert read.study_summary(roles.database, 2)["state"] == "paused"
    assert read.events(roles.database, 2)[-1]["text"] == "paused by ada@lab.example"


def test_nobody_sees_anything_without_signing_in(study_with_results: Any) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.secrets, app.user = SECRETS, {"is_logged_in": False}
    app.run()
    assert labels(app) == {"Sign in"}
    assert not app.get("page_link")
    app.switch_page("views/study.py").run()
    app.query_params["study"] = "1"
    app.run()
    assert labels(app) == {"Sign in"}


def test_every_provider_has_a_button(study_with_results: Any) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.secrets = {"auth": {"cookie_secret": "x", "google": {"client_id": "y"}}}
    app.user = {"is_logged_in": False}
    assert labels(app.run()) == {"Sign in with google"}


@pytest.mark.parametrize(
    ("environment", "user", "why"),
    [
        ({"REMELT_DEFAULT_ROLE": "none"}, {"is_logged_in": True, "email": "x@y.z"}, "has no role"),
        ({"REMELT_SIGN_IN_FILE": "/none.toml"}, {}, "found no provider"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    study_with_results: Any,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    user: dict[str, Any],
    why: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.user = user
    app.run()
    assert why in said(app).replace("\\", "")
    assert not app.get("page_link")


def test_without_sign_in_it_is_the_user_of_this_machine(study_with_results: Any) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    assert "admin" in said(app)


def test_every_page_says_who_acts() -> None:
    """Without `by`, a call would act for the user that runs the dashboard."""
    for file in sorted(UI.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            handed_on = name == "_act"
            if name in GUARDED or handed_on:
                given = {keyword.arg for keyword in node.keywords}
                assert "by" in given, f"{file.relative_to(UI)}:{node.lineno} {name}"
