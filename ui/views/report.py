"""The report of a study: the page on which somebody decides about a deployment.

Written by `services.report` like `remelt report`. The sealed test split is read on a button that
says that the reading is logged; the report is then kept for this browser session only.
"""

from __future__ import annotations

import streamlit as st

from services import report as reports
from services.report import html, markdown
from services.report.blocks import Report
from ui import badges, guard, reading, sign_in, words
from ui.reading import Snapshot


def main() -> None:
    """Draw the page."""
    number = guard.number_in_url("study")
    if number is None:
        badges.hint("**No study is named.** Open the report from the page of its study.")
        st.page_link(badges.STUDIES, label="Studies")
        return
    with guard.explained():
        shown = reading.snapshot(number)
        trial = guard.number_in_url("trial")
        _crumbs(shown, trial)
        found = opened(shown, trial)
        sealed = found is None
        if found is None:
            found = _report(shown, trial)
        _buttons(shown, trial, found, sealed=sealed)
        st.html(html.body(found, images=True))


def opened(shown: Snapshot, trial: int | None) -> Report | None:
    """The report with test results that this session has opened, None before."""
    return st.session_state.get(_key(shown, trial))


def _key(shown: Snapshot, trial: int | None) -> str:
    return f"report-{shown.study.id}-{trial}"


@st.cache_resource(show_spinner="Writing the report …", max_entries=8)
def _sealed(study: int, trial: int | None, mark: reading.Mark) -> Report:
    return reports.build(reading.database(), study, candidate=trial, test=False)


def _report(shown: Snapshot, trial: int | None) -> Report:
    """From open splits, written again only when the study has changed."""
    return _sealed(shown.study.id, trial, shown.mark)


def _crumbs(shown: Snapshot, trial: int | None) -> None:
    study = shown.study
    links: list[tuple[str, str, dict[str, str | int]]] = [
        (badges.STUDIES, "Studies", {}),
        (badges.STUDY, f"#{study.id} {words.plain(study.name)}", {"study": study.id}),
    ]
    if trial is not None:
        links.append((badges.CANDIDATE, f"trial {trial}", {"study": study.id, "trial": trial}))
    badges.crumbs(*links)


def _buttons(shown: Snapshot, trial: int | None, found: Report, *, sealed: bool) -> None:
    study = shown.study
    name = f"study-{study.id}" + ("" if trial is None else f"-trial-{trial}")
    with st.container(horizontal=True, gap="small"):
        for label, text, end, mime in (
            ("Download HTML", html.page(found), "html", "text/html"),
            ("Download Markdown", markdown.page(found, images=False), "md", "text/markdown"),
        ):
            st.download_button(
                label,
                text,
                file_name=f"{name}.{end}",
                mime=mime,
                icon=":material/download:",
                on_click="ignore",
            )
        may = sign_in.user().may("submitter", owner=study.owner)
        if may and sealed and study.phase in ("publish", "done") and study.state != "cancelled":
            st.button(
                "Judge on the test split (logged)",
                icon=":material/lock:",
                on_click=_open,
                args=(shown, trial),
            )


def _open(shown: Snapshot, trial: int | None) -> None:
    with guard.explained():
        st.session_state[_key(shown, trial)] = reports.build(
            reading.database(),
            shown.study.id,
            candidate=trial,
            purpose="report in the dashboard",
            by=sign_in.user(),
        )


if __name__ == "__main__":
    main()
