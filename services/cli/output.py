"""How commands print: tables for people, JSON for programs, progress bars on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"cannot print {type(value).__name__} as JSON")


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(data, default=_plain, indent=2))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None
) -> None:
    """A table on stdout, as wide as the terminal (or as it needs, in a pipe)."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(
        *columns, title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD
    )
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)


def progress_bar(*, quiet: bool = False) -> Progress:
    """A progress bar with count, elapsed time and ETA, on stderr; silent when not on a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """The number, and below it its interval: `0.661` over `.63–.69`; a dash where undefined."""
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f}\n{_short(low)}–{_short(high)}"


def _short(number: float) -> str:
    return f"{number:.2f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"
