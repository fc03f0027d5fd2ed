"""Run a whole study on real checkpoints and keep its report as an example.

    python docs/examples/make.py docs/examples/stories --pool DIR --suites DIR --home DIR

Goes through the same doors as every study (registry, spec, Celery workers, engine), on embedded
servers of its own under --home. A study that has finished there is not run again: only its report
is written anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REMELT = (sys.executable, "-m", "services.cli")


def main() -> None:
    """Run the study unless it has finished, then write its report."""
    options = parse()
    os.environ["REMELT_HOME"] = str(options.home.absolute())
    os.environ["REMELT_ENGINE_THREADS"] = "1"
    for name in ("REMELT_DATABASE_URL", "REMELT_BROKER_URL", "REMELT_STORE_URL"):
        os.environ.pop(name, None)
    from services.cli.context import open_database
    from services.embedded import stop
    from services.studies import read

    try:
        database = open_database()
        found = read.list_studies(database)
        number = found[-1]["id"] if found else run(database, options)
        subprocess.run([*REMELT, "report", str(number), "--out", str(options.out)], check=True)
    finally:
        stop(options.home.absolute())


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder of the report; its name is the study's")
    parser.add_argument("--pool", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--suites", type=Path, required=True, help="folder of JSON Lines")
    parser.add_argument("--home", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--reference", default="deployed")
    parser.add_argument("--items", type=int, help="only the first N items of each suite")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--finalists", type=int, default=8)
    parser.add_argument("--score", type=float, help="least mean score, a share")
    parser.add_argument("--flips", type=float, default=0.08, help="most negative flips, a share")
    parser.add_argument(
        "--attribute", action="store_true", help="evaluate merges of some of the choice's parents"
    )
    return parser.parse_args()


def run(database: Any, options: argparse.Namespace) -> int:
    """Register, submit, work off, attribute, measure the noise floor; the study's number."""
    from services.cli.processes import Group
    from services.cli.stack import start_workers
    from services.cli.watch import watch
    from services.registry import add_pool
    from services.settings import settings
    from services.spec import spec_from_dict
    from services.stored_suites import add_suite
    from services.studies.submit import submit

    name = options.out.name
    folders = sorted(str(p.parent) for p in options.pool.glob("*/config.json"))
    add_pool(database, settings(), name, folders, reference=options.reference)
    suites = []
    for file in sorted(options.suites.glob("*.jsonl")):
        cut = options.home / file.name
        cut.write_text("\n".join(file.read_text().strip().split("\n")[: options.items]) + "\n")
        add_suite(database, file.stem, cut)
        suites.append(file.stem)
    constraints: list[dict[str, Any]] = [{"metric": "negative_flip_rate", "max": options.flips}]
    if options.score is not None:
        constraints.append({"metric": "macro", "min": options.score, "confidence": None})
    spec = {
        "name": name,
        "pool": name,
        "suites": suites,
        "objectives": ["macro", "negative_flip_rate"],
        "constraints": constraints,
        "budget": {"trials": options.trials, "finalists": options.finalists},
        "publish": {},
    }
    group = Group(options.home / "logs")
    start_workers(group)
    try:
        number = submit(database, spec_from_dict(spec)).study
        summary = watch(database, number)
        if options.attribute and summary["state"] == "finished":
            subprocess.run([*REMELT, "study", "attribute", str(number), "--wait"], check=True)
    finally:
        group.stop()
    if summary["state"] != "finished":
        raise SystemExit(f"the study {summary['state']}: {summary['failure']}")
    subprocess.run([*REMELT, "pool", "kinship", name], check=True)
    command = [sys.executable, "-m", "workers.noise", name, "--split", "validation"]
    subprocess.run([*command, "--suite", *suites], check=True)
    return int(number)


if __name__ == "__main__":
    main()
