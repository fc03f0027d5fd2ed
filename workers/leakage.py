"""`remelt suite leakage NAME --against FILE --checkpoint POOL/MEMBER`: has it seen the suite?

Reads the suite's open items and the file's texts with the live engine: perplexity, and whether
greedy decoding goes on for five tokens as the text does. Never touches the test split.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optim.leakage import GRAM, Compared, Reading, starts
from optim.recipe import Recipe
from services import leakage, registry, stored_suites
from services.cli.context import open_database
from services.cli.output import interval, print_json, print_table, progress_bar
from services.db import Database
from services.errors import BadInput, SuiteRefused
from services.leakage import Leakage
from services.settings import Settings
from services.suites import Item, Suite, parse_suite
from workers.engine.client import Engine
from workers.engine.connection import OnTick
from workers.evaluate import config_of, explained, machine_options, ticking

#: items of each side, unless said otherwise
LIMIT = 500


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 when the input cannot be used."""
    options = _options(arguments)
    explained(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    database, config = open_database(), config_of(options)
    question = _question(database, config, options)
    with progress_bar(quiet=options.json) as bar:
        found = measured(question, config, ticking(bar))
    stored = leakage.save(database, question.suite, found, question.against_digest)
    if options.json:
        print_json({"pool": options.pool, "member": question.member, **stored.to_dict()})
    else:
        _print(question, stored)


@dataclass(frozen=True, kw_only=True)
class Question:
    """The checkpoint, the suite's items, and what they are compared with."""

    member: str
    digest: str
    path: Path
    #: of the candidates of a study of its pool
    dtype: str
    suite: Suite
    #: name of the file and SHA-256 of its bytes
    against: str
    against_digest: str
    own: tuple[Item, ...]
    other: tuple[Item, ...]
    #: item i of both is the same
    paired: bool


def _question(database: Database, config: Settings, options: argparse.Namespace) -> Question:
    if options.limit < 2:
        raise BadInput(f"{options.limit} items", where="--limit", mend="Use 2 or more")
    options.pool, _, name = options.checkpoint.partition("/")
    with database.transaction() as connection:
        pool = registry.pool(connection, options.pool)
        suite = stored_suites.suite_from_row(stored_suites.suite_row(connection, options.suite))
    member = pool.member(name or pool.reference)
    text = _text(options.against)
    reference = parse_suite("against", text, where=str(options.against), require_splits=False)
    if reference.form != suite.form:
        raise SuiteRefused(
            f"its items are of form {reference.form!r}, those of {suite.name} {suite.form!r}",
            where=str(options.against),
            mend="Write the reference texts in the form of the suite",
        )
    own, other, paired = matched(suite, reference, options.limit)
    return Question(
        member=member.name,
        digest=member.digest,
        path=registry.local_path(member.uri, config),
        dtype=pool.dtype,
        suite=suite,
        against=options.against.name,
        against_digest=hashlib.sha256(text.encode()).hexdigest(),
        own=own,
        other=other,
        paired=paired,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("cannot be read as UTF-8 text", where=str(path), mend=str(error)) from error


def matched(
    suite: Suite, reference: Suite, limit: int
) -> tuple[tuple[Item, ...], tuple[Item, ...], bool]:
    """The open items of a suite, texts to compare them with, and whether they are pairs.

    Where at least half of the open items are in the file too, by id, those are compared one by one;
    otherwise all of both. Raises SuiteRefused where the file repeats the suite's own texts.
    """
    open_items = leakage.open_items(suite)
    by_id = {item.id: item for item in reference.items}
    pairs = [(item, by_id[item.id]) for item in open_items if item.id in by_id]
    paired = 2 * len(pairs) >= len(open_items)
    if paired:
        own, other = zip(*pairs[:limit], strict=True)
    else:
        own, other = tuple(open_items[:limit]), reference.items[:limit]
    texts = {leakage.text_of(item) for item in open_items}
    if same := [item.id for item in other if leakage.text_of(item) in texts]:
        raise SuiteRefused(
            f"{len(same)} of its texts are the suite's own (item {same[0]!r})",
            where=f"reference of suite {suite.name}",
            mend="Give paraphrases, or other texts of the same form",
        )
    return own, other, paired


def measured(question: Question, config: Settings, on_tick: OnTick) -> Leakage:
    """Both readings by one checkpoint in an engine of its own, and what they say."""
    recipe = Recipe.one_hot((question.digest,), 0, question.dtype)
    tokenizer = _tokenizer(question.path)
    with Engine(config, log_dir=config.home / "logs") as engine:
        engine.load([(question.digest, question.path)], recipe.dtype, on_tick)
        own, other = (
            read(engine, recipe, tokenizer, [leakage.text_of(item) for item in items], on_tick)
            for items in (question.own, question.other)
        )
    return leakage.compared(
        question.digest, question.suite, question.against, own, other, paired=question.paired
    )


def read(
    engine: Engine, recipe: Recipe, tokenizer: Any, texts: Sequence[str], on_tick: OnTick
) -> Reading:
    """How a candidate reads texts."""
    requests: list[tuple[str, ...]] = [("loglikelihood_rolling", text) for text in texts]
    tokens, owners = [], []
    for owner, text in enumerate(texts):
        spans = _spans(tokenizer, text)
        tokens.append(max(len(spans), 1))
        for place in starts(len(spans)):
            begin, end = spans[place][0], spans[place + GRAM - 1][1]
            requests.append(("loglikelihood", text[:begin], text[begin:end]))
            owners.append(owner)
    # an opening token of the tokenizer's own is scored too, and is no part of any text
    opened = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"][0]
    requests += [("loglikelihood_rolling", "")] * opened
    values, _ = engine.respond(recipe, requests, on_tick=on_tick)
    opening = values.pop() if opened else 0.0
    hits, count = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    for owner, (_, greedy) in zip(owners, values[len(texts) :], strict=True):
        hits[owner] += bool(greedy)
        count[owner] += 1
    return Reading(
        nll=opening - np.array(values[: len(texts)], dtype=np.float64),
        tokens=np.array(tokens, dtype=np.int64),
        hits=hits,
        starts=count,
    )


def _tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not found.is_fast:
        raise BadInput(
            "its tokenizer does not say where in a text its tokens are",
            where=str(path),
            mend="Save it with tokenizer.json",
        )
    return found


def _spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Where in the text each token is; tokens of no characters are left out."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(begin, end) for begin, end in found["offset_mapping"] if end > begin]


def _print(question: Question, found: Leakage) -> None:
    how = "the same items" if found.paired else "other items"
    rows = [
        ("nats per token", *_cells(found.nats)),
        (f"next {GRAM} tokens right", *_cells(found.grams)),
    ]
    print_table(
        ["", question.suite.name, question.against, "easier by [95 %]"],
        rows,
        title=f"{question.member} on {found.n} open items of {question.suite.name} and "
        f"{found.others} texts of {question.against} ({how})",
    )
    names = f"{question.member} has seen {question.suite.name}"
    if found.flagged:
        sys.stdout.write(f"! signs that {names}: {' and '.join(found.signs)}; merges inherit it\n")
    else:
        sys.stdout.write(f"no sign that {names}\n")


def _cells(found: Compared) -> tuple[str, str, str]:
    own, other = ("–" if v is None else f"{v:.3f}" for v in (found.own, found.other))
    return own, other, interval(found.easier, found.low, found.high)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="remelt suite leakage",
        description="Measure and store whether a checkpoint finds a suite's texts easier than "
        "others of the same form: a sign that it was trained on them.",
    )
    add = parser.add_argument
    add("suite", metavar="NAME", help="a registered suite")
    add(
        "--against", required=True, type=Path, metavar="FILE",
        help="JSON Lines of the suite's form that the checkpoint cannot have seen: paraphrases "
        "(with the items' ids they are compared one by one), or other texts",
    )  # fmt: skip
    add(
        "--checkpoint", required=True, metavar="POOL/MEMBER",
        help="a registered checkpoint; POOL alone: its reference",
    )  # fmt: skip
    add("--limit", type=int, default=LIMIT, metavar="N", help=f"items of each (default: {LIMIT})")
    add("--json", action="store_true", help="one JSON document instead of a table")
    machine_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
