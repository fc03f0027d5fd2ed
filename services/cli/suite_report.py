"""Printing the health of a suite: findings first, then the figures that they come from."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.markup import escape

from optim.suite_answers import Leaning
from optim.twins import GRAM
from services.cli.output import interval, print_table
from services.studies.suite_answers import SuiteAnswers
from services.suite_health import DISCORDANT, SuiteHealth
from services.suites import SPLITS

#: twins and items to review that are listed; the JSON has all
LISTED = 10
#: characters of a prompt
SHOWN = 60
_GUESSERS = {
    "position": "the commonest position", "option": "the commonest answer",
    "longest": "the longest option", "shortest": "the shortest option",
    "bayes": "words of the options (naive Bayes)",
}  # fmt: skip


def print_health(health: SuiteHealth, answers: Sequence[SuiteAnswers]) -> None:
    """Everything about one suite."""
    sizes = ", ".join(f"{split} {n}" for split, n in health.items.items())
    click.echo(f"suite {health.suite}: form {health.form}; {sizes}; digest {health.digest[:12]}")
    for finding in health.findings:
        click.echo(finding.line)
    if not health.findings:
        click.echo("nothing is wrong with its items")
    _print_twins(health)
    _print_guessers(health)
    if health.form != "text":
        _print_detectable("if models differ in", DISCORDANT, health.detectable)
    for one in answers:
        _print_answers(one)


def _print_twins(health: SuiteHealth) -> None:
    if not health.twins:
        return
    across = sorted(health.twins, key=lambda twin: (twin.splits[0] == twin.splits[1], twin.items))
    print_table(
        ["item", "split", "item", "split", "in common"],
        [
            (
                escape(twin.items[0]),
                twin.splits[0],
                escape(twin.items[1]),
                twin.splits[1],
                ("all, but the gold" if twin.conflict else "all")
                if twin.whole
                else f"{GRAM} words",
            )
            for twin in across[:LISTED]
        ],
        title=f"twins ({len(health.twins)} pairs)",
    )


def _print_guessers(health: SuiteHealth) -> None:
    if health.chance is None:
        return
    rows = [("at random", f"{health.chance:.3f}", "")]
    for one in health.guessers:
        low, high = one.interval
        what = _GUESSERS[one.kind] + (f": {escape(one.what)}" if one.what else "")
        rows.append((what, interval(one.share, low, high), str(one.n)))
    print_table(["right without the question", "accuracy [95 %]", "items"], rows)
    if health.spread is not None:
        counts = ", ".join(map(str, health.spread.counts))
        even = "" if health.spread.p is None else f" (even by chance: p = {health.spread.p:.2g})"
        click.echo(f"golds by position: {counts}{even}")


def _print_detectable(why: str, share: float, detectable: dict[str, float | None]) -> None:
    least = ", ".join(
        f"{split} {'none' if detectable[split] is None else f'{detectable[split]:.3f}'}"
        for split in SPLITS
    )
    click.echo(f"smallest difference shown, {why} {100 * share:.1f} % of the items: {least}")


def _print_answers(one: SuiteAnswers) -> None:
    click.echo(
        f"\n{one.split}: {one.models} models on {one.n} items; "
        f"{len(one.saturated)} items all have right, {len(one.hopeless)} all have wrong"
    )
    if one.discordant is not None:
        _print_detectable("as two models differ in", one.discordant, one.detectable)
    for label, found in one.leanings.items():
        click.echo(f"positions chosen by {label}: {_leaning(found)}")
    if one.review:
        print_table(
            ["item", "prompt", "gold", "answered", "agree", "sure"],
            [
                (
                    escape(r.item),
                    _short(r.prompt),
                    _short(r.gold),
                    _short(r.answer),
                    f"{r.agree} of {r.of}",
                    f"{r.sure:.2f}",
                )
                for r in one.review[:LISTED]
            ],
            title=f"golds to review: missed by {', '.join(one.strong)}",
        )


def _leaning(found: Leaning) -> str:
    p = "" if found.p is None else f" (alike: p = {found.p:.2g})"
    return f"{', '.join(map(str, found.chosen))}; golds {', '.join(map(str, found.gold))}{p}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= SHOWN else f"…{line[-SHOWN:]}")
