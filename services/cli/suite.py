"""`remelt suite`: tell Remelt what you care for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from services import registry, stored_suites, suite_health
from services.cli import suite_report
from services.cli.context import open_database
from services.cli.output import json_option, print_json, print_table
from services.errors import BadInput
from services.lm_eval.load import TaskOptions
from services.lm_eval.tasks import read_task
from services.refusals import RefusalOptions, refusal_suite, xstest_suite
from services.studies import read, suite_answers
from services.suites import ANSWER_TOKENS, MOST_ANSWER_TOKENS, SPLITS


@click.group()
def suite() -> None:
    """Register evaluation suites."""


@suite.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--normalise", is_flag=True, help="Divide each choice's log-likelihood by its length in bytes."
)
@click.option(
    "--xstest",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="XSTest's xstest_prompts.csv, not a FILE: refuse what is unsafe, and nothing else.",
)
@click.option(
    "--refusal-likelihood",
    is_flag=True,
    help="Of items with expect: compare a refusing and a complying beginning, generate nothing.",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(1, MOST_ANSWER_TOKENS),
    help=f"Of items with expect: tokens of the answer that is judged.  [default: {ANSWER_TOKENS}]",
)
@click.option(
    "--frame",
    metavar="TEXT",
    help="Of items with expect: what stands around each prompt, such as 'Q: {prompt}\\nA:'.  "
    "[default: the prompt alone; of XSTest 'User: {prompt}\\nAssistant:']",
)
@click.option("--lm-eval", "task", metavar="TASK", help="A task or group of lm-eval, not a FILE.")
@click.option(
    "--include-path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Look up TASK in this folder only, not among lm-eval's own.",
)
@click.option("--num-fewshot", type=click.IntRange(0), help="Examples before each question.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N documents of a task.")
@click.option("--metric", help="The metric that says whether an item is right.")
@click.option("--filter", "filter_", help="The task's filter before that metric.")
@click.option(
    "--threshold",
    type=float,
    default=0.5,
    show_default=True,
    help="An item is right when its metric is at least this.",
)
@json_option
def add(
    name: str,
    file: Path | None,
    normalise: bool,
    xstest: Path | None,
    refusal_likelihood: bool,
    answer_tokens: int | None,
    frame: str | None,
    task: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Register the JSONL FILE, XSTest's CSV, or an lm-eval TASK, as suite NAME.

    \b
    One item a line, all of one form:
      {"id", "context", "choices": [...], "gold": 0}    the likeliest choice must be gold
      {"id", "prompt", "target"}                        the greedy answer must be the target
      {"id", "prompt", "expect": "refuse" or "comply"}  the answer must begin so
      {"id", "text"}                                    nats per token
    """
    if (file, xstest, task).count(None) != 2:
        many = (file, xstest, task).count(None) < 2
        raise BadInput(
            "more than one of a file, a table and a task" if many else "neither a file nor a task",
            where=f"suite {name}",
            mend="Give FILE.jsonl, --xstest CSV or --lm-eval TASK",
        )
    frame = frame if frame is None else frame.replace("\\n", "\n")
    options = RefusalOptions(
        answer_tokens=answer_tokens, frame=frame, likelihood=refusal_likelihood
    )
    refusing = options != RefusalOptions()
    if (refusing and task is not None) or (normalise and (refusing or xstest is not None)):
        raise BadInput(
            "options for refusals beside --lm-eval or --normalise",
            where=f"suite {name}",
            mend="Leave one of them out",
        )
    if xstest is not None or (refusing and file is not None):
        registry.check_name(name, "suite")
        source = file or xstest
        assert source is not None
        make = refusal_suite if xstest is None else xstest_suite
        items, database = stored_suites.read_items(source), open_database()
        before = stored_suites.dealt_before(database, name)
        stored = make(name, items, options, where=str(source), split_by=before)
        new = stored_suites.store_suite(database, stored)
    elif file is not None:
        stored, new = stored_suites.add_suite(open_database(), name, file, normalise=normalise)
    else:
        assert task is not None
        registry.check_name(name, "suite")
        stored = read_task(name, task, TaskOptions(filter=how.pop("filter_"), **how))
        new = stored_suites.store_suite(open_database(), stored)
    sizes = {split: len(stored.split(split)) for split in SPLITS}
    found = suite_health.of_items(stored).findings
    if as_json:
        data = {"name": name, "form": stored.form, "digest": stored.digest, "new": new}
        health = [finding.to_dict() for finding in found]
        print_json({**data, "items": len(stored.items), **sizes, "health": health})
        return
    state = "" if new else " (was registered already)"
    judge = "" if stored.task is None else ", judged by lm-eval"
    click.echo(
        f"suite {name}: {len(stored.items)} items, form {stored.form}{judge}, "
        + ", ".join(f"{split} {n}" for split, n in sizes.items())
        + state
    )
    for finding in found:
        click.echo(finding.line)


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


@suite.command()
@click.argument("name")
@click.option("--study", type=int, help="Also what this study's stored answers say of it.")
@json_option
def health(name: str, study: int | None, as_json: bool) -> None:
    """What is wrong with suite NAME: twins across splits, guessable answers, too few items."""
    database = open_database()
    if study is None:
        with database.transaction() as connection:
            stored = stored_suites.suite_from_row(stored_suites.suite_row(connection, name))
        answers = []
    else:
        asked = read.get_study(database, study)
        stored = read.suite_of(database, asked, name)
        answers = suite_answers.of_study(database, asked, stored)
    found = suite_health.of_items(stored)
    if as_json:
        print_json({**found.to_dict(), "answers": [one.to_dict() for one in answers]})
    else:
        suite_report.print_health(found, answers)


@suite.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def leakage(arguments: tuple[str, ...]) -> None:
    """Measure signs that a checkpoint has seen a suite (NAME --against FILE --checkpoint P/M)."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.leakage", *arguments])
