"""`remelt study`: what a study holds, printed or written to files, and what a spec may say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from services.cli import front
from services.cli.context import open_database
from services.cli.cost_report import print_cost
from services.cli.output import json_option, print_json, print_table
from services.errors import BadInput
from services.spec import METHODS, StudySpec, spec_yaml
from services.studies import read, sealed
from services.studies.cost import of_study as cost_of
from services.studies.export import FORMATS, export_samples, export_study
from services.suites import SPLITS, Split


@click.command()
@click.argument("number", type=int)
@click.option("--out", type=click.Path(path_type=Path), help="Write to a file instead of stdout.")
@json_option
def clone(number: int, out: Path | None, as_json: bool) -> None:
    """Print the spec of study NUMBER as YAML: change it and submit it."""
    spec = read.get_study(open_database(), number).spec
    text = spec.model_dump_json(indent=2) + "\n" if as_json else spec_yaml(spec)
    _write(text.encode(), out)


@click.command()
@click.argument("number", type=int)
@json_option
def cost(number: int, as_json: bool) -> None:
    """What study NUMBER has cost: items, tokens, operations, seconds, memory, energy."""
    database = open_database()
    found = cost_of(database, read.get_study(database, number))
    if as_json:
        print_json(found.to_dict())
    else:
        print_cost(found)


@click.command()
@click.argument("number", type=int)
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    default="json",
    show_default=True,
    help="json: everything; csv, parquet: one row a trial; optuna: a journal file for Optuna; "
    "recipe, mergekit: the chosen candidate's YAML, of Remelt's or mergekit's.",
)
@click.option(
    "--lm-eval",
    "samples",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a trial's answers into DIR as lm-eval's sample logs, instead.",
)
@click.option("--trial", type=int, help="This trial instead of the chosen one.")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="validation",
    show_default=True,
    help="With --lm-eval: answers on this split; reading test is logged.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write to a file instead of stdout.")
def export(
    number: int,
    kind: str,
    samples: Path | None,
    trial: int | None,
    split: Split,
    out: Path | None,
) -> None:
    """Export study NUMBER."""
    if samples is not None:
        for path in export_samples(open_database(), number, samples, trial=trial, split=split):
            click.echo(f"wrote {path}")
        return
    if out is None and kind == "parquet" and sys.stdout.isatty():
        raise BadInput(f"{kind} is no text", where="export", mend="Give --out FILE")
    _write(export_study(open_database(), number, kind, trial=trial), out)


def _write(data: bytes, out: Path | None) -> None:
    if out is None:
        click.echo(data, nl=False)
    else:
        out.write_bytes(data)
        click.echo(f"wrote {out}")


@click.command()
@click.argument("number", type=int)
@json_option
def report(number: int, as_json: bool) -> None:
    """The sealed test split of finished study NUMBER. Each reading is logged."""
    database = open_database()
    found = sealed.final_report(database, number, purpose="remelt study report")
    elsewhere = sealed.opened_elsewhere(database, number)
    if as_json:
        data = [candidate.to_dict() for candidate in found]
        more = {"readings": sealed.readings(database, number), "opened_elsewhere": elsewhere}
        print_json({"candidates": data, **more})
        return
    front.print_candidates(database, number, found, title="test split (sealed until the choice)")
    click.echo(f"read {len(sealed.readings(database, number))} times, this reading included")
    if elsewhere:
        numbers = ", ".join(map(str, elsewhere))
        click.echo(f"the test split of these suites was also open to studies {numbers}")


@click.command()
def schema() -> None:
    """Print the JSON schema of a study spec."""
    click.echo(json.dumps(StudySpec.model_json_schema(), indent=2))


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the searchers that a spec may name, with their options."""
    if as_json:
        print_json(
            [
                {
                    "method": name,
                    "summary": kind.summary,
                    "options": {o.name: {"default": o.default, "doc": o.doc} for o in kind.options},
                }
                for name, kind in METHODS.items()
            ]
        )
        return
    print_table(
        ["method", "what it does", "options"],
        [
            (name, kind.summary, ", ".join(option.name for option in kind.options))
            for name, kind in METHODS.items()
        ],
    )
