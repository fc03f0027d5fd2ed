"""Live pages: a fragment asks one cheap question every two seconds, and only when the answer
differs from what the page was drawn with is the page drawn again. Refreshes never pile up: a
fragment runs once at a time, and a redraw starts a new one.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import streamlit as st

from services.errors import RemeltError
from ui.reading import Mark

SECONDS = 2.0


def follow(
    drawn: Mark,
    look: Callable[[], Mark],
    *,
    active: bool = True,
    pulse: Callable[[], None] | None = None,
) -> None:
    """Redraw the page when `look()` differs from `drawn`; `pulse` draws what moves in between."""

    inline = True

    @st.fragment(run_every=SECONDS if active else None)
    def watch() -> None:
        try:
            # a page that is being drawn is drawn to its end: what was clicked is read further down
            changed = not inline and look() != drawn
            if pulse is not None and not changed:
                pulse()
        except (RemeltError, psycopg.OperationalError):
            st.caption("no connection to the database; trying again …")
            return
        if changed:
            st.rerun()

    watch()
    inline = False
