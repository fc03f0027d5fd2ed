"""`remelt study compare` and `remelt study multiplicity`: candidates against one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import click
from rich.markup import escape

from optim.agreement import Agreement
from services.cli.context import open_database
from services.cli.output import interval, json_option, print_json, print_table
from services.studies import judge, read
from services.studies.figures import Against, Figures
from services.studies.judge import Comparison, Judgement, Side
from services.studies.multiplicity import Multiplicity, multiplicity
from services.studies.read import OpenSplit
from services.studies.tell import ALL, Value
from services.studies.unstable import UnstableItem

#: rates that a table shows; the others are these under another name (all stand in the JSON)
SHOWN_RATES = {
    "negative_flip_rate": "negative flips",
    "positive_flip_rate": "positive flips",
    "churn": "churn",
    "inconsistency": "inconsistency",
    "win_loss_ratio": "win-loss ratio",
    "relative_negative_flip_rate": "relative negative flips",
    "backward_trust": "backward trust",
    "backward_error": "backward error",
    "negative_flip_impact": "negative flip impact",
    "positive_flip_impact": "positive flip impact",
}
#: unstable items that a table shows, and letters of a prompt
SHOWN_ITEMS, SHOWN_LETTERS = 15, 60

split_option = click.option(
    "--split",
    type=click.Choice(["search", "validation"]),
    help="Answers on this split; validation by default, where it has been scored.",
)


@click.command()
@click.argument("number", type=int)
@click.argument("old", type=int)
@click.argument("new", type=int)
@click.option(
    "--with", "other", type=int, metavar="STUDY", help="NEW is a trial of this study, not NUMBER."
)
@split_option
@json_option
def compare(
    number: int, old: int, new: int, other: int | None, split: str | None, as_json: bool
) -> None:
    """Compare trial NEW with trial OLD of study NUMBER, item by item."""
    database = open_database()
    found = judge.compare(
        database,
        read.get_study(database, number),
        old,
        new,
        other=None if other is None else read.get_study(database, other),
        split=cast(OpenSplit | None, split),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        _print_comparison(found)


@click.command("multiplicity")
@click.argument("number", type=int)
@click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    help="At most so much worse than the best; the spec's judging.epsilon by default.",
)
@split_option
@click.option(
    "--items",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Unstable items in the JSON, at most.",
)
@json_option
def multiplicity_(
    number: int, epsilon: float | None, split: str | None, items: int, as_json: bool
) -> None:
    """What the near-best candidates of study NUMBER answer differently."""
    database = open_database()
    study = read.get_study(database, number)
    chosen = cast(OpenSplit | None, split)
    found = multiplicity(database, study, epsilon=epsilon, split=chosen, most_items=items)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_multiplicity(found)


def _print_comparison(found: Comparison) -> None:
    shown = found.judgements
    several = len({side.study for side in (found.old, found.new)}) > 1
    new, old = _side(found.new, several), _side(found.old, several)
    study = "" if several else f", study {found.old.study}"
    print_table(
        ["metric", *(j.suite or "all" for j in shown)],
        [[label, *(cell(j) for j in shown)] for label, cell in _rows(shown)],
        title=f"{new} against {old}{study}, {found.split} split",
    )
    click.echo("95 % intervals below the values. McNemar: two-sided exact p-value of the flips.")
    for j in shown:
        if j.clusters is not None:
            what = f"{j.suite}: " if j.suite else "all suites: "
            click.echo(f"{what}{j.n} items in {j.clusters} clusters, which are counted as such")
    if found.left_out:
        click.echo(f"only in one of the studies, left out: {', '.join(found.left_out)}")


def _side(side: Side, several: bool) -> str:
    label = "" if side.role == "search" else f" ({escape(side.label)})"
    return f"trial {side.trial}{label}" + (f" of study {side.study}" if several else "")


def _rows(shown: Sequence[Judgement]) -> list[tuple[str, Callable[[Judgement], str]]]:
    rows: list[tuple[str, Callable[[Judgement], str]]] = [
        ("items", lambda j: str(j.n)),
        ("score, old", lambda j: _cell(j.old)),
        ("score, new", lambda j: _cell(j.new)),
        ("difference", lambda j: _cell(j.difference)),
    ]
    for name, label in SHOWN_RATES.items():
        rows.append((label, lambda j, name=name: _cell(j.rates.get(name))))  # type: ignore[misc]
    rows.append(("McNemar", lambda j: "–" if j.mcnemar is None else f"p = {j.mcnemar:.2g}"))
    hows = dict.fromkeys(floor["how"] for j in shown for floor in j.noise)
    for how in hows:
        rows.append((f"noise floor, churn {how}", lambda j, how=how: _floor(j, how)))  # type: ignore[misc]
    rows.append(("CAPA", lambda j: _agreement(j.capa)))
    rows.append(("error consistency", lambda j: _agreement(j.error_consistency)))
    texts = next((j.texts for j in shown if j.texts is not None), None)
    if texts is not None:
        score = f"{texts.score}, τ = {texts.tolerance:g}"
        rows += [
            (f"better answers ({score})", lambda j: _of_texts(j, "positive_flip_rate")),
            (f"worse answers ({score})", lambda j: _of_texts(j, "negative_flip_rate")),
            ("mean gain", lambda j: _of_texts(j, "mean_gain")),
            ("mean regression", lambda j: _of_texts(j, "mean_regression")),
        ]
    return rows


def _cell(value: Value | None) -> str:
    return "–" if value is None else interval(value.value, value.low, value.high)


def _bare(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _agreement(found: Agreement | None) -> str:
    return "–" if found is None else interval(found.value, found.low, found.high)


def _of_texts(judgement: Judgement, name: str) -> str:
    value = getattr(judgement.texts, name, None)
    return _cell(value) if isinstance(value, Value) else _bare(value)


def _floor(judgement: Judgement, how: str) -> str:
    floor = next((f["churn"] for f in judgement.noise if f["how"] == how), None)
    return "–" if floor is None else interval(floor["value"], floor["low"], floor["high"])


def _print_multiplicity(found: Multiplicity) -> None:
    count = len(found.members)
    click.echo(
        f"study {found.study}, {found.split} split: {count} of {found.candidates} feasible "
        f"candidates are within {found.epsilon:g} of the best (trial {found.best}) in {found.by}: "
        f"{', '.join(map(str, found.members))}"
    )
    if found.typical is not None:
        least = min(found.mean_churn)
        click.echo(f"most typical: trial {found.typical}, {least:.3f} churn to another, on average")
    if found.beyond:
        click.echo(f"{found.beyond} more are left out")
    print_table(
        [
            "suite", "items", "two differ", "ambiguity\nreference", "discrepancy\nreference",
            "ambiguity\nchosen", "discrepancy\nchosen", "range of gold\nmean, largest",
            "capacity\nmean, largest", "abstains", "right where\nit answers",
        ],
        [_figures(f) for f in found.figures],
        title=f"what they answer differently; reference: trial {found.reference}, "
        f"chosen: trial {found.chosen}",
    )  # fmt: skip
    click.echo(
        "Two differ: items that two members, drawn at random, answer differently. Ambiguity: items "
        "that some member\nanswers otherwise. Discrepancy: those of the member that is farthest "
        "off, at most its bound 2·error + ε.\nCapacity: 2^C, of 1 to the number of options."
    )
    if count < found.fewest_members:
        click.echo(
            f"Selective prediction: {count} members always abstain at α = {found.alpha:g}; at "
            f"least {found.fewest_members} are needed."
        )
    if found.optimism is not None:
        click.echo(found.optimism.line)
    if found.unstable:
        print_table(
            ["suite", "item", "prompt", "gold", "answers", "minority", "range", "capacity"],
            [_unstable(item) for item in found.unstable[:SHOWN_ITEMS]],
            title=f"least certain of {found.unstable_count} items that members answer differently",
        )


def _figures(f: Figures) -> list[str]:
    return [
        "all" if f.suite == ALL else f.suite,
        str(f.n),
        _cell(f.expected_churn),
        _cell(f.reference.ambiguity),
        _discrepancy(f.reference),
        _cell(f.chosen.ambiguity),
        _discrepancy(f.chosen),
        _pair(f.viable_range, f.widest_range),
        _pair(f.capacity, f.largest_capacity),
        _cell(f.abstention),
        _cell(f.answered_accuracy),
    ]


def _discrepancy(against: Against) -> str:
    return f"{_cell(against.discrepancy)}\n≤ {against.bound:.3f}"


def _pair(mean: float | None, largest: float | None) -> str:
    return "–" if mean is None or largest is None else f"{mean:.3f}\n{largest:.3f}"


def _unstable(item: UnstableItem) -> list[str]:
    answers = ", ".join(f"{_short(text, 20)} ×{n}" for text, n in item.answers[:4])
    return [
        item.suite, escape(item.item), _short(item.prompt), _short(item.gold, 20), answers,
        f"{item.minority:.2f}", _bare(item.viable_range), _bare(item.capacity),
    ]  # fmt: skip


def _short(text: str, letters: int = SHOWN_LETTERS) -> str:
    """One line of what may be anything: no markup, no control characters."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return escape(line if len(line) <= letters else f"{line[: letters - 1]}…")
