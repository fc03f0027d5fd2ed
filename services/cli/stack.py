"""`remelt up`, `worker`, `ui`, `migrate`, `doctor`, `evaluate`, `noise`: the processes themselves.

Workers, engine and dashboard are started as processes by module name: this room never imports
the rooms above it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from services import embedded
from services.cli.context import open_database
from services.cli.doctor import findings
from services.cli.output import json_option, print_json, print_table
from services.cli.processes import Group
from services.db.migrate import current_version
from services.db.migrate import migrate as run_migrations
from services.queue import CONTROL, EVALUATE, PUBLISH, celery_app
from services.settings import settings

UI_PORT = 8501
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ui_command(host: str, port: int) -> list[str]:
    """The dashboard's command line."""
    app = Path(__file__).resolve().parents[2] / "ui" / "app.py"
    secrets = settings().sign_in_file
    return [
        sys.executable, "-m", "streamlit", "run", str(app), "--server.headless", "true",
        "--server.address", host, "--server.port", str(port),
        "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none",
        *(() if secrets is None else ("--secrets.files", str(secrets))),
    ]  # fmt: skip


def worker_command(kind: str, number: int = 0) -> list[str]:
    """A worker's command line: `control` advances studies, `evaluate` runs the engine.

    Workers that one process starts need a number each: equal names share one mailbox.
    """
    queues = CONTROL if kind == "control" else f"{EVALUATE},{PUBLISH}"
    command = [
        sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "threads",
        "--concurrency", "1", "--queues", queues, "--hostname", f"{kind}-{os.getpid()}-{number}@%h",
        "--loglevel", "INFO", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    if kind == "control":
        schedule = settings().home / "run" / f"beat-{os.getpid()}-{number}"
        schedule.parent.mkdir(parents=True, exist_ok=True)
        command += ["--beat", "--schedule", str(schedule)]
    return command


def start_workers(group: Group, evaluate: int = 1) -> None:
    """Start one control worker and some evaluation workers."""
    group.start("control", worker_command("control"))
    for index in range(evaluate):
        group.start(f"evaluate-{index}", worker_command("evaluate", index))


@click.command()
@click.option("--workers", default=1, show_default=True, help="Evaluation workers.")
@click.option("--port", default=UI_PORT, show_default=True, help="Port of the dashboard.")
@click.option("--no-ui", is_flag=True, help="Only servers and workers.")
def up(workers: int, port: int, no_ui: bool) -> None:
    """Start everything on this machine: servers, workers and the dashboard. Ctrl-C ends it."""
    open_database().close()
    group = Group(settings().home / "logs")
    start_workers(group, workers)
    if not no_ui:
        group.start("ui", ui_command("127.0.0.1", port))
        click.echo(f"dashboard: http://127.0.0.1:{port}")
    click.echo(f"logs: {group.logs}\nCtrl-C ends workers and dashboard (servers: remelt down)")
    group.wait()


@click.command()
def down() -> None:
    """Stop the embedded servers of this machine."""
    embedded.stop(settings().home)
    click.echo("embedded servers are stopped")


@click.group(invoke_without_command=True)
@click.option("--workers", default=1, show_default=True, help="Evaluation workers.")
@click.pass_context
def worker(ctx: click.Context, workers: int) -> None:
    """Run workers: one for control and one for evaluations, or one kind alone."""
    if ctx.invoked_subcommand is not None:
        return
    open_database().close()
    group = Group(settings().home / "logs")
    start_workers(group, workers)
    click.echo(f"workers run; logs: {group.logs}. Ctrl-C ends them")
    group.wait()


def _become(command: list[str]) -> None:
    open_database().close()
    os.execv(command[0], command)


@worker.command()
def control() -> None:
    """Advance studies and sweep; never evaluates."""
    _become(worker_command("control"))


@worker.command("evaluate")
def evaluate_worker() -> None:
    """Evaluate candidates with an engine of its own, and publish."""
    _become(worker_command("evaluate"))


@worker.command()
@click.argument("kind", type=click.Choice(["control", "evaluate"]))
def ping(kind: str) -> None:
    """Exit 0 when a worker of that KIND on this machine answers (for liveness probes)."""
    answers = celery_app().control.ping(timeout=5.0) or []
    names = [name for answer in answers for name in answer]
    here = f"@{socket.gethostname()}"
    alive = [name for name in names if name.startswith(f"{kind}-") and name.endswith(here)]
    if not alive:
        click.echo(f"no {kind} worker answers on this machine", err=True)
        sys.exit(1)
    click.echo("\n".join(alive))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=UI_PORT, show_default=True, help="Port to listen on.")
def ui(host: str, port: int) -> None:
    """Open the dashboard."""
    config = settings()
    if host not in LOOPBACK and config.sign_in_file is None and config.local_role != "viewer":
        click.echo(
            f"remelt: without sign-in everybody who reaches {host}:{port} acts as "
            f"{config.local_role}. Set REMELT_SIGN_IN_FILE, or REMELT_LOCAL_ROLE=viewer",
            err=True,
        )
    _become(ui_command(host, port))


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Bring the database up to this release."""
    url = embedded.database_url(settings())
    applied = run_migrations(url)
    version = current_version(url)
    if as_json:
        print_json({"applied": applied, "version": version})
    else:
        click.echo(f"applied: {', '.join(applied) or 'nothing new'}; schema version {version}")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def evaluate(arguments: tuple[str, ...]) -> None:
    """Evaluate one checkpoint folder on suite files, without a study."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.evaluate", *arguments])


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def noise(arguments: tuple[str, ...]) -> None:
    """Measure how many answers change when only batches or dtype do (POOL --suite NAME...)."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.noise", *arguments])


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check versions, servers, store and devices, and say what to do."""
    found = findings(settings())
    if as_json:
        print_json([{"check": f.check, "ok": f.ok, "is": f.found, "mend": f.mend} for f in found])
    else:
        print_table(
            ["", "check", "found", "mend"],
            [("ok" if f.ok else "!!", f.check, f.found, "" if f.ok else f.mend) for f in found],
        )
    if not all(f.ok for f in found):
        sys.exit(1)
