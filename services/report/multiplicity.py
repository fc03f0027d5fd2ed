"""Whether the choice is one of many: what near-equal candidates answer differently."""

from __future__ import annotations

from services.errors import RemeltError
from services.report import words
from services.report.blocks import Block, Cell, Number, Section, Table, Text
from services.report.material import Material
from services.report.paired import number_of
from services.studies.figures import Figures
from services.studies.multiplicity import Multiplicity, multiplicity
from services.studies.tell import ALL
from services.studies.unstable import UnstableItem

#: items that are shown, and characters of a prompt
MOST_ITEMS = 5
MOST_CHARACTERS = 180


def section(material: Material) -> Section | None:
    """None for text suites alone, and where nothing is feasible."""
    try:
        found = multiplicity(
            material.database, material.study, split=material.open_split, most_items=MOST_ITEMS
        )
    except RemeltError:
        return None
    blocks: list[Block] = [Text(text=text) for text in _said(found)]
    if len(found.members) > 1:
        blocks += [_table(found), *_unstable(found)]
    return Section(name="multiplicity", title="How much the choice decides", blocks=blocks)


def _said(found: Multiplicity) -> list[str]:
    """What stands behind the table, in a few sentences."""
    count, within = len(found.members) + found.beyond, f"{found.epsilon:g} of the best"
    where = f"in the {found.by} on {found.split}"
    if count == 1:
        return [
            f"No other of {words.many(found.candidates, 'feasible candidate')} is within {within} "
            f"{where}: trial {found.best} stands alone."
        ]
    every = found.figures[-1]
    against = every.chosen
    texts = [
        f"{count} of {words.many(found.candidates, 'feasible candidate')} are within {within} "
        f"{where}: any of them could have been chosen. For {_share(number_of(against.ambiguity))} "
        f"of the items the answer depends on which (some member disagrees with trial "
        f"{found.chosen}); trial {against.farthest} alone answers "
        f"{_share(number_of(against.discrepancy))} otherwise, and two members drawn at random "
        f"differ in {_share(number_of(every.expected_churn))}."
    ]
    if found.typical is not None:
        mine = "the candidate that was chosen" if found.typical == found.chosen else "its answers"
        texts.append(
            f"The most typical member is trial {found.typical}, {mine}"
            + ("" if found.typical == found.chosen else " are most like the others'")
            + "."
        )
    texts.append(_selective(found, every))
    return texts


def _selective(found: Multiplicity, every: Figures) -> str:
    if len(found.members) < found.fewest_members:
        return (
            f"Selective prediction needs {found.fewest_members} members at α = {found.alpha:g}, so "
            "it would never answer."
        )
    right = _share(number_of(every.answered_accuracy))
    return (
        f"If members voted, and nothing were said where the vote is too near a tie (α = "
        f"{found.alpha:g}), {_share(number_of(every.abstention))} of the items would have no "
        f"answer and {right} of the others be right; trial {found.chosen} has "
        f"{words.percent(every.chosen_accuracy)} of all items right."
    )


def _share(number: Number) -> str:
    around = words.interval(number, "–")
    return words.figure(number) + (f" (95 % {around})" if around else "")


def _table(found: Multiplicity) -> Table:
    rows: list[list[Cell]] = [
        [
            "all together" if one.suite == ALL else one.suite,
            one.n,
            number_of(one.expected_churn),
            number_of(one.chosen.ambiguity),
            number_of(one.chosen.discrepancy),
            number_of(one.abstention),
            number_of(one.answered_accuracy),
            words.percent(one.chosen_accuracy),
        ]
        for one in (found.figures[-1], *found.figures[:-1])
    ]
    if len(found.figures) == 2:
        rows = rows[1:]
    return Table(
        columns=["suite", "n", "churn of two members", "ambiguity", "discrepancy", "no answer",
                 "right, where answered", f"trial {found.chosen}, right"],
        rows=rows,
        note=f"{found.split.capitalize()} split, {len(found.members)} members, 95 % intervals. "
        f"Ambiguity: some member answers otherwise than trial {found.chosen}. Discrepancy: the "
        "member that is farthest off does.",
        marked=[0] if len(rows) > 1 else [],
    )  # fmt: skip


def _unstable(found: Multiplicity) -> list[Block]:
    if not found.unstable:
        return []
    return [
        Table(
            columns=["item", "prompt", "right answer", "answers of members"],
            rows=[_item(one) for one in found.unstable],
            title="Items that members disagree on most",
            note=f"{len(found.unstable)} of {found.unstable_count} such items of the {found.split} "
            "split; prompts are cut. All of them: remelt study multiplicity "
            f"{found.study} --json",
        )
    ]


def _item(one: UnstableItem) -> list[Cell]:
    prompt = one.prompt.strip()
    if len(prompt) > MOST_CHARACTERS:
        prompt = f"… {prompt[-MOST_CHARACTERS:]}"
    answers = ", ".join(f"{text.strip() or '(nothing)'} {times}×" for text, times in one.answers)
    return [f"{one.suite} {one.item}", prompt, one.gold.strip(), answers]
