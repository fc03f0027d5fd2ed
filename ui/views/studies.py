"""The list of studies: state, progress, best values, and the way to each."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from services.db import Row
from ui import badges, guard, live, reading, sign_in, words
from ui.measures import TITLES

PER_PAGE = 20
STATES = ("running", "paused", "finished", "failed", "cancelled")
WIDTHS = (2.4, 1.1, 2.1, 2.6, 1.7, 1.4, 1.6)
ARCHIVED = "archived"


def main() -> None:
    """Draw the page."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.title("Studies", anchor=False)
        if sign_in.user().may("submitter") and st.button(
            "New study", icon=":material/add:", type="primary"
        ):
            badges.go(badges.NEW_STUDY)
    with guard.explained():
        mark = reading.list_mark()
        live.follow(mark, reading.list_mark)
        archived = bool(st.session_state.get(ARCHIVED))
        found = reading.overview(mark, archived)
        if not found and not archived and not mark[0]:
            _nothing_yet()
            return
        _rows(_filtered(found))


def _nothing_yet() -> None:
    badges.hint(
        "**No studies yet.** A study searches a pool of checkpoints for merges that are better on "
        "your suites and break few of today's answers. Register a pool and suites, on the pages "
        "*Pools* and *Suites* or with commands, then press *New study*.",
        "remelt pool add NAME --reference DEPLOYED DIR DIR …\nremelt suite add NAME FILE.jsonl",
    )
    badges.hint("Or let the demo make a pool, suites and a study:", "make demo")


def _filtered(found: Sequence[Row]) -> list[Row]:
    left, right, last = st.columns([4, 7, 2], vertical_alignment="bottom")
    text = left.text_input("Find", placeholder="name, pool, owner or number").strip().lower()
    states = right.pills("State", STATES, selection_mode="multi")
    last.toggle("Archived", key=ARCHIVED, help="show archived studies too")
    return [
        s
        for s in found
        if (not states or s["state"] in states)
        and (not text or text in f"{s['id']} {s['name']} {s['pool']} {s['owner']}".lower())
    ]


def _rows(found: Sequence[Row]) -> None:
    if not found:
        st.info("No study matches.")
        return
    pages = -(-len(found) // PER_PAGE)
    page = st.number_input("Page", 1, pages, 1, width=120) if pages > 1 else 1
    titles = (
        "Study", "State", "Progress", "Best of each (feasible, search split)", "Front", "Cost",
        "Pool, owner, created",
    )  # fmt: skip
    with st.container(key="wide-only"):
        for column, title in zip(st.columns(WIDTHS), titles, strict=True):
            column.caption(title)
    for study in found[(page - 1) * PER_PAGE : page * PER_PAGE]:
        with st.container(key=f"study-row-{study['id']}"):
            _row(study)


def _row(study: Row) -> None:
    columns = st.columns(WIDTHS, vertical_alignment="center")
    with columns[0]:
        label = f"**#{study['id']}** {words.plain(study['name'])}"
        ids = {"study": str(study["id"])}
        st.page_link(badges.STUDY, label=label, icon="", query_params=ids)
    with columns[1]:
        badges.state(study["state"])
        if study["archived_at"]:
            st.caption("archived")
    with columns[2]:
        share = min(1.0, study["asked"] / max(study["budget"], 1))
        if study["state"] in ("finished", "cancelled", "failed"):
            share = 1.0
        text = f"{words.count(study['asked'])} of {words.count(study['budget'])} candidates"
        failed = f", {study['failed']} failed" if study["failed"] else ""
        left = study["left_seconds"]
        eta = f", about {words.duration(left)} left" if left is not None else ""
        st.progress(share, text=text + failed + eta)
    best = " · ".join(f"{_name(n)}\u00a0**{_value(v, nats)}**" for n, v, nats in study["best"])
    columns[3].markdown(f":small[{best or 'nothing feasible yet'}]")
    volume = study["hypervolume"]
    # the heads of columns are not shown on a narrow screen: each cell says what it is
    front = [f"{words.count(study['front'])} on the front"] if study["front"] else []
    front += [f"hypervolume {volume:.3g}"] if volume else []
    columns[4].markdown(f":small[{', '.join(front) or words.DASH}]")
    columns[5].markdown(f":small[{study['hours']:.2g} worker\u2011hours]")
    about = (study["pool"], study["owner"], words.when(study["created_at"]))
    columns[6].markdown(f":small[{words.plain(' · '.join(part for part in about if part))}]")


def _name(label: str) -> str:
    """An objective's label in words: `negative flips, trec`."""
    metric, _, suite = label.partition(":")
    title = TITLES.get(metric, metric)
    return words.plain(f"{title}, {suite}" if suite else title).replace(" ", "\u00a0")


def _value(value: float, nats: bool) -> str:
    return f"{value:.3f} nats" if nats else words.percent(value)


if __name__ == "__main__":
    main()
