"""`remelt study attribute` and `remelt study explore`: what a candidate owes to its parents, and
what lies around it."""

from __future__ import annotations

from typing import Any

import click

from services.cli.context import open_database
from services.cli.front import weights_text
from services.cli.output import json_option, print_json, print_table
from services.cli.watch import watch_probes
from services.errors import RemeltError
from services.studies import attribution, coalitions, probes, read
from services.studies import explore as exploring
from services.studies.attribution import Attribution, AxisFigures, Figure
from services.studies.explore import Explored
from services.studies.probes import Standing
from services.studies.record import Study

#: trials that failed and are named
SHOWN_FAILURES = 3

candidate_option = click.option(
    "--candidate", type=int, help="This trial instead of the chosen one."
)
split_option = click.option(
    "--split",
    type=click.Choice(probes.SPLITS),
    default="validation",
    show_default=True,
    help="Items that the merges are evaluated on; never those of the sealed test split.",
)
wait_option = click.option("--wait", is_flag=True, help="Wait for the merges, with a progress bar.")


@click.command()
@click.argument("number", type=int)
@candidate_option
@split_option
@click.option(
    "--permutations",
    type=click.IntRange(min=1),
    help="With more than 5 parents: orders of joining, rounded up to whole circles of 2 a parent. "
    "Two circles by default.",
)
@click.option(
    "--empty",
    type=click.Choice(["reference", "base", "uniform"]),
    help="What no parent is worth: the reference by default, or the base where there is one.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would cost, ask for nothing.")
@wait_option
@json_option
def attribute(
    number: int,
    candidate: int | None,
    split: Any,
    permutations: int | None,
    empty: Any,
    only_plan: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Say what each parent of a candidate of study NUMBER is worth to it.

    Asks for the merges of some of its parents that were not evaluated yet; run it again, or with
    --wait, for the figures.
    """
    database = open_database()
    study = read.get_study(database, number)
    made = coalitions.plan(
        database, study, candidate, split=split, empty=empty, permutations=permutations
    )
    if not only_plan:
        attribution.submit(database, study, made)
        if wait:
            watch_probes(database, study, made.merges, split, quiet=as_json)
    found = attribution.result(database, study, made)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_attribution(study, found)
    if wait:
        raise_for_failures(found.standing)


def _print_attribution(study: Study, found: Attribution) -> None:
    made, design = found.plan, found.plan.design
    orders = "all orders of joining"
    if design.permutations is not None:
        orders = f"{design.permutations} orders of joining"
    absent = (
        "shares of the others are renormalised"
        if made.base is None
        else f"{made.base} takes the weight of absent ones"
    )
    parents = "1 parent" if len(made.players) == 1 else f"{len(made.players)} parents"
    click.echo(
        f"trial {made.candidate} of study {study.id} on {made.split} ({found.n} items): "
        f"{parents}, {orders}; {absent}; no parent: the {made.empty}"
    )
    _print_standing(found.standing)
    for axis in found.axes:
        click.echo(_title(axis))
        print_table(
            ["parent", "weight", "left out, it loses", "Shapley value"],
            [
                (player.name, f"{player.weight:.2f}", _cell(without), _cell(shapley))
                for player, without, shapley in zip(
                    made.players, axis.leave_one_out, axis.shapley, strict=True
                )
            ],
        )
    click.echo(
        "Both in the objective's own unit, with 95 % intervals over items"
        + ("." if design.permutations is None else " and orders.")
        + " Shapley values add up to all less none. Of two parents that can stand in for each "
        "other neither is missed, and both have a value."
    )


def _title(axis: AxisFigures) -> str:
    better = "higher" if axis.direction == "maximize" else "lower"
    ends = ", ".join(
        f"{name} {'–' if value is None else f'{value:.3f}'}"
        for name, value in (("none", axis.empty), ("all", axis.all))
    )
    return f"{axis.name} ({better} is better): {ends}"


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:+.3f}"
    return f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]"


def _print_standing(standing: Standing) -> None:
    left = standing.total - standing.ended
    if left:
        click.echo(
            f"{standing.told} of {standing.total} merges evaluated, {left} to come: "
            "run it again, or with --wait"
        )
    for trial, what, why in standing.failed[:SHOWN_FAILURES]:
        click.echo(f"! trial {trial} ({what}) has no results: {why}")
    if len(standing.failed) > SHOWN_FAILURES:
        click.echo(f"! and {len(standing.failed) - SHOWN_FAILURES} more")


def raise_for_failures(standing: Standing) -> None:
    """Exit code 1 when merges ended without results."""
    if standing.failed:
        raise RemeltError(
            f"{len(standing.failed)} of {standing.total} merges have no results: "
            f"{standing.failed[0][2]}",
            mend="Run the command again to try them once more",
        )


@click.command()
@click.argument("number", type=int)
@candidate_option
@split_option
@click.option(
    "--moves", type=click.IntRange(1, exploring.MOST_MOVES), default=20, show_default=True,
    help="How many.",
)  # fmt: skip
@click.option(
    "--step", type=click.FloatRange(0, 1, min_open=True), default=exploring.STEP, show_default=True,
    help="Length of a move, as a share of the way from one checkpoint to another.",
)  # fmt: skip
@click.option(
    "--epsilon", type=click.FloatRange(min=0), default=exploring.EPSILON, show_default=True,
    help="A move is near when no objective is worse than the candidate's by more than this.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the directions.")
@wait_option
@json_option
def explore(
    number: int,
    candidate: int | None,
    split: Any,
    moves: int,
    step: float,
    epsilon: float,
    seed: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Look around a candidate of study NUMBER: small random moves of its weights.

    Says how many of them are about as good, and how many answers they change.
    """
    database = open_database()
    study = read.get_study(database, number)
    made = exploring.plan(
        database, study, candidate, moves=moves, step=step, split=split, seed=seed
    )
    exploring.submit(database, study, made)
    if wait:
        watch_probes(database, study, made.merges, split, quiet=as_json)
    found = exploring.result(database, study, made, epsilon=epsilon)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_explored(study, found)
    if wait:
        raise_for_failures(found.standing)


def _print_explored(study: Study, found: Explored) -> None:
    click.echo(
        f"around trial {found.candidate} of study {study.id} on {found.split} ({found.n} items): "
        f"moves of {found.step:g} of the way from one checkpoint to another"
    )
    _print_standing(found.standing)
    print_table(
        ["trial", *(a.label for a in study.spec.axes), "worse by", "near", "churn", "weights"],
        [
            (
                move.trial,
                *(f"{value:.3f}" for value in move.objectives),
                f"{move.worse:+.3f}",
                "yes" if move.near else "no",
                "–" if move.churn is None else f"{move.churn:.3f}",
                weights_text(study, move.weights),
            )
            for move in sorted(found.moves, key=lambda m: m.worse)
        ],
    )
    text = f"{found.near} of {len(found.moves)} moves stay within {found.epsilon:g}"
    if found.mean_churn is not None and found.n:
        text += (
            f"; between them and the candidate {100 * found.mean_churn:.1f} % of answers differ on "
            f"average, {100 * (found.largest_churn or 0):.1f} % at most; "
            f"{100 * (found.ambiguity or 0):.1f} % of items depend on which of them is deployed"
        )
    click.echo(text + ".")
