"""Waiting for a study on the command line: a progress bar with rate and ETA, or quietly."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from services.cli.output import progress_bar
from services.db import Database, Row
from services.studies import probes, read
from services.studies.probes import Probe, Standing
from services.studies.read import OpenSplit
from services.studies.record import Study

POLL_SECONDS = 0.5
#: without a terminal, one line this often
LINE_SECONDS = 15.0


def watch(database: Database, study: int, *, quiet: bool = False) -> Row:
    """Return the study's summary once it has ended (or is paused and idle)."""
    console = Console(stderr=True)
    lines = not quiet and not console.is_terminal
    said = 0.0
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("starting", total=None)
        while True:
            summary = read.study_summary(database, study)
            done, total = progress_of(summary)
            bar.update(task, description=summary["phase"], completed=done, total=total)
            if summary["state"] not in ("running", "paused"):
                return summary
            if lines and time.monotonic() - said > LINE_SECONDS:
                said = time.monotonic()
                console.print(f"study {study}: {summary['phase']}, {done} of {total} evaluations")
            time.sleep(POLL_SECONDS)


def progress_of(summary: Row) -> tuple[int, int]:
    """(finished, expected) evaluations over all phases; expected is an estimate until the end."""
    by_split: dict[str, int] = {}
    ended = 0
    for count in summary["counts"]:
        by_split[count["split"]] = by_split.get(count["split"], 0) + count["n"]
        ended += count["n"] if count["state"] not in ("queued", "running") else 0
    searched = by_split.get("search", 0) + summary["left"]
    return ended, searched + by_split.get("validation", 0) + by_split.get("test", 0)


def watch_probes(
    database: Database, study: Study, asked: Sequence[Probe], split: OpenSplit, *, quiet: bool
) -> Standing:
    """Return once every probe has ended; a bar, or a line now and then, meanwhile."""
    console = Console(stderr=True)
    lines = not quiet and not console.is_terminal
    said = time.monotonic()
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("merges", total=None)
        while True:
            found = probes.standing(database, study, asked, split)
            name = "merges, paused" if found.held else "merges"
            bar.update(task, description=name, completed=found.ended, total=found.total)
            if found.ended == found.total:
                return found
            if lines and time.monotonic() - said > LINE_SECONDS:
                said = time.monotonic()
                paused = ", paused" if found.held else ""
                done = f"{found.ended} of {found.total} merges evaluated"
                console.print(f"study {study.id}: {done}{paused}")
            time.sleep(POLL_SECONDS)
