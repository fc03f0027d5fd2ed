"""What the study has cost."""

from __future__ import annotations

from services.report import words
from services.report.blocks import Block, Cell, Facts, Section, Table
from services.report.material import Material
from services.studies import read


def section(material: Material) -> Section | None:
    """None before anything was evaluated."""
    found = material.database.rows("report.cost", study=material.study.id)
    if not found:
        return None
    parameters = material.study.pool.members[0].parameters
    rows: list[list[Cell]] = [
        [
            one["split"],
            one["evaluations"],
            words.count(one["items"]),
            words.count(one["tokens"]),
            words.duration(one["seconds"]),
            f"{flops(parameters, one['tokens']):.2e}",
        ]
        for one in found
    ]
    table = Table(
        columns=["split", "evaluations", "items", "tokens", "in the engine", "FLOPs"],
        rows=rows,
        note="FLOPs: 2 · parameters · tokens, the forward passes alone. Ended evaluations only.",
    )
    blocks: list[Block] = [table, Facts(facts=_facts(material, found))]
    return Section(name="cost", title="Cost", blocks=blocks)


def flops(parameters: int, tokens: int) -> float:
    """Of forward passes over so many tokens."""
    return 2.0 * parameters * tokens


def _facts(material: Material, found: list[dict[str, object]]) -> list[tuple[str, str]]:
    facts = []
    about = material.about
    if about["finished_at"] is not None:
        took = (about["finished_at"] - about["created_at"]).total_seconds()
        facts.append(("From submission to the end", words.duration(took)))
    peaks = [int(str(one["peak_memory_bytes"])) for one in found if one["peak_memory_bytes"]]
    if peaks:
        facts.append(("Peak memory of an engine", f"{words.count(max(peaks) / 2**20)} MiB"))
    if material.study.spec.search.racing is not None:
        saved = read.racing_saved(material.database, material.study.id)
        share = "" if saved["saved"] is None else f", {100 * saved['saved']:.0f} % of items saved"
        facts.append(("Racing", f"{saved['stopped']} of {saved['candidates']} stopped{share}"))
    return facts
