"""`remelt pool`: tell Remelt which checkpoints can be merged."""

from __future__ import annotations

import click
from rich.progress import TaskID

from services import kinship as kinship_of
from services import registry
from services.cli.context import open_database
from services.cli.output import json_option, print_json, print_table, progress_bar
from services.settings import settings
from services.words import count


@click.group()
def pool() -> None:
    """Register checkpoints that can be merged."""


@pool.command()
@click.argument("name")
@click.argument("checkpoints", nargs=-1, required=True)
@click.option("--reference", required=True, help="The checkpoint that is deployed today.")
@json_option
def add(name: str, checkpoints: tuple[str, ...], reference: str, as_json: bool) -> None:
    """Register CHECKPOINTS (folders, s3://bucket/prefix, or name=location) as pool NAME."""
    database = open_database()
    with progress_bar(quiet=as_json) as bar:
        tasks: dict[str, int] = {}

        def tick(member: str, done: int, total: int) -> None:
            if member not in tasks:
                tasks[member] = bar.add_task(f"reading {member}", total=total)
            bar.update(tasks[member], completed=done)  # type: ignore[arg-type]

        made = registry.add_pool(
            database, settings(), name, checkpoints, reference=reference, progress=tick
        )
    if as_json:
        print_json(_describe(made))
    else:
        click.echo(
            f"pool {made.name}: {len(made.members)} checkpoints of "
            f"{count(made.members[0].parameters)} parameters, reference {made.reference}"
        )


@pool.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List pools."""
    found = open_database().rows("registry.pools")
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "checkpoints", "parameters", "dtype", "reference"],
        [
            (p["name"], p["checkpoints"], count(p["parameters"]), p["dtype"], p["reference"])
            for p in found
        ],
    )


@pool.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the checkpoints of pool NAME."""
    with open_database().transaction() as connection:
        found = registry.pool(connection, name)
    if as_json:
        print_json(_describe(found))
        return
    print_table(
        ["checkpoint", "digest", "location"],
        [
            (m.name + (" *" if m.name == found.reference else ""), m.digest[:12], m.uri)
            for m in found.members
        ],
        title=f"pool {name}   (* reference)",
    )


@pool.command()
@click.argument("name")
@click.option("--base", help="Task vectors are differences from it; the reference by default.")
@click.option(
    "--measure",
    type=click.Choice(["cosine", "pearson", "l2"]),
    default="cosine",
    show_default=True,
    help="What the table shows; --json has all.",
)
@json_option
def kinship(name: str, base: str | None, measure: str, as_json: bool) -> None:
    """Show how alike the checkpoints of pool NAME are, as differences from a base."""
    database = open_database()
    with progress_bar(quiet=as_json) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        found = kinship_of.of_pool(database, settings(), name, base=base, progress=tick)
    data = found.to_dict()
    if as_json:
        print_json(data)
        return
    shown = [
        [member, _number(norm), *map(_number, row)]
        for member, norm, row in zip(found.names, data["norm"], data[measure], strict=True)
    ]
    click.echo(f"kinship in pool {name}: {measure} of task vectors from {found.base} (2410.12613)")
    print_table(
        ["checkpoint", "norm", *(str(i) for i in range(1, len(found.names) + 1))],
        [[f"{i} {row[0]}", *row[1:]] for i, row in enumerate(shown, start=1)],
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _describe(found: registry.Pool) -> dict[str, object]:
    return {
        "name": found.name,
        "reference": found.reference,
        "dtype": found.dtype,
        "checkpoints": [
            {"name": m.name, "digest": m.digest, "uri": m.uri, "parameters": m.parameters}
            for m in found.members
        ],
    }
