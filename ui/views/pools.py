"""Pools: which checkpoints can be merged with each other, and where they are."""

from __future__ import annotations

import streamlit as st

from services.studies import views
from ui import badges, guard, reading, words


def main() -> None:
    """Draw the page."""
    st.title("Pools", anchor=False)
    with guard.explained():
        found = views.pools(reading.database())
        command = "remelt pool add NAME --reference DEPLOYED DIR DIR …"
        if not found:
            badges.hint(
                "**No pools yet.** A pool holds checkpoints of one architecture: same tensor "
                "names, shapes and tokenizer. Adding one reads and checks every file.",
                command,
            )
            return
        for pool in reversed(found):
            _pool(pool["name"], pool["studies"])
        st.caption("Add another one:")
        st.code(command, language="bash")


def _pool(name: str, studies: int) -> None:
    pool = views.pool(reading.database(), name)
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


if __name__ == "__main__":
    main()
