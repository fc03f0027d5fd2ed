"""Whether the candidate refuses what it should and nothing else, and is no worse than today's model
where that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from optim.rates import REFUSAL_RATES
from services.report import paired, words
from services.report.blocks import Block, Cell, Number, Section, Table, Unit
from services.report.material import Material, metric_of
from services.report.pool import number
from services.spec import Constraint
from services.studies.tell import Value, constrained, missed_by

#: what the candidate does, and to what
SAID = {
    "over_refusal": ("refuses", "what should be answered"),
    "unsafe_compliance": ("answers", "what should be refused"),
}


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """One rate of one refusal suite."""

    suite: str
    name: str
    old: Number
    new: Number
    change: Number


def section(material: Material) -> Section | None:
    """None without refusal suites and without bounds against the reference."""
    blocks: list[Block] = []
    if found := refusals(material):
        blocks.append(_refusals(material, found))
    if any(c.at_most_worse is not None for c in material.study.spec.constraints):
        blocks.append(_bounds(material))
    return Section(name="safety", title="Safety", blocks=blocks) if blocks else None


def refusals(material: Material) -> list[Refusals]:
    """Both rates of every refusal suite, on the report's split; rates of no items are left out."""
    old, new = material.of(material.reference), material.of(material.candidate)
    found = []
    for suite in material.study.suites if not material.keeps else ():
        for name in REFUSAL_RATES if suite.form == "refusal" else ():
            change = paired.refusals(
                name, old[suite.name], new[suite.name], material.clusters[suite.name]
            )
            before, after = (
                number(metric_of(c, name, suite.name))
                for c in (material.reference, material.candidate)
            )
            if change.n and before is not None and after is not None:
                one = Refusals(suite=suite.name, name=name, old=before, new=after, change=change)
                found.append(one)
    return found


def said(material: Material) -> str:
    """The refusals in one sentence for the verdict; '' without refusal suites."""
    found = refusals(material)
    parts = []
    for one in found:
        verb, what = SAID[one.name]
        parts.append(
            f"{verb} {words.figure(one.new)} of {what} in {one.suite} (95 % "
            f"{words.interval(one.new, '–')}, n = {words.count(one.change.n or 0)}; "
            f"{material.study.reference} "
            f"{words.figure(one.old)}, {_changed(one.change)})"
        )
    return words.sentence(f"Safety: it {'; it '.join(parts)}") if parts else ""


def _changed(change: Number) -> str:
    if not change.value:
        return "no more and no less"
    sure = "surely more" if change.value > 0 else "surely less"
    around = f"{words.figure(change)}, 95 % {words.interval(change, ' to ')}"
    return f"{sure if change.settled else 'the change may be chance'}: {around}"


def worsens(material: Material) -> bool:
    """Some rate surely grows."""
    changes = [one.change for one in refusals(material)]
    return any(change.settled and (change.value or 0) > 0 for change in changes)


def _refusals(material: Material, found: list[Refusals]) -> Table:
    rows: list[list[Cell]] = [
        [f"{words.TITLES[r.name]} of {r.suite}", r.change.n, r.old, r.new, r.change] for r in found
    ]
    return Table(
        columns=["what", "n", material.study.reference, material.name, "change"],
        rows=rows,
        title="Refusals",
        note=f"{material.split.capitalize()} split, less is better; 95 % intervals, of changes "
        "paired on the same items. Over-refusal: refusals, of the items that expect an answer. "
        "Unsafe compliance: answers, of the items that expect a refusal.",
    )


def _bounds(material: Material) -> Table:
    """Every bound against the reference: how much worse it is, and whether that keeps the bound."""
    rows: list[list[Cell]] = []
    for constraint in material.study.spec.constraints:
        for suite in constrained(material.study, constraint):
            if constraint.at_most_worse is None:
                continue
            found = metric_of(material.candidate, constraint.measure, suite)
            if found is None:
                continue
            value = Value(found.value, found.low, found.high, found.n)
            over = missed_by(constraint, value)
            text = constraint.metric == "score" and material.study.form(suite) == "text"
            kept = "yes" if over <= 0 else f"no, beyond it by {over:.3f}"
            unit: Unit = "nats change" if text else "points"
            rows.append([_words(constraint, suite), found.n, paired.number_of(value, unit), kept])
    return Table(
        columns=["what was asked", "n", "worse by", "kept"],
        rows=rows,
        title=f"No worse than {material.study.reference}",
        note=f"{material.split.capitalize()} split, paired on the same items, 95 % intervals; "
        "below 0 it is better. A bound with a confidence must hold for the upper end of a "
        "one-sided interval.",
    )


def _words(constraint: Constraint, suite: str) -> str:
    one = constraint if constraint.suite != "each" else constraint.model_copy(
        update={"suite": suite}
    )  # fmt: skip
    return words.constraint(one)
