"""Printing what a study has cost."""

from __future__ import annotations

import click

from services.cli.front import saved
from services.cli.output import print_table
from services.studies.cost import Part, StudyCost
from services.words import count

#: in the order in which they come; forward passes lie inside score
_PHASES = "form compile score forward digest descend"
_UNITS = ("", "k", "M", "G", "T", "P", "E")


def print_cost(found: StudyCost) -> None:
    """A line for each part of the work, then what holds for all of it."""
    rows = [_row(name, part) for name, part in found.parts.items() if part.started]
    columns = ["part", "started", "finished", "stopped", "failed", "item evaluations", "tokens"]
    columns += ["FLOPs", "seconds"]
    print_table(
        columns, [*rows, _row("all", found.total)], title=f"cost of study {found.study}"
    )  # fmt: skip
    if phases := found.total.phases:
        named = sorted(phases, key=lambda name: (name not in _PHASES, _PHASES.find(name)))
        parts = ", ".join(f"{name} {phases[name]:.1f}" for name in named)
        click.echo(f"seconds in engines: {parts}")
    if found.total.peak_memory_bytes is not None:
        click.echo(f"most memory of an engine: {count(found.total.peak_memory_bytes / 2**20)} MiB")
    if found.total.retries:
        click.echo(f"{found.total.retries} attempts were cut short and repeated; not counted here")
    if found.racing is not None:
        click.echo(saved(found.racing))
    energy = found.total.energy
    if energy is None:
        click.echo("energy: not measured (REMELT_CARBON_COUNTRY)")
    else:
        click.echo(
            f"energy: {1000 * energy.kwh:.3g} Wh, {energy.gco2e:.3g} gCO2e, measured in "
            f"{energy.measured} of {energy.ended} ({'; '.join(energy.how)}; "
            f"{'; '.join(energy.sources)})"
        )


def _row(name: str, part: Part) -> list[str]:
    return [
        name,
        *map(str, (part.started, part.finished, part.stopped, part.failed)),
        count(part.items),
        _short(part.tokens),
        _short(part.flops),
        f"{part.worker_seconds:.1f}",
    ]


def _short(number: float) -> str:
    """Three digits and a unit: 12.3 M."""
    step = 0
    while number >= 1000 and step + 1 < len(_UNITS):
        number, step = number / 1000, step + 1
    return f"{number:.3g} {_UNITS[step]}".strip()
