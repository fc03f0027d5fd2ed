"""Suites: what candidates are asked, how the items are split, and adding one."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from services import stored_suites
from services import suite_health as items_say
from services.access import User
from services.db import Row
from services.errors import RemeltError
from services.studies import views
from services.suites import SPLITS, Item
from ui import badges, guard, reading, sign_in, suite_health, tables, words

FORMS = {
    "choice": "multiple choice, by log-likelihood",
    "exact": "generated answer, exact match",
    "refusal": "generated answer, refuses or complies as expected",
    "text": "nats per token",
}
COMMAND = "remelt suite add NAME FILE.jsonl"
SAID = "suite-added"
PER_PAGE = 20
STYLE = """
<style>
.items { width: 100%; border-collapse: collapse; font-size: 0.875rem; }
.items td { padding: 8px 10px; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.items pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8125rem;
  background: none; padding: 0; border: 0; }
.items .id { opacity: 0.7; font-size: 0.75rem; overflow-wrap: anywhere; min-width: 3rem;
  max-width: 9rem; }
/* a letter a line would be what is left of short answers on a telephone */
.items td:last-child { min-width: 5rem; }
</style>
"""


def main() -> None:
    """Draw the page."""
    st.title("Suites", anchor=False)
    with guard.explained():
        who = sign_in.user()
        if said := st.session_state.pop(SAID, None):
            st.success(words.plain(said[0]), icon=":material/check:")
            badges.findings(said[1])
        found = views.suites(reading.database())
        if not found:
            badges.hint(
                "**No suites yet.** A suite is a JSON Lines file of one form: "
                '`{"id","context","choices","gold"}`, `{"id","prompt","target"}`, '
                '`{"id","prompt","expect"}` or `{"id","text"}`; or a task of lm-eval '
                "(`remelt suite add NAME --lm-eval TASK`).",
                COMMAND,
            )
        if who.may("submitter"):
            with st.expander("Register a suite", icon=":material/add:", expanded=not found):
                _form(who)
        if found:
            _table(found)
            name = _choose(found)
            suite_health.draw(next(s for s in found if s["name"] == name))
            _items(name)


def _form(who: User) -> None:
    with st.form("suite", border=False):
        name = st.text_input("Name", placeholder="my-suite", key="suite-name")
        file = st.file_uploader("JSON Lines file", type=["jsonl", "json", "txt"], key="suite-file")
        normalise = st.toggle(
            "Divide each choice's log-likelihood by its length in bytes", key="suite-normalise"
        )
        if st.form_submit_button("Check and register", type="primary"):
            if file is None:
                st.error("**suite**: no file. Choose one.", icon=":material/error:")
            else:
                _add(name.strip(), file.getvalue(), normalise, who)
    st.caption("The same on the command line, and tasks of lm-eval:")
    st.code(f"{COMMAND}\nremelt suite add NAME --lm-eval TASK", language="bash")


def _add(name: str, data: bytes, normalise: bool, who: User) -> None:
    try:
        suite, new = stored_suites.add_suite_bytes(
            reading.database(), name, data, normalise=normalise, by=who
        )
    except RemeltError as error:
        guard.explain(error)
        return
    sizes = ", ".join(f"{split} {len(suite.split(split))}" for split in SPLITS)
    state = "is registered" if new else "was registered already"
    message = f"Suite {name} {state}: {len(suite.items)} items, {sizes}."
    st.session_state[SAID] = (message, items_say.of_items(suite).findings)
    st.rerun()


def _table(found: Sequence[Row]) -> None:
    st.dataframe(
        tables.counted(
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
            "items",
            "search",
            "validation",
            "test (sealed)",
        ),
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


def _choose(found: Sequence[Row]) -> str:
    """The suite that the rest of the page is about."""
    names = [s["name"] for s in found]
    name = st.selectbox("Suite", names, key="suite", bind="query-params", width=320)
    return str(name)


def _items(name: str) -> None:
    """Items of one suite on an open split; those of the sealed one are not shown."""
    st.markdown(f"##### Items of {words.plain(name)}")
    split, text = st.columns([3, 7], vertical_alignment="bottom")
    on = split.segmented_control(
        "Split", ["search", "validation"], default="search", required=True, key="items-on"
    )
    wanted = text.text_input("Text", placeholder="in any text or id", key="items-text")
    items = views.items(reading.database(), name, on or "search", wanted)
    if not items:
        st.info("No item matches.")
        return
    pages = -(-len(items) // PER_PAGE)
    page = st.pagination(pages, key="items-page") if pages > 1 else 1
    st.caption(f"{words.count(len(items))} items")
    st.html(items_html(items[(page - 1) * PER_PAGE : page * PER_PAGE]))


def items_html(items: Sequence[Item]) -> str:
    """A table of items; every text is escaped, prompts come from users' files."""
    rows = "".join(
        f'<tr><td class="id">{html.escape(item.id)}</td>'
        f"<td><pre>{words.markup(_question(item))}</pre></td>"
        f"<td><pre>{words.markup(_answer(item))}</pre></td></tr>"
        for item in items
    )
    return f'{STYLE}<table class="items"><tbody>{rows}</tbody></table>'


def _question(item: Item) -> str:
    return (item.context or item.prompt or item.text).strip()


def _answer(item: Item) -> str:
    if not item.choices:
        return item.target.strip()
    marks = ("✓" if index == item.gold else "·" for index in range(len(item.choices)))
    return "\n".join(f"{m} {c.strip()}" for m, c in zip(marks, item.choices, strict=True))


if __name__ == "__main__":
    main()
