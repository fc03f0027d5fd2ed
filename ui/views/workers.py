"""Workers: who is alive, what runs, what waits."""

from __future__ import annotations

import streamlit as st

from services.db import Row
from services.studies import views
from ui import badges, guard, live, reading, tables, words

#: workers write their row every 10 s
SILENT_SECONDS = 45


def main() -> None:
    """Draw the page."""
    st.title("Workers", anchor=False)
    _live()


@st.fragment(run_every=live.SECONDS)
def _live() -> None:
    with guard.explained():
        database = reading.database()
        workers, queues = views.workers(database), views.queues(database)
        flight, publishing = views.in_flight(database), views.publishing(database)
        alive = [w for w in workers if w["silent_seconds"] < SILENT_SECONDS]
        columns = st.columns(4)
        columns[0].metric("Workers alive", len(alive), border=True)
        waiting = sum(q["queued"] for q in queues)
        columns[1].metric("Evaluations waiting", words.count(waiting), border=True)
        running = sum(q["running"] for q in queues)
        columns[2].metric("Evaluations running", words.count(running), border=True)
        columns[3].metric(
            "Artefacts waiting", publishing["queued"] + publishing["running"], border=True
        )
        if workers and not alive and any(q["queued"] and q["state"] != "paused" for q in queues):
            st.warning("Nobody works on what waits. Start workers: `remelt worker`")
        _workers(workers)
        _flight(flight)
        _queues(queues)


def _workers(workers: list[Row]) -> None:
    st.markdown("##### Workers seen within a day")
    if not workers:
        badges.hint("**No worker has been seen.** Start control and evaluation:", "remelt worker")
        return
    st.dataframe(
        [
            {
                "worker": w["name"],
                "kind": w["kind"],
                "state": "alive" if w["silent_seconds"] < SILENT_SECONDS else "silent",
                "last heartbeat": f"{words.duration(w['silent_seconds'])} ago",
                "tokens/s": _pace(w["tokens_per_second"]),
                # what it last said is over
                "engine": words.DASH
                if w["silent_seconds"] >= SILENT_SECONDS
                else w["info"].get("engine", words.DASH),
                "pool resident": w["info"].get("pool") or words.DASH,
                "where the pool is kept": w["info"].get("tier") or words.DASH,
                "ranks": w["info"].get("ranks") or words.DASH,
                "started (UTC)": f"{w['started_at']:%Y-%m-%d %H:%M}",
            }
            for w in workers
        ],
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "tokens/s": st.column_config.TextColumn(
                help="over its latest evaluations within a day"
            ),
            "where the pool is kept": st.column_config.TextColumn(
                width="large", help="in memory, or mapped from its files; and why"
            ),
            "ranks": st.column_config.TextColumn(help="processes of its engine, one GPU each"),
        },
        alt="Workers",
    )
    st.caption(
        "Control workers hand out candidates and advance studies; evaluation workers score and "
        f"publish them. Without a heartbeat for {SILENT_SECONDS} s one is silent: what it was "
        "doing is given to another as soon as its lease ends."
    )


def _pace(tokens: float | None) -> str:
    return words.DASH if tokens is None else words.count(tokens)


def _flight(flight: list[Row]) -> None:
    st.markdown("##### Running evaluations")
    if not flight:
        st.caption("none")
        return
    st.dataframe(
        [
            {
                "study": f"#{f['study']} {f['name']}",
                "trial": f["number"],
                "split": f["split"],
                "worker": f["worker"],
                "done": f["progress"],
                "running for": words.duration(f["seconds"]),
                "attempt": f["attempt"],
                "lease": words.duration(f["lease_seconds"]),
            }
            for f in flight
        ],
        hide_index=True,
        width="stretch",
        column_config={
            "done": st.column_config.ProgressColumn(format="percent"),
            "lease": st.column_config.TextColumn(
                help="the worker renews it while it works; when it ends, another takes over"
            ),
        },
        alt="Running evaluations",
    )


def _queues(queues: list[Row]) -> None:
    st.markdown("##### Queue by study")
    if not queues:
        st.caption("empty")
        return
    st.dataframe(
        tables.counted(
            [
                {
                    "study": f"#{q['study']} {q['name']}",
                    "state": q["state"],
                    "waiting": q["queued"],
                    "running": q["running"],
                }
                for q in queues
            ],
            "waiting",
            "running",
        ),
        hide_index=True,
        width="stretch",
        alt="Queue by study",
    )


if __name__ == "__main__":
    main()
