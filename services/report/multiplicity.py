"""Whether the choice is one of many: what near-equal candidates answer differently."""

from __future__ import annotations

from services.errors import RemeltError
from services.report import words
from services.report.blocks import Block, Card, Cards, Cell, Number, Section, Table, Text
from services.report.material import Material
from services.report.paired import number_of
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
    blocks: list[Block] = [Text(text=_said(found))]
    if len(found.members) > 1:
        blocks += [_cards(found), _table(found), *_unstable(found)]
    return Section(name="multiplicity", title="How much the choice decides", blocks=blocks)


def _said(found: Multiplicity) -> str:
    """How many could have been chosen, and which of them is the most usual one."""
    feasible = words.many(found.candidates, "feasible candidate")
    within = f"within {found.epsilon:g} of the best in the {found.by} on {found.split}"
    if len(found.members) == 1:
        return f"No other of {feasible} is {within}: trial {found.best} stands alone."
    text = (
        f"{len(found.members) + found.beyond} of {feasible} are {within}: any of them could have "
        "been chosen"
    )
    if found.typical == found.chosen:
        return f"{text}. The one that was is the most typical: its answers are most like theirs."
    return f"{text}. The most typical of them, most like the others, is trial {found.typical}."


def _cards(found: Multiplicity) -> Cards:
    """What depends on the choice, in four figures."""
    every, chosen = found.figures[-1], f"trial {found.chosen}"
    against = every.chosen
    shown = [
        ("Items whose answer depends on the choice", against.ambiguity, ""),
        (f"Answers unlike {chosen}, of trial {against.farthest}", against.discrepancy,
         " · the farthest off"),
        ("Churn of two members, drawn at random", every.expected_churn, ""),
    ]  # fmt: skip
    cards = [_card(title, number_of(value), beside) for title, value, beside in shown]
    if len(found.members) < found.fewest_members:
        return Cards(cards=cards)
    right = number_of(every.answered_accuracy)
    beside = (
        f" · of the others {words.figure(right)} right (95 % {words.interval(right, '–')}); "
        f"{chosen} has {words.percent(every.chosen_accuracy)} of all"
    )
    voted = _card("Without an answer if members voted", number_of(every.abstention), beside)
    return Cards(cards=[*cards, voted])


def _card(title: str, number: Number, beside: str) -> Card:
    around = words.interval(number, "–")
    return Card(title=title, figure=words.figure(number), beside=f"95 % {around}{beside}")


def _table(found: Multiplicity) -> Table:
    votes = len(found.members) >= found.fewest_members
    shown = (
        [found.figures[-1], *found.figures[:-1]] if len(found.figures) > 2 else found.figures[:1]
    )
    rows: list[list[Cell]] = []
    for one in shown:
        row: list[Cell] = ["all together" if one.suite == ALL else one.suite, one.n]
        row += [number_of(one.expected_churn), number_of(one.chosen.ambiguity)]
        row += [number_of(one.abstention), number_of(one.answered_accuracy)] if votes else []
        rows.append([*row, words.percent(one.chosen_accuracy)])
    voting = (
        " No answer: members vote, and nothing is said where the vote is too near a tie (α = "
        f"{found.alpha:g})."
        if votes
        else ""
    )
    return Table(
        columns=["suite", "n", "churn of two members", "ambiguity",
                 *(["no answer", "right, where answered"] if votes else []),
                 f"trial {found.chosen}, right"],
        rows=rows,
        note=f"{found.split.capitalize()} split, {len(found.members)} members, 95 % intervals. "
        f"Ambiguity: some member answers otherwise than trial {found.chosen}.{voting}",
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
