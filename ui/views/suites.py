"""Suites: what candidates are asked, and how the items are split."""

from __future__ import annotations

import streamlit as st

from services.studies import views
from ui import badges, guard, reading

FORMS = {
    "choice": "multiple choice, by log-likelihood",
    "exact": "generated answer, exact match",
    "refusal": "generated answer, refuses or complies as expected",
    "text": "nats per token",
}


def main() -> None:
    """Draw the page."""
    st.title("Suites", anchor=False)
    with guard.explained():
        found = views.suites(reading.database())
        command = "remelt suite add NAME FILE.jsonl"
        if not found:
            badges.hint(
                "**No suites yet.** A suite is a JSON Lines file of one form: "
                '`{"id","context","choices","gold"}`, `{"id","prompt","target"}`, '
                '`{"id","prompt","expect"}` or `{"id","text"}`; or a task of lm-eval '
                "(`remelt suite add NAME --lm-eval TASK`).",
                command,
            )
            return
        st.dataframe(
            [
                {
                    "suite": s["name"],
                    "scored by": FORMS[s["form"]]
                    + (", length-normalised" if s["settings"].get("normalise") else "")
                    + (", judged by lm-eval" if s["settings"].get("task") else ""),
                    "items": s["items"],
                    "search": s["search_items"],
                    "validation": s["validation_items"],
                    "test (sealed)": s["test_items"],
                    "registered": s["created_at"],
                    "digest": s["digest"],
                }
                for s in found
            ],
            hide_index=True,
            width="stretch",
            height="content",
            column_config={
                "registered": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
                "digest": st.column_config.TextColumn(width="medium"),
            },
            alt="Registered suites",
        )
        st.caption(
            "Every item belongs for ever to one split, by a hash of its id: the searcher sees "
            "search, finalists are ranked on validation, test is opened once. Studies keep the "
            "content that a suite had when they were submitted."
        )
        st.code(command, language="bash")


if __name__ == "__main__":
    main()
