"""`remelt suite`: tell Remelt what you care for."""

from __future__ import annotations

from pathlib import Path

import click

from services import registry
from services.cli.context import open_database
from services.cli.output import json_option, print_json, print_table


@click.group()
def suite() -> None:
    """Register evaluation suites."""


@suite.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--normalise", is_flag=True, help="Divide each choice's log-likelihood by its length."
)
@json_option
def add(name: str, file: Path, normalise: bool, as_json: bool) -> None:
    """Register the JSONL FILE as suite NAME.

    \b
    One item a line, all of one form:
      {"id", "context", "choices": [...], "gold": 0}    the likeliest choice must be gold
      {"id", "prompt", "target"}                        the greedy answer must be the target
      {"id", "text"}                                    nats per token
    """
    stored, new = registry.add_suite(open_database(), name, file, normalise=normalise)
    sizes = {split: len(stored.split(split)) for split in ("search", "validation", "test")}
    if as_json:
        data = {"name": name, "form": stored.form, "digest": stored.digest, "new": new}
        print_json({**data, "items": len(stored.items), **sizes})
        return
    state = "" if new else " (was registered already)"
    click.echo(
        f"suite {name}: {len(stored.items)} items, form {stored.form}, "
        + ", ".join(f"{split} {n}" for split, n in sizes.items())
        + state
    )


@suite.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List suites (the newest content of each name)."""
    found = open_database().rows("registry.suites")
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "form", "items", "search", "validation", "test", "digest"],
        [
            (
                s["name"],
                s["form"],
                s["items"],
                s["search_items"],
                s["validation_items"],
                s["test_items"],
                s["digest"][:12],
            )
            for s in found
        ],
    )
