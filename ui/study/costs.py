"""What a study, or one candidate, has cost so far."""

from __future__ import annotations

from typing import Any

import streamlit as st

from services.studies.cost import Part, StudyCost
from ui import reading, tables, words
from ui.reading import Snapshot

NAMES = {"search": "search", "baselines": "baselines on search", "probe": "probes"}
FLOPS = "floating-point operations, about 2 · parameters · tokens: the forward passes alone"


def draw(shown: Snapshot) -> None:
    """Every part of the study's work, and all together; nothing before anything was begun."""
    found = reading.costs(shown)
    if not found.total.started:
        return
    st.markdown("##### Cost")
    parts = {NAMES.get(name, name): part for name, part in found.parts.items() if part.started}
    st.dataframe(
        tables.counted(
            [_row(name, part) for name, part in {**parts, "all": found.total}.items()],
            "evaluations",
            "finished",
            "stopped",
            "failed",
            "items",
        ),
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "FLOPs": st.column_config.TextColumn(help=FLOPS),
            "worker time": st.column_config.TextColumn(
                help="for which a worker held them, fetching and waiting included; of several "
                "workers the sum"
            ),
        },
        alt="Cost of the study by part",
    )
    st.caption(words.plain(" ".join(_facts(found))))


def candidate(shown: Snapshot, number: int) -> None:
    """What one candidate has cost, in a line."""
    found = next((c for c in reading.costs(shown).candidates if c.number == number), None)
    if found is None or not found.cost.started:
        return
    part, total = found.cost, reading.costs(shown).total
    share = f" ({words.percent(part.tokens / total.tokens)} of the study's)" if total.tokens else ""
    st.caption(
        words.plain(
            f"Cost, all splits: {words.count(part.items)} items, {words.short(part.tokens)} tokens"
            f"{share}, {words.short(part.flops)}FLOPs, {words.duration(part.worker_seconds)} on "
            "workers."
        )
    )


def _row(name: str, part: Part) -> dict[str, Any]:
    return {
        "part": name,
        "evaluations": part.started,
        "finished": part.finished,
        "stopped": part.stopped,
        "failed": part.failed,
        "items": part.items,
        "tokens": words.short(part.tokens),
        "FLOPs": words.short(part.flops),
        "worker time": words.duration(part.worker_seconds),
    }


def _facts(found: StudyCost) -> list[str]:
    total = found.total
    facts = []
    if total.peak_memory_bytes is not None:
        facts.append(
            f"Most memory of an engine: {words.count(total.peak_memory_bytes / 2**20)} MiB."
        )
    if total.retries:
        facts.append(f"{total.retries} attempts were cut short and repeated, which is not counted.")
    if found.racing is not None:
        facts.append(f"{words.sentence(words.saved(found.racing))}.")
    if total.energy is None:
        facts.append("Energy was not measured (REMELT_CARBON_COUNTRY).")
    else:
        energy = total.energy
        facts.append(
            f"Energy: {1000 * energy.kwh:.3g} Wh, {energy.gco2e:.3g} g CO₂e, measured in "
            f"{energy.measured} of {energy.ended} evaluations ({'; '.join(energy.how)})."
        )
    return facts
