"""What the study has cost."""

from __future__ import annotations

from services.report import words
from services.report.blocks import Block, Cell, Facts, Section, Table
from services.report.material import Material
from services.studies import cost
from services.studies.cost import Energy, Part, StudyCost

#: parts of a study's work, for people; others by their own names
PARTS = {
    "search": "candidates, on search",
    "baselines": "baselines, on search",
    "validation": "finals, on validation",
    "test": "finals, on test",
    "descents": "descents",
    "probe": "merges that explain the choice",
}


def section(material: Material) -> Section | None:
    """None before anything was evaluated."""
    found = cost.of_study(material.database, material.study)
    if not found.total.started:
        return None
    rows = [_row(PARTS.get(n, n), part) for n, part in found.parts.items() if part.started]
    table = Table(
        columns=["part", "evaluations", "items", "tokens", "with workers", "FLOPs"],
        rows=[*rows, _row("all", found.total)],
        note=f"FLOPs: {cost.FLOPS_EACH} · parameters · tokens, the forward passes alone. With "
        "workers: as long as one held them, fetching and waiting included.",
        marked=[len(rows)],
    )
    blocks: list[Block] = [table, Facts(facts=_facts(material, found))]
    return Section(name="cost", title="Cost", blocks=blocks)


def _row(name: str, part: Part) -> list[Cell]:
    ended = ", ".join(
        f"{words.count(number)} {how}"
        for number, how in ((part.stopped, "stopped early"), (part.failed, "failed"))
        if number
    )
    return [
        name,
        words.count(part.started) + (f" ({ended})" if ended else ""),
        words.count(part.items),
        words.count(part.tokens),
        words.duration(part.worker_seconds),
        f"{part.flops:.2e}",
    ]


def _facts(material: Material, found: StudyCost) -> list[tuple[str, str]]:
    facts, about, total = [], material.about, found.total
    if about["finished_at"] is not None:
        took = (about["finished_at"] - about["created_at"]).total_seconds()
        facts.append(("From submission to the end", words.duration(took)))
    if total.peak_memory_bytes is not None:
        facts.append(
            ("Peak memory of an engine", f"{words.count(total.peak_memory_bytes / 2**20)} MiB")
        )
    if total.retries:
        facts.append(("Repeated", f"{words.many(total.retries, 'attempt')} cut short, not counted"))
    if found.racing is not None:
        raced, saved = found.racing, found.racing["saved"]
        share = "" if saved is None else f", {words.percent(saved, 0)} of the items saved"
        facts.append(("Racing", f"{raced['stopped']} of {raced['candidates']} stopped{share}"))
    facts.append(("Energy", energy(total.energy)))
    return facts


def energy(found: Energy | None) -> str:
    """What was measured, of how much, and how."""
    if found is None:
        return "not measured (REMELT_CARBON_COUNTRY)"
    return (
        f"{1000 * found.kwh:.3g} Wh, {found.gco2e:.3g} gCO2e, measured in {found.measured} of "
        f"{words.many(found.ended, 'evaluation')} ({'; '.join((*found.how, *found.sources))})"
    )
