"""`remelt cast`, `publish` and `pull`: from a trial to a checkpoint somebody can load."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from services import artefacts
from services.cli.context import open_database
from services.cli.output import json_option, print_json, progress_bar
from services.errors import Unavailable
from services.settings import settings


@click.command()
@click.argument("study", type=int)
@click.argument("trial", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def cast(study: int, trial: int, folder: Path, quiet: bool, as_json: bool) -> None:
    """Write TRIAL of STUDY to FOLDER, in Hugging Face layout, checked bit for bit."""
    database = open_database()
    with database.transaction() as connection:
        row = artefacts.trial_id(connection, study, trial)
    with progress_bar(quiet=quiet or as_json) as bar:
        task = bar.add_task("casting", total=None)
        made = artefacts.cast_trial(
            database,
            settings(),
            row,
            folder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"path": str(folder), "digest": made.digest})
    elif not quiet:
        click.echo(f"cast to {folder}\ndigest {made.digest}")


@click.command()
@click.argument("study", type=int)
@click.argument("trial", type=int)
@json_option
def publish(study: int, trial: int, as_json: bool) -> None:
    """Cast TRIAL of STUDY and publish it in the store."""
    database, config = open_database(), settings()
    with database.transaction() as connection:
        row = artefacts.trial_id(connection, study, trial)
        artefact = artefacts.ask(connection, study, trial)
    worker = f"cli:{getpass.getuser()}"
    artefacts.publish_artefact(database, config, artefact, worker)
    with database.transaction() as connection:
        state, error = artefacts.artefact_state(connection, row)
    if state != "published":
        raise Unavailable(
            f"the artefact is {state}{f' ({error})' if error else ''}",
            where=f"study {study} trial {trial}",
            mend="A worker may be publishing it right now; try again in a moment",
        )
    url, digest = artefacts.resolve(database, config, f"{study}/{trial}")
    if as_json:
        print_json({"store": url, "digest": digest, "reference": f"{study}/{trial}"})
    else:
        click.echo(f"published to {url}\ndigest {digest}\npull it: remelt pull {study}/{trial} DIR")


@click.command()
@click.argument("reference")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def pull(reference: str, folder: Path, as_json: bool) -> None:
    """Fetch a published checkpoint (STUDY/TRIAL, or its digest) to FOLDER, every file verified."""
    database = open_database() if "/" in reference else None
    with progress_bar(quiet=as_json) as bar:
        task = bar.add_task("pulling", total=None)
        digest = artefacts.pull(
            database,
            settings(),
            reference,
            folder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"path": str(folder), "digest": digest})
    else:
        click.echo(
            f"pulled to {folder}\nload it: AutoModelForCausalLM.from_pretrained({str(folder)!r})"
        )
