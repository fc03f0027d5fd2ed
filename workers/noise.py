"""`remelt noise POOL --suite NAME…`: how much of a flip rate is only arithmetic.

Scores one checkpoint as a study would, then again with other batching and in another dtype, and
stores what changed. Never touches the test split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress as Bar

from optim.intervals import wilson
from optim.recipe import Recipe
from services import noise, registry, stored_suites
from services.cli.context import open_database
from services.cli.output import print_json, print_table, progress_bar
from services.db import Database
from services.errors import BadInput
from services.noise import NoiseFloor, Variant
from services.settings import Settings
from services.suites import Suite
from workers.engine.client import Engine, SuiteResult
from workers.engine.process import Compute
from workers.evaluate import config_of, explained, machine_options, ticking

#: tokens in a forward pass where batches are to be others; the second if the first is usual
OTHER_BATCH_TOKENS = (512, 384)
#: what is stored of how something was computed
SETTINGS = ("dtype", "compiled", "batch_tokens", "device", "ranks", "threads", "torch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 when the input cannot be used."""
    options = _options(arguments)
    explained(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    database, config = open_database(), config_of(options)
    subject = _subject(database, config, options)
    found: list[NoiseFloor] = []
    with progress_bar(quiet=options.json) as bar:
        for suite, floor in measured(subject, config, bar):
            found.append(noise.save(database, subject.digest, suite, floor))
    if options.json:
        about = {"pool": options.pool, "checkpoint": subject.name, "digest": subject.digest}
        print_json({**about, "floors": [asdict(floor) for floor in found]})
    else:
        _print_table(subject, found)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The checkpoint that is measured, and on what."""

    name: str
    digest: str
    path: Path
    #: of the candidates of a study of its pool
    dtype: str
    suites: tuple[Suite, ...]
    split: Any


def _subject(database: Database, config: Settings, options: argparse.Namespace) -> Subject:
    with database.transaction() as connection:
        pool = registry.pool(connection, options.pool)
        rows = [stored_suites.suite_row(connection, name) for name in dict.fromkeys(options.suite)]
    member = pool.member(options.checkpoint or pool.reference)
    suites = tuple(map(stored_suites.suite_from_row, rows))
    for suite in suites:
        if not suite.split(options.split):
            raise BadInput(f"its {options.split} split is empty", where=f"suite {suite.name!r}")
    return Subject(
        name=member.name,
        digest=member.digest,
        path=registry.local_path(member.uri, config),
        dtype=pool.dtype,
        suites=suites,
        split=options.split,
    )


@dataclass(frozen=True, kw_only=True)
class Way:
    """Everything that came out of one engine, and how it computed."""

    settings: dict[str, Any]
    results: dict[str, SuiteResult]

    def answers(self, suite: Suite) -> noise.Answers:
        """One suite's."""
        found = self.results[suite.name]
        return found.predictions, found.margins


def measured(subject: Subject, config: Settings, bar: Bar) -> Iterator[tuple[Suite, NoiseFloor]]:
    """The floor of every suite, first with other batching, then in the other dtype: float32, or
    where that is the usual one, the dtype of the weights, or bfloat16 for weights in float32."""
    usual = way(subject, config, bar, "usual: ")
    first, second = OTHER_BATCH_TOKENS
    tokens = second if usual.settings["batch_tokens"] == first else first
    others: list[tuple[Variant, Settings, Compute, bool]] = [
        ("batching", config.model_copy(update={"batch_tokens": tokens}), "auto", True)
    ]
    others.append(("dtype", config, _other_dtype(usual.settings["dtype"], subject.dtype), False))
    for variant, changed, compute, plain in others:
        other = way(subject, changed, bar, f"{variant}: ", compute=compute, plain=plain)
        how = {"usual": usual.settings, "other": other.settings}
        for suite in subject.suites:
            answers = usual.answers(suite), other.answers(suite)
            yield suite, noise.compared(suite, subject.split, variant, how, *answers)


def _other_dtype(usual: str, stored: str) -> Compute:
    if usual != "float32":
        return "float32"
    return "bfloat16" if stored == "float32" else "storage"


def way(
    subject: Subject,
    config: Settings,
    bar: Bar,
    about: str,
    *,
    compute: Compute = "auto",
    plain: bool = False,
) -> Way:
    """Score the checkpoint on every suite in an engine of its own."""
    tick = ticking(bar, about)
    recipe = Recipe.one_hot((subject.digest,), 0, subject.dtype)
    results: dict[str, SuiteResult] = {}
    with Engine(config, log_dir=config.home / "logs", compute=compute, plain=plain) as engine:
        engine.load([(subject.digest, subject.path)], recipe.dtype, tick)
        engine.evaluate(
            recipe,
            subject.suites,
            subject.split,
            on_suite=lambda result: results.update({result.suite: result}),
            on_tick=tick,
        )
        settings = {name: engine.about[name] for name in SETTINGS}
    return Way(settings={**settings, "plain": plain}, results=results)


def _print_table(subject: Subject, found: Sequence[NoiseFloor]) -> None:
    rows = [_row(floor.suite, [floor]) for floor in found]
    for how in dict.fromkeys(floor.how for floor in found):
        scored = [f for f in found if f.how == how and f.changed is not None]
        if len(scored) > 1:
            rows.append(_row("all", scored))
    columns = ["suite", "computed", "answers changed", "negative flips", "positive flips"]
    columns += ["largest difference", "items"]
    title = f"noise floor of {subject.name} on the {subject.split} split"
    print_table(columns, rows, title=title)


def _row(name: str, floors: Sequence[NoiseFloor]) -> list[str]:
    n = sum(floor.n for floor in floors)
    counts = [
        [getattr(floor, what) for floor in floors] for what in ("changed", "negative", "positive")
    ]
    cells = ["–" if None in column else _share(sum(column), n) for column in counts]
    largest = [floor.largest for floor in floors if floor.largest is not None]
    difference = f"{max(largest):.2g} nats" if largest else "–"
    return [name, floors[0].how, *cells, difference, str(n)]


def _share(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{k} of {n}\n{100 * low:.1f}–{100 * high:.1f} %"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="remelt noise",
        description="Measure and store how many answers of one checkpoint change when only the "
        "batches, or the dtype of the forward pass, are others.",
    )
    add = parser.add_argument
    add("pool", metavar="POOL", help="a registered pool")
    add(
        "--suite", nargs="+", action="extend", required=True, metavar="NAME",
        help="registered suites",
    )  # fmt: skip
    add("--checkpoint", metavar="NAME", help="of the pool (default: its reference)")
    add(
        "--split", choices=("search", "validation"), default="search",
        help="default: search; the test split stays sealed",
    )  # fmt: skip
    add("--json", action="store_true", help="one JSON document instead of a table")
    machine_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
