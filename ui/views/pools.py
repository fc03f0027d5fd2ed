"""Pools: which checkpoints can be merged with each other, where they are, and adding one."""

from __future__ import annotations

import streamlit as st

from services import kinship, registry
from services.access import User
from services.errors import RemeltError
from services.settings import settings
from services.studies import views
from ui import badges, chart, guard, pool_words, reading, sign_in, tables, words
from ui.plots.kinship import kinship_figure

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
            _pool(pool["name"], pool["studies"], who)


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


def _pool(name: str, studies: int, who: User) -> None:
    pool, report = views.pool(reading.database(), name), views.pool_report(reading.database(), name)
    with st.container(border=True):
        st.markdown(f"##### {words.plain(pool.name)}")
        st.caption(
            f"{len(pool.members)} checkpoints of {words.large(pool.members[0].parameters)} "
            f"parameters, {pool.dtype} · reference {words.plain(pool.reference)} · used by "
            f"{studies} {'study' if studies == 1 else 'studies'}"
        )
        st.dataframe(
            tables.counted(
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
                "parameters",
            ),
            hide_index=True,
            width="stretch",
            height="content",
            column_config={
                "MB": st.column_config.NumberColumn(format="%.1f"),
                "where": st.column_config.TextColumn(width="large"),
                "digest": st.column_config.TextColumn(width="medium"),
            },
            alt=f"Checkpoints of pool {pool.name}",
        )
        st.markdown(pool_words.lines(report))
        if len(pool.members) > 2:
            _kinship(pool, who)


def _kinship(pool: registry.Pool, who: User) -> None:
    """How alike the checkpoints are, where it was measured; else the button that measures it."""
    base = st.selectbox(
        "Kinship: differences from",
        pool.names,
        index=pool.names.index(pool.reference),
        key=f"kinship-base-{pool.name}",
        width=260,
    )
    found = kinship.stored(reading.database(), pool.name, base=base)
    if found is None:
        st.caption(
            "How alike what the checkpoints have learnt is: read once from their files (some "
            "seconds a gigabyte) and kept."
        )
        label = "Measure the kinship"
        if who.may("submitter") and st.button(
            label, icon=":material/family_history:", key=f"kinship-{pool.name}"
        ):
            _measure(pool.name, base, who)
        return
    chart.draw(
        kinship_figure(found),
        key=f"kinship-plot-{pool.name}",
        alt=f"Cosines of the task vectors of pool {pool.name}",
    )
    st.caption(
        f"Cosine of what each checkpoint differs by from {words.plain(found.base)}: near 1 both "
        "have learnt the same change, near 0 changes that have nothing in common, below 0 opposite "
        "ones. Near relatives add little to each other in a merge."
    )


def _measure(name: str, base: str, who: User) -> None:
    bar = st.progress(0.0, "Reading …")

    def tick(what: str, done: int, total: int) -> None:
        bar.progress(min(done / max(total, 1), 1.0), f"{words.plain(words.sentence(what))} …")

    with guard.explained():
        kinship.of_pool(reading.database(), settings(), name, base=base, progress=tick, by=who)
        st.rerun()
    bar.empty()


if __name__ == "__main__":
    main()
