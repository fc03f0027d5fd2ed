"""A finished study without an engine: real rows, written by the real services, whose answers come
from a formula. Six made-up checkpoints, each good at something; merges do better than any of them.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
import streamlit as st
from psycopg.types.json import Jsonb

from optim.predictions import (
    Predictions,
    answer_hash,
    items_digest,
    option_log_probabilities,
)
from services import evaluations, stored_suites
from services.db import Database, rows
from services.evaluations import Claim
from services.queue import celery_app
from services.settings import settings
from services.spec import parse_spec
from services.studies.advance import advance
from services.studies.submit import submit
from services.suites import Suite

MEMBERS = ("deployed", "reviews-ft", "questions-ft", "plurals-ft", "everything", "early")
#: how good each checkpoint is at reviews, questions, plurals and prose
SKILL = np.array(
    [
        [0.8, 0.6, 0.7, 0.6],
        [1.3, 0.1, 0.2, 0.3],
        [0.1, 1.2, 0.2, 0.3],
        [0.2, 0.1, 1.3, 0.2],
        [0.7, 0.7, 0.5, 0.8],
        [0.2, 0.2, 0.1, 0.1],
    ]
)
#: stands in an item that the chosen candidate breaks; a page must show it as text
SCRIPT = "<script>alert('x')</script>"
NOTES = f"{SCRIPT} Is there a model that breaks fewer of today's answers?"
SPEC = f"""
name: better-and-quiet
pool: letters
suites: [reviews, questions, plurals, prose]
objectives: [macro, negative_flip_rate]
constraints:
  - {{metric: score, suite: reviews, min: 0.5, confidence: null}}
search: {{method: cma-es, space: affine, bounds: [-0.3, 1.2], parallelism: 8}}
budget: {{trials: 40, finalists: 6}}
notes: "{NOTES}"
"""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A database of its own with one finished study and one that has begun."""

    database: Database
    url: str
    finished: int
    begun: int


def _use_servers(patch: pytest.MonkeyPatch, database: str, broker: str, home: Path) -> None:
    patch.setenv("REMELT_DATABASE_URL", database)
    patch.setenv("REMELT_BROKER_URL", broker)
    patch.setenv("REMELT_HOME", str(home))
    _forget()


def _forget() -> None:
    settings.cache_clear()
    celery_app.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """Caches are shared by the process, and every test has another database."""
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture(scope="session")
def filled_template(
    postgres_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Name of a database with the studies, made once and copied for each test."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE filled TEMPLATE migrated")
    url = f"{postgres_url.rsplit('/', 1)[0]}/filled"
    with pytest.MonkeyPatch.context() as patch:
        _use_servers(patch, url, broker_url, tmp_path_factory.mktemp("home"))
        database = Database(url)
        _register(database, tmp_path_factory.mktemp("suites"))
        finished = submit(database, parse_spec(SPEC), key="finished", owner="ada").study
        _work_off(database, finished)
        begun = submit(database, parse_spec(SPEC.replace("cma-es", "nsga-ii")), owner="ada").study
        _work_off(database, begun, evaluations_left=11)
        database.close()
    _forget()
    return "filled"


@pytest.fixture
def study_with_results(
    filled_template: str,
    postgres_url: str,
    broker_url: str,
    tmp_path: Path,
) -> Iterator[Filled]:
    """A copy of the filled database, which this process's settings name."""
    name = f"t{uuid.uuid4().hex[:12]}"
    url = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
    with (
        psycopg.connect(postgres_url, autocommit=True) as connection,
        pytest.MonkeyPatch.context() as patch,
    ):
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {filled_template}")
        _use_servers(patch, url, broker_url, tmp_path)
        database = Database(url)
        yield Filled(database=database, url=url, finished=1, begun=2)
        database.close()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    _forget()


def _register(database: Database, folder: Path) -> None:
    """A pool of checkpoints that exist as rows only, and four suites."""
    with database.transaction() as connection:
        found = rows(connection, "registry.add_pool", name="letters", digest="0" * 64,
                     reference=MEMBERS[0])  # fmt: skip
        for position, name in enumerate(MEMBERS):
            digest = f"{position + 1:x}" * 64
            rows(
                connection, "registry.add_checkpoint", digest=digest, files=Jsonb({}),
                config=Jsonb({"model_type": "llama"}), tokenizer_digest="f" * 64,
                dtype="bfloat16", parameters=260_096,
            )  # fmt: skip
            rows(connection, "registry.add_member", pool=found[0]["id"], position=position,
                 name=name, checkpoint=digest, uri=f"file:///checkpoints/{name}")  # fmt: skip
    for name, lines in _suites().items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        stored_suites.add_suite(database, name, file)


def _suites() -> dict[str, list[dict[str, object]]]:
    rng = random.Random(3)
    things = ["film", "song", "book", "meal", "train", "garden", "picture", "story", "game", "walk"]
    moods = [("wonderful", " good"), ("dreadful", " bad"), ("lovely", " good"), ("dull", " bad")]
    kinds = [" place", " person", " number", " reason"]
    asks = ["Where is the old", "Who built the", "How many doors has the", "Why do we need a"]
    suites: dict[str, list[dict[str, object]]] = {
        n: [] for n in ("reviews", "questions", "plurals", "prose")
    }
    for number in range(240):
        item, thing = f"{number:04d}", rng.choice(things)
        word, gold = rng.choice(moods)
        text = f"Review {number}: what a {word} {thing} this was!"
        if number % 4 == 0:
            text += f" {SCRIPT}"
        choices = [" good", " bad"]
        suites["reviews"].append(
            {
                "id": item,
                "context": f"{text}\nMood:",
                "choices": choices,
                "gold": choices.index(gold),
            }
        )
        kind = rng.randrange(4)
        ask = f"{asks[kind]} {thing} of street {number}?\nAsks for a"
        suites["questions"].append({"id": item, "context": ask, "choices": kinds, "gold": kind})
        suites["plurals"].append(
            {"id": item, "prompt": f"One {thing}{number}, two", "target": f" {thing}{number}s"}
        )
        suites["prose"].append({"id": item, "text": f"The {thing} of number {number} was {word}."})
    return suites


def _work_off(database: Database, study: int, evaluations_left: int = 10_000) -> None:
    """What control and evaluation workers do, with the formula in the engine's place."""
    config = settings()
    while evaluations_left > 0:
        advance(database, study)
        queued = database.rows("studies.queued_evaluations", study=study)
        if not queued:
            return
        for one in queued[:evaluations_left]:
            held = evaluations.claim(database, one["id"], "worker-1:42", config)
            assert held is not None
            for suite_id, suite in evaluations.load_job(database, held).suites:
                answers = _answers(suite, held)
                cost = {"seconds": 0.4, "tokens": 900}
                evaluations.save_predictions(database, held, suite_id, suite, answers, cost)
            evaluations.complete(
                database, held, held.recipe.digest, {"seconds": 1.7, "tokens": 3600}
            )
            evaluations_left -= 1
    advance(database, study)


def _answers(suite: Suite, held: Claim) -> Predictions:
    """Margins are linear in the weights, plus what averaging unlike checkpoints gains."""
    items = suite.split(held.split)
    column = ("reviews", "questions", "plurals", "prose").index(suite.name)
    weights = np.array(held.recipe.weights)
    noise = np.random.default_rng([column, len(held.split)]).normal(size=(len(items), len(MEMBERS)))
    hard = np.random.default_rng([column, len(held.split), 1]).normal(0.5, 0.8, size=len(items))
    gain = 0.5 * (1 - np.square(weights).sum())
    margin = weights @ SKILL[:, column] + gain - hard + 0.6 * noise @ weights
    digest = items_digest([item.id for item in items])
    correct = margin > 0
    if suite.form == "text":
        nll = (np.maximum(2.5 - 0.6 * margin, 0.1) * 9).astype(np.float32)
        return Predictions(
            form="text", items=digest, nll=nll, tokens=np.full(len(items), 9, np.int32)
        )
    if suite.form == "choice":
        wrong = [(item.gold + 1) % len(item.choices) for item in items]
        gold = [item.gold for item in items]
        answer = np.where(correct, gold, wrong).astype(np.uint64)
        said = np.full((len(items), len(items[0].choices)), -3.0)
        every = np.arange(len(items))
        said[every, gold], said[every, wrong] = margin, 0.0
        return Predictions(
            form="choice", items=digest, correct=correct, answer=answer,
            margin=margin.astype(np.float16), options=option_log_probabilities(list(said)),
        )  # fmt: skip
    texts = [
        item.target.strip() if ok else "something else"
        for item, ok in zip(items, correct, strict=True)
    ]
    answer = np.array([answer_hash(text) for text in texts], dtype=np.uint64)
    return Predictions(
        form="exact", items=digest, correct=correct, answer=answer, texts=tuple(texts)
    )


@pytest.fixture
def empty_database(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[None]:
    """This process's settings name a database without rows."""
    with pytest.MonkeyPatch.context() as patch:
        _use_servers(patch, database_url, broker_url, tmp_path)
        yield
    _forget()


@pytest.fixture
def work_off() -> Callable[[Database, int, int], None]:
    """Evaluate some more trials of a study: (database, study, how many)."""
    return _work_off
