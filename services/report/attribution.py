"""What the candidate owes to each parent, from merges that were evaluated already, and which
parents are near relatives. Asks for nothing: a command does that.
"""

from __future__ import annotations

import math

from services import kinship
from services.errors import RemeltError
from services.kinship import PoolKinship
from services.report import words
from services.report.blocks import Block, Cell, Number, Section, Table, Text, Unit
from services.report.material import Material
from services.studies import attribution, coalitions
from services.studies.attribution import Attribution, Figure
from services.studies.probes import SPLITS

#: parents that a table shows; those that weigh most
MOST_PARENTS = 12


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
            return [_said(material, found), _table(material, found)]
        told = max(told, found.standing.told)
    named = "" if material.chosen else f" --candidate {material.number}"
    return [
        Text(
            text="What each parent adds is not known yet. This evaluates the merges that tell: "
            f"remelt study attribute {material.study.id}{named} --wait"
        )
    ]


def _said(material: Material, found: Attribution) -> Text:
    """The parents that surely help or harm, objective by objective."""
    parts = []
    for title, axis in zip(_titles(material), found.axes, strict=True):
        said: dict[str, list[str]] = {"the better": [], "the worse": []}
        for player, figure in zip(found.plan.players, axis.shapley, strict=True):
            if _number(figure, "points").settled:
                better = ((figure.value or 0) > 0) == (axis.direction == "maximize")
                said["the better" if better else "the worse"].append(player.name)
        ways = [f"{', '.join(names)} for {way}" for way, names in said.items() if names]
        parts.append(f"{title}: {'; '.join(ways) or 'none'}")
    return Text(text=f"Parents that surely change something, {'. '.join(parts)}.")


def _titles(material: Material) -> list[str]:
    return [words.metric(axis.metric, axis.suite or "") for axis in material.study.spec.axes]


def _table(material: Material, found: Attribution) -> Table:
    plan, study = found.plan, material.study
    columns = ["parent", "weight"]
    for title in _titles(material):
        columns += [f"{title}: adds", f"{title}: missed"]
    units = [_unit(material, index) for index in range(len(study.spec.axes))]
    rows: list[list[Cell]] = []
    for index, player in enumerate(plan.players):
        row: list[Cell] = [player.name, words.weight(player.weight)]
        for axis, unit in zip(found.axes, units, strict=True):
            row += [_number(axis.shapley[index], unit), _number(axis.leave_one_out[index], unit)]
        rows.append(row)
    absent = (
        "shares of the others are renormalised"
        if plan.base is None
        else f"{plan.base} takes the weight of absent ones"
    )
    orders = (
        "all orders of joining"
        if plan.design.permutations is None
        else f"{plan.design.permutations} orders of joining"
    )
    left = len(rows) - MOST_PARENTS
    more = f" {left} more are not listed." if left > 0 else ""
    return Table(
        columns=columns,
        rows=rows[:MOST_PARENTS],
        title="Parents",
        note=f"{plan.split.capitalize()} split, {words.count(found.n)} items, {orders}; {absent}; "
        f"no parent at all: the {plan.empty}. Adds: Shapley value, which sum to all less none. "
        "Missed: what the whole merge would lose without this parent; of two that can stand in "
        f"for each other neither is. 95 % intervals over items.{more}",
    )


def _unit(material: Material, index: int) -> Unit:
    axis = material.study.spec.axes[index]
    text = axis.metric == "score" and material.study.form(axis.suite or "") == "text"
    return "nats change" if text else "points"


def _number(figure: Figure, unit: Unit) -> Number:
    return Number(value=figure.value, low=figure.low, high=figure.high, unit=unit)


def _kinship(material: Material) -> list[Block]:
    """Each parent's nearest relative, where it was measured."""
    found = kinship.known(material.database, material.study.pool)
    if found is None or len(found.names) < 2:
        return []
    rows: list[list[Cell]] = []
    for name, norm, nearest, cosine in nearest_relatives(found):
        rows.append([name, f"{norm:.3g}", nearest, f"{cosine:.2f}".replace("-", words.MINUS)])
    return [
        Table(
            columns=["checkpoint", "way from the base", "nearest relative", "cosine"],
            rows=rows,
            title="Kinship",
            note=f"Of task vectors, checkpoint less {found.base}: their L2 length, and which other "
            "points the same way. Near 1: stages of one run, or one recipe twice.",
        )
    ]


def nearest_relatives(found: PoolKinship) -> list[tuple[str, float, str, float]]:
    """(checkpoint, length, nearest relative, cosine), the nearest pairs first; those that are the
    base itself are left out."""
    rows = []
    for i, name in enumerate(found.names):
        others = [
            (float(found.kinship.cosine[i, j]), other)
            for j, other in enumerate(found.names)
            if j != i and not math.isnan(found.kinship.cosine[i, j])
        ]
        if others and found.kinship.norms[i] > 0:
            cosine, nearest = max(others)
            rows.append((name, float(found.kinship.norms[i]), nearest, cosine))
    return sorted(rows, key=lambda row: -row[3])
