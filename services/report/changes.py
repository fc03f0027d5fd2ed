"""What changes for users: broken and mended answers suite by suite, and examples of broken ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services import noise
from services.report import words
from services.report.blocks import Answers, Block, Cell, Section, Table, Text
from services.report.material import Material
from services.report.paired import Flips
from services.studies import read
from services.studies.read import Flip, OpenSplit
from services.studies.tell import ALL

MOST_EXAMPLES = 10
MOST_OF_A_SUITE = 3
#: longer texts are cut in the middle: the question stands at the end
MOST_CHARACTERS = 420


def section(material: Material) -> Section | None:
    """None for a study of text suites alone, where flips are not defined, and for the reference."""
    if material.keeps:
        return None
    if not material.flips:
        return None
    blocks: list[Block] = [_table(material), *_examples(material)]
    return Section(name="changes", title="What changes for users", blocks=blocks)


def _table(material: Material) -> Table:
    floors, found = _floors(material), dict(material.flips)
    together = found.pop(ALL)
    rows: list[list[Cell]] = []
    if len(found) > 1:
        rows.append(_row("all together", together, floors.get(ALL, "")))
    rows += [_row(name, flips, floors.get(name, "")) for name, flips in found.items()]
    columns = ["suite", "n", "broken", "negative flips", "mended", "positive flips", "churn",
               "McNemar"]  # fmt: skip
    if any(floors.values()):
        columns.append("noise floor")
    else:
        rows = [row[:-1] for row in rows]
    note = (
        f"{material.split.capitalize()} split against {material.study.reference}; shares of all "
        "items with 95 % intervals. Broken: right today, wrong then. Churn: any other "
        "answer. McNemar: exact, two-sided."
    )
    note += _floor_note(material) if any(floors.values()) else (
        " The noise floor was not measured (remelt noise)."
    )  # fmt: skip
    return Table(columns=columns, rows=rows, note=note, marked=[0] if len(found) > 1 else [])


def _row(name: str, flips: Flips, floor: str) -> list[Cell]:
    c = flips.counts
    return [
        name,
        c.n,
        f"{c.negative} of {c.right_before}",
        flips.negative,
        f"{c.positive} of {c.wrong_before}",
        flips.positive,
        flips.churn,
        words.p_value(flips.p),
        floor or words.DASH,
    ]


def _measured(material: Material) -> list[noise.NoiseFloor]:
    floors = noise.of_study(material.database, material.study, material.split)
    return [floor for floor in floors if floor.changed is not None]


def _floors(material: Material) -> dict[str, str]:
    """By suite ('' for all together), the reference's changes against itself, every way of it."""
    floors = _measured(material)
    found = {}
    for suite in ("", *dict.fromkeys(floor.suite for floor in floors)):
        parts = []
        for how in dict.fromkeys(floor.how for floor in floors):
            mine = [f for f in floors if f.how == how and suite in ("", f.suite)]
            if mine:
                n, changed, _ = noise.total(mine)
                parts.append(f"{changed} of {n} {how}")
        found[suite] = ", ".join(parts)
    return found


def _floor_note(material: Material) -> str:
    split = _measured(material)[0].split
    return (
        f" Noise floor: answers of {material.study.reference} that change when only the way of "
        f"computing them does ({split} split)."
    )


def _examples(material: Material) -> list[Block]:
    """The surest of the broken answers; of an open split, since the test items stay unseen."""
    split: OpenSplit = "search" if material.split == "search" else "validation"
    if split == "validation" and not any(
        c.trial.number == material.number for c in material.validation
    ):
        split = "search"
    flips = read.flips(material.database, material.study, material.number, split)
    broken = [flip for flip in flips if flip.kind == "negative"]
    if not broken:
        return [Text(text=f"On the {split} split no answer breaks.")]
    shown = worst(broken)
    unseen = " Items of the test split are not shown." if material.split == "test" else ""
    answers = Answers(
        title="Answers that break",
        answers=[
            replace(
                flip,
                prompt=_cut(flip.prompt),
                gold=_cut(flip.gold),
                old=_cut(flip.old),
                new=_cut(flip.new),
            )
            for flip in shown
        ],
        old=material.study.reference,
        new=material.name,
        note=f"{len(shown)} of {len(broken)} broken answers of the {split} split, worst first, at "
        f"most {MOST_OF_A_SUITE} a suite. Margin: log-likelihood of the right answer minus that of "
        f"the best other.{unseen}",
    )
    return [answers]


def worst(broken: Sequence[Flip]) -> list[Flip]:
    """Those that the candidate is surest of; generated answers, which have no margin, last."""
    ordered = sorted(broken, key=lambda f: 0.0 if f.new_margin is None else f.new_margin)
    taken: dict[str, int] = {}
    found = []
    for flip in ordered:
        if taken.get(flip.suite, 0) < MOST_OF_A_SUITE:
            taken[flip.suite] = taken.get(flip.suite, 0) + 1
            found.append(flip)
    return found[:MOST_EXAMPLES]


def _cut(text: str) -> str:
    text = text.strip()
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"
