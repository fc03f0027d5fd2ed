"""Small pieces that several pages show: the badge of a state, breadcrumbs, an empty page's hint."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from services.findings import Finding
from ui import theme, words

# not a folder called `pages`: Streamlit would serve its files past app.py
STUDIES = "views/studies.py"
NEW_STUDY = "views/new_study.py"
STUDY = "views/study.py"
CANDIDATE = "views/candidate.py"
COMPARE = "views/compare.py"
REPORT = "views/report.py"
POOLS = "views/pools.py"
SUITES = "views/suites.py"
WORKERS = "views/workers.py"


def state(name: str) -> None:
    """A state as a word with an icon and a colour."""
    colour, icon = theme.STATES.get(name, ("gray", ":material/help:"))
    st.badge(name, icon=icon, color=colour)


def crumbs(*links: tuple[str, str, dict[str, str | int]]) -> None:
    """The way back: (page, label, ids in the address) from the outside in."""
    with st.container(key="crumbs", horizontal=True, gap=None, vertical_alignment="center"):
        for index, (page, label, ids) in enumerate(links):
            if index:
                st.markdown(":gray[/]", width="content")
            st.page_link(page, label=label, icon="", query_params=_text(ids), width="content")


def go(page: str, **ids: str | int) -> None:
    """Open another page with these ids in its address."""
    st.switch_page(page, query_params=_text(ids))


def _text(ids: dict[str, str | int]) -> dict[str, str]:
    return {name: str(value) for name, value in ids.items()}


def hint(text: str, commands: str = "", *, page: tuple[str, str] | None = None) -> None:
    """What to do next on a page that has nothing to show: a page (file, label), or commands."""
    with st.container(border=True):
        st.markdown(text)
        if page is not None:
            st.page_link(page[0], label=page[1], icon=":material/open_in_new:", width="content")
        if commands:
            st.code(commands, language="bash")


def findings(found: Sequence[Finding]) -> None:
    """A card for everything that is wrong, with its mend, and a line for what is not."""
    for finding in found:
        if not finding.mend:
            st.caption(f":material/health_and_safety: {words.plain(finding.what)}.")
            continue
        text = f"{words.plain(finding.what)}.  \n**{words.plain(finding.mend)}.**"
        st.warning(text, icon=":material/health_and_safety:")
