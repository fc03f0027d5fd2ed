"""Which split a page shows. Search and validation are open; the sealed test split is read through
`services.studies.sealed`, on a button that says that the reading is logged, and is kept for this
browser session only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import streamlit as st

from services.studies import sealed
from services.studies.columns import Columns, columns_of
from services.studies.read import CandidateView, OpenSplit
from ui import guard, reading, sign_in, words
from ui.reading import Snapshot

KEY = "split"
POPOVER = "test-report"


def opened(study: int) -> list[CandidateView] | None:
    """The test report that this session has opened, None before."""
    return st.session_state.get(_key(study))


def _key(study: int) -> str:
    return f"test-report-{study}"


def choose(shown: Snapshot, *, key: str = KEY, first: str = "search") -> str:
    """The control; returns the split, at first `first`. Stands in the page's address as `key`."""
    options = ["search"]
    if _has(shown, "validation"):
        options.append("validation")
    if opened(shown.study.id) is not None:
        options.append("test")
    if st.session_state.get(key, first) not in options:
        del st.session_state[key]
    chosen = st.segmented_control(
        "Split",
        options,
        # a default beside a value that code has set is warned about
        default=None if key in st.session_state else first,
        required=True,
        key=key,
        bind="query-params",
        help="search: what the searcher sees, so its best values are optimistic. validation: "
        "ranks the finalists. test: sealed until the study has made its choice.",
    )
    return chosen or first


def trials(shown: Snapshot, split: str) -> Columns:
    """The candidates on a split that `choose` returned."""
    if split == "test":
        return columns_of(opened(shown.study.id) or [])
    return reading.trials(shown, cast(OpenSplit, split))


def on_the_front(shown: Snapshot, split: str) -> dict[int, float]:
    """How sure each candidate's place on the front of an open split is. Empty for test, and while
    the search goes on: every result would have the items resampled again."""
    if split == "test" or (shown.live and shown.study.phase == "search"):
        return {}
    return reading.on_the_front(shown, cast(OpenSplit, split))


def best_open(shown: Snapshot) -> OpenSplit:
    """Validation once the study has judged on it, search until then."""
    past = shown.study.phase not in ("search", "validation")
    return "validation" if past and _has(shown, "validation") else "search"


def _has(shown: Snapshot, split: str) -> bool:
    return any(c["split"] == split and c["state"] == "complete" for c in shown.summary["counts"])


def test_report(shown: Snapshot) -> None:
    """The button that opens the sealed split, where the study has come that far."""
    study = shown.study
    if study.phase not in ("publish", "done") or not _has(shown, "test"):
        return
    seen = opened(study.id) is not None
    icon = ":material/lock_open:" if seen else ":material/lock:"
    with st.popover("Test report", icon=icon, key=POPOVER, on_change="rerun"):
        st.markdown(
            "The test split is sealed: the search and the choice never saw it. Looking at it to "
            "choose again would spoil it, so **every reading is logged** with time and purpose."
        )
        _readings(sealed.readings(reading.database(), study.id))
        if elsewhere := sealed.opened_elsewhere(reading.database(), study.id):
            numbers = ", ".join(f"#{number}" for number in elsewhere)
            st.caption(f"The test split of these suites was also open to studies {numbers}.")
        if seen:
            return
        if not sign_in.user().may("submitter", owner=study.owner):
            st.caption("Only its owner and admins may open it.")
            return
        st.button(
            "Open test report (logged)",
            type="primary",
            icon=":material/lock_open:",
            on_click=_open,
            args=(study.id,),
        )


def _readings(found: Sequence[dict[str, object]]) -> None:
    lines = [words.plain(f"{r['at']:%Y-%m-%d %H:%M} UTC: {r['purpose']}") for r in found[-5:]]
    if lines:
        st.markdown("Read so far:\n" + "\n".join(f"- {line}" for line in lines))


def _open(study: int) -> None:
    with guard.explained():
        report = sealed.final_report(
            reading.database(), study, purpose="opened in the dashboard", by=sign_in.user()
        )
        st.session_state[_key(study)] = report
        st.session_state[KEY] = "test"
        st.session_state[POPOVER] = False
