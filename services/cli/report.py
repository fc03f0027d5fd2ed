"""`remelt report`: the page on which somebody decides about a deployment."""

from __future__ import annotations

from pathlib import Path

import click

from services import report as reports
from services.cli.context import open_database
from services.cli.output import json_option, print_json
from services.errors import BadInput


@click.command()
@click.argument("study", type=int)
@click.option("--candidate", type=int, metavar="TRIAL", help="This trial, not the chosen one.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for index.html and report.md.",
)
@click.option(
    "--sealed", is_flag=True, help="Leave the test split closed, and report the open splits."
)
@json_option
def report(study: int, candidate: int | None, out: Path, sealed: bool, as_json: bool) -> None:
    """Write the report of STUDY: what changes if its choice is deployed, and how sure that is.

    Reads the test split of a study that has made its choice; the reading is logged.
    """
    found = reports.build(
        open_database(), study, candidate=candidate, test=not sealed, purpose="remelt report"
    )
    try:
        written = reports.save(found, out)
    except OSError as error:
        raise BadInput("cannot be written", where=str(out), mend=str(error)) from error
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        click.echo(f"wrote {written[0]} and {written[1]}")
