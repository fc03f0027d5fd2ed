"""`remelt evaluate DIR --suite FILE…` or `--lm-eval TASK…`: one checkpoint through the engine,
without a study.

The same engine, batches and scoring as a study's, so its numbers are a study's numbers. Needs no
database, no broker and no settings; writes nothing but the engine's log.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.progress import Progress as Bar

from optim.intervals import score_interval
from optim.recipe import OUTPUT_DTYPES, Recipe
from services.checkpoints import read_checkpoint
from services.cli.output import interval, print_table, progress_bar
from services.errors import BadInput, RemeltError, SuiteRefused
from services.lm_eval.load import TaskOptions, load_tasks
from services.settings import Settings, settings
from services.studies.clusters import labels, of_text
from services.suites import SPLITS, Item, Suite, parse_suite
from workers.engine.client import Engine, EvaluationResult, Progress, SuiteResult
from workers.engine.connection import OnTick
from workers.engine.process import Compute

ABOUT = {
    "choice": "accuracy", "exact": "exact match", "refusal": "behaves as expected",
    "text": "nats per token",
}  # fmt: skip
NORMALISED = {True: "accuracy per byte", "characters": "accuracy per character"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 when the input cannot be used."""
    options = _options(arguments)
    explained(lambda: _run(options))


def explained(run: Callable[[], None]) -> None:
    """Run a command: what Remelt can explain becomes one line and an exit code."""
    try:
        run()
    except RemeltError as error:
        sys.stderr.write(f"remelt: {error.line()}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(options: argparse.Namespace) -> None:
    if options.lm_eval:
        _run_tasks(options)
        return
    suites = [_read_suite(path, options) for path in options.suite]
    names = [suite.name for suite in suites]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SuiteRefused(
            "is the name of two files", where=doubled[0], mend="Give one of them another name"
        )
    results: list[tuple[Suite, SuiteResult]] = []

    def finished(result: SuiteResult) -> None:
        suite = suites[names.index(result.suite)]
        results.append((suite, result))
        if options.json:
            for line in item_lines(suite, options.split, result):
                _print_line(line)

    with _progress() as tick:
        cost = evaluate(options, suites, finished, tick)
    if options.json:
        for suite, result in results:
            _print_line(summary(suite, options.split, result, cost))
    else:
        _print_table(options, results, cost)


def _run_tasks(options: argparse.Namespace) -> None:
    """lm-eval's own loop and table, with answers of the live engine."""
    # an optional extra: not for those who score suites
    from workers.lm_eval_run import results_table, run_tasks

    asked = TaskOptions(include_path=options.include_path, num_fewshot=options.num_fewshot)
    loaded = load_tasks(options.lm_eval, asked)
    with _progress() as tick, _candidate(options, tick) as (engine, recipe):
        results, truncated = run_tasks(engine, recipe, loaded, options.limit, tick)
    if options.json:
        kept = ("results", "groups", "n-shot", "n-samples", "versions")
        _print_line({key: results[key] for key in kept if key in results})
    else:
        sys.stdout.write(results_table(results))
    if truncated:
        sys.stderr.write(
            f"remelt: {truncated} requests were longer than the model and lost their beginning, as "
            "in lm-eval\n"
        )


@contextmanager
def _progress() -> Iterator[OnTick]:
    """A progress bar and the function that moves it."""
    with progress_bar() as bar:
        yield ticking(bar)


@contextmanager
def _candidate(options: argparse.Namespace, on_tick: OnTick) -> Iterator[tuple[Engine, Recipe]]:
    """The checkpoint of the options, resident in an engine of its own."""
    checkpoint = read_checkpoint(options.folder)
    config = config_of(options)
    recipe = Recipe.one_hot((checkpoint.digest,), 0, options.dtype or checkpoint.dtype)
    logs = config.home / "logs"
    with Engine(config, log_dir=logs, compute=options.compute, plain=options.plain) as engine:
        engine.load([(checkpoint.digest, checkpoint.path)], recipe.dtype, on_tick)
        yield engine, recipe


def ticking(bar: Bar, about: str = "") -> OnTick:
    """An `on_tick` that draws an engine's progress as one more line of the bar."""
    task = bar.add_task(f"{about}reading", total=None)

    def tick(progress: Progress) -> bool:
        what = f"{about}{progress.phase} {progress.suite or ''}".strip()
        bar.update(task, description=what, completed=progress.done, total=progress.total or None)
        return True

    return tick


def evaluate(
    options: argparse.Namespace, suites: Sequence[Suite], on_suite: Any, on_tick: Any
) -> EvaluationResult:
    """Score the checkpoint of the options on every suite, in an engine of its own."""
    with _candidate(options, on_tick) as (engine, recipe):
        return engine.evaluate(recipe, suites, options.split, on_suite=on_suite, on_tick=on_tick)


def item_lines(suite: Suite, split: str | None, result: SuiteResult) -> Iterator[dict[str, Any]]:
    """One JSON-ready object per item, in the order of the split."""
    found = result.predictions
    for index, item in enumerate(_items(suite, split)):
        line: dict[str, Any] = {"suite": suite.name, "id": item.id}
        if found.form == "choice":
            assert found.answer is not None
            line["choice"] = int(found.answer[index])
        elif found.form in ("exact", "refusal"):
            assert found.texts is not None
            line["answer"] = found.texts[index]
        else:
            assert found.nll is not None
            line["nll"] = round(float(found.nll[index]), 6)
        if found.form == "refusal":
            assert found.answer is not None
            line["refused"] = bool(found.answer[index])
        line["correct"] = None if found.correct is None else bool(found.correct[index])
        line["margin"] = None if result.margins is None else round(float(result.margins[index]), 6)
        line["tokens"] = int(result.item_tokens[index])
        yield line


def summary(
    suite: Suite, split: str | None, result: SuiteResult, cost: EvaluationResult
) -> dict[str, Any]:
    """The suite's score with its interval, and what measuring it took."""
    found = result.predictions
    clusters = labels(_items(suite, split))
    low, high = score_interval(
        found, clusters=of_text(clusters) if suite.form == "text" else clusters
    )
    line = {
        "suite": suite.name,
        "form": suite.form,
        "split": split or "all",
        "score": found.score(),
        "low": low,
        "high": high,
        "n": len(found),
        "is": NORMALISED.get(suite.normalise, ABOUT[suite.form]),
        "seconds": round(result.seconds, 3),
        "tokens": result.tokens,
        "weights_digest": cost.weights_digest,
        "peak_memory_bytes": cost.peak_memory_bytes,
    }
    if suite.form == "text":
        line["perplexity"] = math.exp(min(found.score(), 700))
    return line


def _print_table(
    options: argparse.Namespace,
    results: Sequence[tuple[Suite, SuiteResult]],
    cost: EvaluationResult,
) -> None:
    rows = []
    for suite, result in results:
        s = summary(suite, options.split, result, cost)
        score = interval(s["score"], s["low"], s["high"])
        rows.append((suite.name, s["is"], score, s["n"], s["split"], f"{s['seconds']:.1f}"))
    print_table(["suite", "measure", "score [95 %]", "items", "split", "seconds"], rows)


def _items(suite: Suite, split: str | None) -> tuple[Item, ...]:
    return suite.items if split is None else suite.split(split)  # type: ignore[arg-type]


def _read_suite(path: Path, options: argparse.Namespace) -> Suite:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteRefused(
            f"cannot be read as UTF-8 text ({error})",
            where=str(path),
            mend="Give a JSON Lines file",
        ) from error
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).lstrip("._-")[:96] or "suite"
    # dealt as it is when it is registered
    suite = parse_suite(name, text, where=str(path), require_splits=False, split_by=None)
    if options.normalise and suite.form == "choice":
        suite = replace(suite, normalise=True)
    if not _items(suite, options.split):
        raise SuiteRefused(
            f"its {options.split} split is empty",
            where=str(path),
            mend="Leave --split out, or add items",
        )
    return suite


def config_of(options: argparse.Namespace) -> Settings:
    """This process's settings, with `--threads` and `--device` where they were given."""
    wanted = {"engine_threads": options.threads, "engine_device": options.device}
    chosen = {key: value for key, value in wanted.items() if value is not None}
    if options.threads is not None and options.threads < 1:
        raise BadInput(f"{options.threads} threads", where="--threads", mend="Use 1 or more")
    return settings().model_copy(update=chosen)


def _print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="remelt evaluate", description="Score one checkpoint folder on suite files."
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="config.json, *.safetensors, tokenizer")
    add(
        "--suite", nargs="+", action="extend", type=Path, default=[], metavar="FILE",
        help="JSON Lines: choice, exact, refusal or text items",
    )  # fmt: skip
    add(
        "--lm-eval", nargs="+", action="extend", default=[], metavar="TASK",
        help="lm-eval tasks instead of suites; prints lm-eval's own table",
    )  # fmt: skip
    add("--include-path", type=Path, metavar="DIR", help="lm-eval tasks are looked up here only")
    add("--num-fewshot", type=int, metavar="N", help="examples before each lm-eval question")
    add("--limit", type=int, metavar="N", help="first N documents of each lm-eval task")
    add("--split", choices=SPLITS, help="score only this split (default: all items)")
    add("--normalise", action="store_true", help="compare choices by log-likelihood per byte")
    add("--json", action="store_true", help="one object a line per item, then one per suite")
    add("--dtype", choices=OUTPUT_DTYPES, help="round the weights to this (default: their own)")
    add(
        "--compute", choices=get_args(Compute), default="auto",
        help="forward pass: auto is float32 on a CPU, the weights' own dtype on a GPU",
    )  # fmt: skip
    add("--plain", action="store_true", help="share no prefix between rows: slower, for debugging")
    machine_options(parser)
    options = parser.parse_args(arguments)
    if bool(options.suite) == bool(options.lm_eval):
        parser.error("give either --suite FILE or --lm-eval TASK")
    return options


def machine_options(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--threads`, as `config_of` reads them."""
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), help="default: REMELT_ENGINE_DEVICE, or auto")
    add("--threads", type=int, help="threads on a CPU (default: REMELT_ENGINE_THREADS, or 1)")


if __name__ == "__main__":
    main()
