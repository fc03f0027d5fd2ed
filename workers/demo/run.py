"""`make demo`: from nothing to a published, checked, Pareto-optimal checkpoint.

It goes through the same doors as everybody else: registry, study spec, Celery workers, engine,
store. A second run finds what is there and only shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from services import registry, stored_suites
from services.artefacts import pull
from services.cli import front
from services.cli.context import open_database
from services.cli.output import progress_bar
from services.cli.processes import Group
from services.cli.stack import start_workers
from services.cli.watch import watch
from services.db import Database
from services.errors import BadInput, NotFound, RemeltError
from services.settings import Settings, settings
from services.spec import StudySpec, spec_from_dict
from services.studies import read, sealed
from services.studies.submit import submit
from services.suites import Suite

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; errors become one line and an exit code."""
    options = parse(arguments)
    os.environ.setdefault("REMELT_HOME", str(Path.cwd() / ".remelt"))
    try:
        run(options)
    except RemeltError as error:
        console.print(f"remelt: {error.line()}", style="red", markup=False)
        sys.exit(error.exit_code)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The demo's options."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--pool", type=Path, help="folder of checkpoint folders")
    parser.add_argument("--suites", type=Path, help="folder of your own suites (*.jsonl)")
    parser.add_argument("--reference", default="deployed", help="the checkpoint deployed today")
    parser.add_argument("--trials", type=int, default=60, help="candidates to search")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same suggestions")
    options = parser.parse_args(arguments)
    if (options.pool is None) != (options.suites is None):
        parser.error("--pool and --suites go together")
    return options


def run(options: argparse.Namespace) -> None:
    """Every step, said before it is done."""
    config = settings()
    say(1, "servers: embedded Postgres and broker")
    database = open_database()
    say(2, "pool and suites")
    pool_dir, suites_dir = options.pool, options.suites
    if pool_dir is None:
        train(config.home / "demo")
        pool_dir, suites_dir = config.home / "demo" / "pool", config.home / "demo" / "suites"
    pool = register_pool(database, config, pool_dir, options.reference)
    suites = register_suites(database, suites_dir)
    say(3, f"study: CMA-ES over the weights of {len(pool.members)} checkpoints")
    spec = make_spec(pool, suites, options)
    study = work_off(database, config, spec)
    say(4, "the front")
    front.print_front(database, study)
    report = sealed.final_report(database, study, purpose="demo")
    front.print_candidates(database, study, report, title="the sealed test split, opened once")
    say(5, "publish, pull, load with transformers, check")
    take_home(database, config, study)
    console.print(
        f"\nDone. Everything is under {config.home}.\n"
        f"Dashboard: REMELT_HOME={config.home} .venv/bin/remelt up    "
        "then open http://127.0.0.1:8501",
        highlight=False,
    )


def say(step: int, text: str) -> None:
    """Announce a step."""
    console.print(f"[bold]{step}/5[/bold] {text}", highlight=False)


def train(out: Path) -> None:
    """Make the demo pool in a process of its own; returns at once when it is there."""
    done = subprocess.run([sys.executable, "-m", "workers.demo", str(out)], check=False)
    if done.returncode:
        raise RemeltError("training the demo pool failed", mend="See the messages above")


def register_pool(
    database: Database, config: Settings, folder: Path, reference: str
) -> registry.Pool:
    """Register every folder with a config.json; the name tells pools of other bytes apart."""
    members = sorted(path.parent for path in folder.glob("*/config.json"))
    if not members:
        raise BadInput("holds no checkpoint folders", where=str(folder))
    stamp = hashlib.sha256()
    for path in sorted(file for member in members for file in member.glob("*.safetensors")):
        stamp.update(f"{path.resolve()}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}".encode())
    name = f"demo-{stamp.hexdigest()[:8]}"
    with database.transaction() as connection:
        try:
            return registry.pool(connection, name)
        except NotFound:
            pass
    with progress_bar() as bar:
        task = bar.add_task("reading checkpoints", total=len(members))
        seen: set[str] = set()

        def tick(member: str, *_: int) -> None:
            seen.add(member)
            bar.update(task, completed=len(seen))

        return registry.add_pool(
            database, config, name, [str(m) for m in members], reference=reference, progress=tick
        )


def register_suites(database: Database, folder: Path) -> list[Suite]:
    """Register every *.jsonl of a folder under its own name."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise BadInput("holds no suites (*.jsonl)", where=str(folder))
    return [stored_suites.add_suite(database, file.stem.lower(), file)[0] for file in files]


def make_spec(
    pool: registry.Pool, suites: Sequence[Suite], options: argparse.Namespace
) -> StudySpec:
    """Every suite as an axis of the front, and negative flips as one more number to look at."""
    scored = [suite.name for suite in suites if suite.form != "text"]
    if not scored:
        raise BadInput("the demo needs a multiple-choice or exact-match suite")
    return spec_from_dict(
        {
            "name": "demo",
            "pool": pool.name,
            "suites": [suite.name for suite in suites],
            "objectives": ["macro", "negative_flip_rate"] if len(scored) > 1 else scored,
            "search": {"space": "affine", "seed": options.seed},
            "budget": {"trials": options.trials, "finalists": 8},
            "publish": {"to": "store"},
        }
    )


def work_off(database: Database, config: Settings, spec: StudySpec) -> int:
    """Submit under a key made from the spec, and wait with workers of our own."""
    key = f"demo-{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]}"
    made = submit(database, spec, key=key, owner="demo")
    if read.study_summary(database, made.study)["state"] == "running":
        group = Group(config.home / "logs")
        start_workers(group)
        try:
            started = time.monotonic()
            summary = watch(database, made.study)
            console.print(
                f"study {made.study}: {summary['state']} in {time.monotonic() - started:.0f} s"
            )
        finally:
            group.stop()
    else:
        console.print(f"study {made.study} was run before; showing it")
    summary = read.study_summary(database, made.study)
    if summary["state"] != "finished":
        raise RemeltError(
            f"study {made.study} {summary['state']}: {summary['failure']}",
            mend=f"See the logs in {config.home / 'logs'}",
        )
    return made.study


def take_home(database: Database, config: Settings, study: int) -> None:
    """Pull the chosen candidate and check its answers with plain transformers."""
    chosen = read.study_summary(database, study)["chosen"]
    if chosen is None:
        raise RemeltError("no candidate was chosen")
    out = config.home / "demo" / "pulled" / f"{study}-{chosen}"
    if not out.exists():
        with progress_bar() as bar:
            task = bar.add_task("pulling", total=None)
            pull(
                database,
                config,
                f"{study}/{chosen}",
                out,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    console.print(f"pulled {study}/{chosen} to {out}", highlight=False)
    command = [sys.executable, "-m", "workers.demo.check", str(study), str(chosen), str(out)]
    if subprocess.run(command, check=False).returncode:
        raise RemeltError("the pulled checkpoint does not answer as it did in the study")


if __name__ == "__main__":
    main()
