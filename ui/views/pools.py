"""Pools: which checkpoints can be merged with each other, where they are, and adding one."""

from __future__ import annotations

import streamlit as st

from services import registry
from services.access import User
from services.errors import RemeltError
from services.settings import settings
from services.studies import views
from ui import badges, guard, pool_words, reading, sign_in, words

COMMAND = "remelt pool add NAME --reference DEPLOYED DIR DIR …"
SAID = "pool-added"


def main() -> None:
    """Draw the page."""
    st.title("Pools", anchor=False)
    with guard.explained():
        who = sign_in.user()
        if message := st.session_state.pop(SAID, None):
            st.success(words.plain(message), icon=":material/check:")
        found = views.pools(reading.database())
        if not found:
            badges.hint(
                "**No pools yet.** A pool holds checkpoints of one architecture: same tensor "
                "names, shapes and tokenizer. Adding one reads and checks every file.",
                COMMAND,
            )
        if who.may("submitter"):
            with st.expander("Register a pool", icon=":material/add:", expanded=not found):
                _form(who)
        for pool in reversed(found):
            _pool(pool["name"], pool["studies"])


def _form(who: User) -> None:
    with st.form("pool", border=False):
        name, reference = st.columns(2)
        pool = name.text_input("Name", placeholder="my-pool", key="pool-name")
        deployed = reference.text_input(
            "Reference",
            placeholder="deployed",
            key="pool-reference",
            help="the checkpoint that is deployed today, by its name in the pool",
        )
        places = st.text_area(
            "Checkpoints, one a line",
            placeholder="/models/deployed\ns3://bucket/reviews-ft\nquestions=/models/run-17",
            key="pool-places",
            help="a folder in Hugging Face layout or s3://bucket/prefix; its last part is the "
            "name, or write name=place",
        )
        st.caption(_places(who))
        if st.form_submit_button("Read, check and register", type="primary"):
            _add(pool.strip(), deployed.strip(), places, who)
    st.caption("The same on the command line:")
    st.code(COMMAND, language="bash")


def _places(who: User) -> str:
    if who.local:
        return "Any folder that this machine can read, or a bucket of REMELT_S3_BUCKETS."
    folders = settings().pool_folders or "none"
    return words.plain(f"Folders below: {folders}. Buckets: those of REMELT_S3_BUCKETS.")


def _add(name: str, reference: str, places: str, who: User) -> None:
    sources = [line.strip() for line in places.splitlines() if line.strip()]
    bar = st.progress(0.0, "Reading …")

    def tick(member: str, done: int, total: int) -> None:
        bar.progress(done / max(total, 1), f"Reading {words.plain(member)} …")

    try:
        made = registry.add_pool(
            reading.database(),
            settings(),
            name,
            sources,
            reference=reference,
            progress=tick,
            by=who,
        )
    except RemeltError as error:
        bar.empty()
        guard.explain(error)
        return
    st.session_state[SAID] = f"Pool {made.name} is registered: {len(made.members)} checkpoints."
    st.rerun()


def _pool(name: str, studies: int) -> None:
    pool, report = views.pool(reading.database(), name), views.pool_report(reading.database(), name)
    with st.container(border=True):
        st.markdown(f"##### {words.plain(pool.name)}")
        st.caption(
            f"{len(pool.members)} checkpoints of {words.large(pool.members[0].parameters)} "
            f"parameters, {pool.dtype} · reference {words.plain(pool.reference)} · used by "
            f"{studies} {'study' if studies == 1 else 'studies'}"
        )
        st.dataframe(
            [
                {
                    "checkpoint": m.name,
                    "reference": m.name == pool.reference,
                    "parameters": m.parameters,
                    "dtype": m.dtype,
                    "MB": sum(f["bytes"] for f in m.files.values()) / 1e6,
                    "where": m.uri,
                    "digest": m.digest,
                }
                for m in pool.members
            ],
            hide_index=True,
            width="stretch",
            height="content",
            column_config={
                "parameters": st.column_config.NumberColumn(format="localized"),
                "MB": st.column_config.NumberColumn(format="%.1f"),
                "where": st.column_config.TextColumn(width="large"),
                "digest": st.column_config.TextColumn(width="medium"),
            },
            alt=f"Checkpoints of pool {pool.name}",
        )
        st.markdown(pool_words.lines(report))


if __name__ == "__main__":
    main()
