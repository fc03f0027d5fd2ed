"""How errors are shown: what, where and the mend, as text; never a traceback, never a secret."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import streamlit as st

from services.errors import NotFound, RemeltError
from ui import badges, words

log = logging.getLogger(__name__)


@contextmanager
def explained() -> Iterator[None]:
    """Show what goes wrong in the block where it stands; what nobody foresaw goes to the log."""
    try:
        yield
    except RemeltError as error:
        explain(error)
        if isinstance(error, NotFound):
            st.page_link(badges.STUDIES, label="Studies")
    except psycopg.OperationalError:
        log.exception("the database did not answer")
        st.error(
            "The database does not answer. Check that it runs (`remelt doctor`); this page shows "
            "up again once it does.",
            icon=":material/database_off:",
        )
    except Exception:
        # the last door before a reader: what it says must not depend on what went wrong
        log.exception("a page could not be drawn")
        st.error(
            "This part of the page could not be drawn; the dashboard's log says why.",
            icon=":material/bug_report:",
        )


def explain(error: RemeltError) -> None:
    """One error box: where and what in the first line, the mend below."""
    where = f"**{words.plain(error.where)}**: " if error.where else ""
    mend = f"  \n{words.plain(error.mend)}" if error.mend else ""
    st.error(f"{where}{words.plain(error.what)}{mend}", icon=":material/error:")


def number_in_url(name: str) -> int | None:
    """A number of the page's address (`?study=1`), None when it is missing or no number."""
    text = st.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
