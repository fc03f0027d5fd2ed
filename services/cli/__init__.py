"""The command line: `remelt`. Each command does one thing over `services` and prints it.

Exit codes: 0 done, 1 failed, 2 bad input, 3 finished without a feasible candidate.
"""

from __future__ import annotations

import sys

import click

from services.cli import artefact, attribute, merge, pool, reading, report, stack, study, suite
from services.errors import RemeltError

HELP = """Remelt recycles a pool of checkpoints into Pareto-optimal merges.

\b
A first session:
  remelt up                                        start everything on this machine
  remelt pool add mine --reference now DIR...      tell it about your checkpoints
  remelt suite add sums sums.jsonl                 ... and about what you care for
  remelt study submit study.yaml --wait            search
  remelt study show 1                              look at the front
  remelt report 1 --out report                     decide on one page
  remelt publish 1 42 && remelt pull 1/42 OUT      take a candidate home

Something wrong? `remelt doctor` says what and how to mend it.
"""


class Story(click.Group):
    """Lists the commands in the order in which they are used, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order they were added."""
        return list(self.commands)


@click.group(cls=Story, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="remelt")
def cli() -> None:
    """The root of all commands."""


for command in (
    stack.up,
    stack.down,
    pool.pool,
    suite.suite,
    study.study,
    reading.export,
    report.report,
    stack.evaluate,
    stack.noise,
    artefact.cast,
    merge.merge,
    artefact.publish,
    artefact.pull,
    stack.ui,
    stack.worker,
    stack.migrate,
    stack.doctor,
):
    cli.add_command(command)


for command in (attribute.attribute, attribute.explore):
    study.study.add_command(command)


def main() -> None:
    """Entry point: errors that Remelt can explain become one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except RemeltError as error:
        click.echo(f"remelt: {error.line()}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("remelt: stopped", err=True)
        sys.exit(130)
