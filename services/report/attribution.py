"""What the candidate owes to each parent, from merges that were evaluated already, and which
parents are near relatives. Asks for nothing: a command does that.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from services import kinship
from services.errors import RemeltError
from services.kinship import PoolKinship
from services.report import words
from services.report.blocks import Block, Cell, Facts, Number, Section, Table, Text, Unit
from services.report.material import Material
from services.studies import attribution, coalitions
from services.studies.attribution import Attribution, Figure
from services.studies.probes import SPLITS

#: parents that a table shows; those that weigh most
MOST_PARENTS = 12
#: objectives side by side, and pairs of relatives
MOST_AXES, MOST_PAIRS = 3, 3


def section(material: Material) -> Section | None:
    """None before the study's choice, when no merges can be asked for, and where there is one
    parent."""
    study = material.study
    if material.keeps or study.phase not in ("publish", "done") or study.state != "finished":
        return None
    blocks = [*_attribution(material), *_kinship(material)]
    return Section(name="attribution", title="What each parent adds", blocks=blocks)


def _attribution(material: Material) -> list[Block]:
    """The figures of the split whose merges are all there, validation first; else how to ask."""
    told = 0
    for split in reversed(SPLITS):
        try:
            plan = coalitions.plan(material.database, material.study, material.number, split=split)
            found = attribution.result(material.database, material.study, plan)
        except RemeltError:
            continue  # the base alone, or the reference was not scored there
        if len(plan.players) < 2:
            return [Text(text=f"{plan.players[0].name} is its only parent.")]
        if found.standing.told == found.standing.total:
            return [_said(material, found), *_tables(material, found)]
        told = max(told, found.standing.told)
    named = "" if material.chosen else f" --candidate {material.number}"
    return [
        Text(
            text="What each parent adds is not known yet. This evaluates the merges that tell: "
            f"remelt study attribute {material.study.id}{named} --wait"
        )
    ]


def _said(material: Material, found: Attribution) -> Facts:
    """The parents that surely help or harm, objective by objective."""
    facts = []
    for title, axis in zip(_titles(material), found.axes, strict=True):
        ways: dict[str, list[str]] = {"better": [], "worse": []}
        for player, figure in zip(found.plan.players, axis.shapley, strict=True):
            if _number(figure, "points").settled:
                better = ((figure.value or 0) > 0) == (axis.direction == "maximize")
                ways["better" if better else "worse"].append(player.name)
        said = [f"{way} by {', '.join(names)}" for way, names in ways.items() if names]
        facts.append((title[:1].upper() + title[1:], "; ".join(said) or "no parent tells surely"))
    return Facts(facts=facts)


def _titles(material: Material) -> list[str]:
    return [words.metric(axis.metric, axis.suite or "") for axis in material.study.spec.axes]


def _tables(material: Material, found: Attribution) -> list[Table]:
    """A few objectives side by side; what the figures are stands below the last."""
    count = len(found.axes)
    parts = [range(at, min(at + MOST_AXES, count)) for at in range(0, count, MOST_AXES)]
    made = [_table(material, found, part) for part in parts]
    return [*made[:-1], replace(made[-1], note=_note(found))]


def _table(material: Material, found: Attribution, axes: range) -> Table:
    titles = _titles(material)
    columns = ["parent", "weight"]
    for index in axes:
        columns += [f"{titles[index]}: adds", f"{titles[index]}: missed"]
    rows: list[list[Cell]] = []
    for number, player in enumerate(found.plan.players[:MOST_PARENTS]):
        row: list[Cell] = [player.name, words.weight(player.weight)]
        for index in axes:
            axis, unit = found.axes[index], _unit(material, index)
            row += [_number(axis.shapley[number], unit), _number(axis.leave_one_out[number], unit)]
        rows.append(row)
    return Table(columns=columns, rows=rows)


def _note(found: Attribution) -> str:
    plan, count = found.plan, len(found.plan.players)
    absent = (
        "shares of the others are renormalised"
        if plan.base is None
        else f"{plan.base} takes the weight of absent ones"
    )
    drawn = plan.design.permutations
    orders = "all orders of joining" if drawn is None else f"{drawn} orders of joining"
    more = f" {count - MOST_PARENTS} more are not listed." if count > MOST_PARENTS else ""
    return (
        f"{plan.split.capitalize()} split, {words.count(found.n)} items, {orders}; {absent}; no "
        f"parent at all: the {plan.empty}. Adds: Shapley value; they sum to all less none. Missed: "
        "what the whole merge would lose without this parent; of two that can stand in for each "
        f"other neither is. 95 % intervals over items, not widened for looking at {count} "
        f"parents.{more}"
    )


def _unit(material: Material, index: int) -> Unit:
    axis = material.study.spec.axes[index]
    text = axis.metric == "score" and material.study.form(axis.suite or "") == "text"
    return "nats change" if text else "points"


def _number(figure: Figure, unit: Unit) -> Number:
    return Number(value=figure.value, low=figure.low, high=figure.high, unit=unit)


def _kinship(material: Material) -> list[Block]:
    """The pairs that are most alike, where it was measured."""
    found = kinship.stored(material.database, material.study.pool.name)
    pairs = [] if found is None else nearest_pairs(found)[:MOST_PAIRS]
    if found is None or not pairs:
        return []
    named = ", ".join(
        f"{one} and {other} {cosine:.2f}".replace("-", words.MINUS) for one, other, cosine in pairs
    )
    return [
        Text(
            text=f"Nearest relatives, by cosine of what was learnt since {found.base}: {named}. "
            "Near 1 they are stages of one run, or one recipe twice: each can stand for the other."
        )
    ]


def nearest_pairs(found: PoolKinship) -> list[tuple[str, str, float]]:
    """(checkpoint, checkpoint, cosine) of every pair, the most alike first; without those that are
    the base itself."""
    cosine = found.kinship.cosine
    pairs = [
        (one, other, float(cosine[i, j]))
        for (i, one), (j, other) in combinations(enumerate(found.names), 2)
        if not np.isnan(cosine[i, j])
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
