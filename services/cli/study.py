"""`remelt study`: submit, watch and steer studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from services.cli import front, judging, reading
from services.cli.context import open_database
from services.cli.output import json_option, print_json, print_table
from services.cli.watch import watch
from services.db import Row
from services.errors import BadInput, NoFeasibleCandidate, RemeltError
from services.spec import load_spec
from services.studies import control, probes, read
from services.studies.preflight import Preflight, preflight
from services.studies.submit import submit as submit_study
from services.words import count


@click.group()
def study() -> None:
    """Search a pool for better merges."""


@study.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", help="Submitting again with the same key returns the same study.")
@click.option("--wait", is_flag=True, help="Wait until it ends, with a progress bar.")
@click.option("--owner", default=None, help="Who asks; your login name by default.")
@click.option("--dry-run", is_flag=True, help="Check it and say what it would cost; store nothing.")
@json_option
def submit(
    file: Path, key: str | None, wait: bool, owner: str | None, dry_run: bool, as_json: bool
) -> None:
    """Submit the study that FILE (YAML or JSON) describes."""
    spec = load_spec(file)
    database = open_database()
    if dry_run:
        _print_preflight(preflight(database, spec), as_json=as_json)
        return
    made = submit_study(database, spec, key=key, owner=owner)
    if wait:
        watch(database, made.study, quiet=as_json)
    if as_json:
        print_json({"study": made.study, "created": made.created, **_summary(made.study)})
    else:
        state = "submitted" if made.created else "was submitted before with this key"
        click.echo(f"study {made.study} ({spec.name}) {state}")
        if wait:
            front.print_front(database, made.study)
        else:
            click.echo(f"watch it: remelt study show {made.study} --wait")
    if wait:
        raise_for_end(made.study)


def _print_preflight(found: Preflight, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    print_table(
        ["suite", "form", "search", "validation", "test"],
        found.suites,
        title=f"{found.checkpoints} checkpoints of {count(found.parameters)} parameters, "
        f"reference {found.reference}",
    )
    click.echo(
        f"{found.baselines} baselines, up to {found.greedy} greedy soups, at most "
        f"{found.candidates} candidates with {found.free} free weights\n"
        f"search: at most {count(found.items_search)} item evaluations, about "
        f"{count(found.tokens_search)} tokens ({found.tokens_how})\n"
        f"validation and test: at most {count(found.items_finals)} item evaluations more\n"
        "nothing was stored"
    )


@study.command("list")
@click.option("--archived", is_flag=True, help="Archived ones too.")
@json_option
def list_(archived: bool, as_json: bool) -> None:
    """List studies, newest first."""
    found = read.list_studies(open_database(), archived=archived)
    if as_json:
        print_json(found)
        return
    print_table(
        ["study", "name", "state", "phase", "pool", "done", "budget", "failed", "created"],
        [
            (
                s["id"],
                s["name"],
                s["state"],
                s["phase"],
                s["pool"],
                s["complete"] + s["stopped"],
                s["budget"],
                s["failed"],
                s["created_at"].strftime("%Y-%m-%d %H:%M"),
            )
            for s in found
        ],
    )


@study.command()
@click.argument("number", type=int)
@click.option("--wait", is_flag=True, help="Wait until it ends, with a progress bar.")
@json_option
def show(number: int, wait: bool, as_json: bool) -> None:
    """Show study NUMBER: its state, its front and its baselines."""
    database = open_database()
    if wait:
        watch(database, number, quiet=as_json)
    if as_json:
        asked = probes.counts(database, number)
        print_json({**_summary(number), **front.front_data(database, number), "probes": asked})
    else:
        front.print_front(database, number)
        _print_probes(probes.counts(database, number))
    if wait:
        raise_for_end(number)


def _print_probes(counts: Sequence[Row]) -> None:
    """What was asked for after the choice, in one line."""
    if counts:
        states = ", ".join(f"{c['n']} {c['state']} on {c['split']}" for c in counts)
        click.echo(f"probes{' (paused)' if counts[0]['held'] else ''}: {states}")


def _summary(number: int) -> dict[str, Any]:
    return dict(read.study_summary(open_database(), number))


def raise_for_end(number: int) -> None:
    """Exit code 1 for a failed or cancelled study, 3 for one without a feasible candidate."""
    found = _summary(number)
    if found["state"] != "finished":
        raise RemeltError(
            f"study {number} {found['state']}: {found['failure'] or 'no reason given'}"
        )
    if found["chosen"] is None:
        raise NoFeasibleCandidate(
            f"study {number} finished, but no candidate meets its constraints",
            mend="Loosen a constraint, or add checkpoints to the pool",
        )


def _control(name: str, action: Any, help_: str) -> None:
    @study.command(name, help=help_)
    @click.argument("number", type=int)
    @json_option
    def command(number: int, as_json: bool) -> None:
        action(open_database(), number)
        if as_json:
            print_json(_summary(number))
        else:
            click.echo(f"study {number}: {_summary(number)['state']}")


_control("pause", control.pause, "Hand out no more candidates of study NUMBER.")
_control("cancel", control.cancel, "End study NUMBER now, keeping what it found.")
_control("archive", control.archive, "Hide the ended study NUMBER from the list.")
_control("unarchive", control.unarchive, "Show the archived study NUMBER in the list again.")


@study.command()
@click.argument("number", type=int)
@click.option(
    "--again",
    type=click.Choice(list(control.AGAIN)),
    default="unfinished",
    show_default=True,
    help="unfinished: what was not evaluated; failed: also what was given up after too many "
    "tries; all: also what failed for a reason of its own.",
)
@json_option
def resume(number: int, again: control.Again, as_json: bool) -> None:
    """Go on with the paused, or failed, study NUMBER."""
    retried = control.resume(open_database(), number, again)
    if as_json:
        print_json({**_summary(number), "tried_again": retried})
        return
    more = f", {retried} evaluations tried again" if retried else ""
    click.echo(f"study {number}: {_summary(number)['state']}{more}")


@study.command()
@click.argument("number", type=int)
@click.option("--trials", type=int, help="Candidates.")
@click.option("--item-evaluations", help="Items scored on the search split, or none.")
@click.option("--wall-minutes", help="Minutes since it was submitted, or none.")
@click.option("--parallelism", type=int, help="Candidates handed out at a time.")
@json_option
def edit(number: int, as_json: bool, **given: Any) -> None:
    """Change the budget or parallelism of study NUMBER while it searches."""
    changes = {k: None if v == "none" else v for k, v in given.items() if v is not None}
    if not changes:
        raise BadInput("nothing to change", where=f"study {number}", mend="Name an option")
    control.edit(open_database(), number, changes)
    if as_json:
        print_json(_summary(number))
    else:
        click.echo(f"study {number}: {', '.join(_summary(number)['used'])}")


for command in (
    reading.clone,
    reading.cost,
    reading.export,
    reading.report,
    reading.schema,
    reading.methods,
    judging.compare,
    judging.multiplicity_,
):
    study.add_command(command)
