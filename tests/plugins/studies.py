"""Fixtures for the life of a study without worker processes: a registered pool, and a driver that
calls what workers call. Predictions may be made up by formula where only the bookkeeping counts.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import numpy as np
import psycopg
import pytest
import redis

from optim.predictions import Predictions, answer_hash, items_digest, option_log_probabilities
from optim.search import METHODS, Observation, Question, Suggestion
from optim.search.random import RandomSearch
from services import evaluations, registry, stored_suites
from services.db import Database
from services.evaluations import Claim
from services.queue import celery_app
from services.settings import Settings, settings
from services.spec import parse_spec
from services.studies import read
from services.studies.advance import advance
from services.studies.record import Study, Trial, load_trials
from services.studies.submit import submit
from services.suites import Item, Suite
from workers.evaluation import EngineKeeper, run_claim

#: (claim, suite) -> what the model is taken to have answered
Answers = Callable[[Claim, Suite], Predictions]
#: database numbers of Valkey; 0 is left to whoever names none, 15 to the test of the queue itself
VIRTUAL_HOSTS = 14


@contextmanager
def these_settings(**environment: str) -> Iterator[Settings]:
    """Settings of this process, made of REMELT_ variables, for as long as the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(f"REMELT_{name.upper()}", value)
        settings.cache_clear()
        celery_app.cache_clear()
        try:
            yield settings()
        finally:
            settings.cache_clear()
            celery_app.cache_clear()


@pytest.fixture(scope="session")
def own_queues(broker_url: str) -> Callable[[], str]:
    """A function: the broker's URL with the next database number, emptied."""
    taken = [0]

    def following() -> str:
        taken[0] = taken[0] % VIRTUAL_HOSTS + 1
        path = broker_url.removeprefix("redis+socket://")
        with redis.Redis(unix_socket_path=path, db=taken[0]) as client:
            client.flushdb()
        return f"{broker_url}?virtual_host={taken[0]}"

    return following


def made_up(held: Claim, suite: Suite) -> Predictions:
    """Answers by formula: each parent knows each item more or less, weights mix the knowledge."""
    items = suite.split(held.split)
    mixed = mixed_knowledge(held, suite, items)
    return from_right(suite, items, mixed > 0, mixed)


def mixed_knowledge(held: Claim, suite: Suite, items: Sequence[Item]) -> np.ndarray:
    """float64 [N]: what the claimed mixture knows of each item; above 0 it is right."""
    knowledge = np.array([[_knows(p, suite, i) for p in held.recipe.parents] for i in items])
    return np.asarray(knowledge @ np.array(held.recipe.weights))


def from_right(
    suite: Suite, items: Sequence[Item], right: np.ndarray, mixed: np.ndarray
) -> Predictions:
    """Predictions that are right where `right` says so."""
    digest = items_digest([item.id for item in items])
    if suite.form == "text":
        tokens = np.array([len(item.text) + 1 for item in items], dtype=np.int32)
        nll = (tokens * np.exp(-mixed)).astype(np.float32)
        return Predictions(form="text", items=digest, nll=nll, tokens=tokens)
    if suite.form == "choice":
        gold = np.array([item.gold for item in items])
        wrong = (gold + 1) % np.array([len(item.choices) for item in items])
        answer = np.where(right, gold, wrong).astype(np.uint64)
        margin = mixed.astype(np.float16)
        scores = [_scores(i, int(a), m) for i, a, m in zip(items, answer, mixed, strict=True)]
        return Predictions(
            form="choice", items=digest, correct=right, answer=answer, margin=margin,
            options=option_log_probabilities(scores, max(len(i.choices) for i in suite.items)),
        )  # fmt: skip
    if suite.form == "refusal":
        refused = right == np.array([item.expect == "refuse" for item in items])
        texts = tuple("I can't help with that." if r else "Sure." for r in refused)
        return Predictions(
            form="refusal", items=digest, correct=right, answer=refused.astype(np.uint64),
            texts=texts,
        )  # fmt: skip
    texts = tuple(i.target if r else "x" for i, r in zip(items, right, strict=True))
    answer = np.array([answer_hash(text) for text in texts], dtype=np.uint64)
    return Predictions(form="exact", items=digest, correct=right, answer=answer, texts=texts)


def _scores(item: Item, answer: int, margin: float) -> np.ndarray:
    """Scores of an item's options with that answer and margin; all others are worse by 1."""
    best = max(margin, 0.0)
    scores = np.full(len(item.choices), best - abs(margin) - 1)
    scores[item.gold] = margin if answer == item.gold else best - abs(margin)
    scores[answer] = best
    return scores


def _knows(parent: str, suite: Suite, item: Item) -> float:
    """A number between -0.6 and 1 that depends on nothing but the names."""
    mark = hashlib.sha256(f"{parent} {suite.name} {item.id}".encode()).digest()
    return int.from_bytes(mark[:4], "little") / 2**32 * 1.6 - 0.6


class Driver:
    """Does in this process what a control worker and an evaluation worker do."""

    def __init__(self, database: Database, config: Settings, answers: Answers = made_up) -> None:
        self.database, self.config, self.answers = database, config, answers
        self.keeper: EngineKeeper | None = None

    def submit(self, text: str, **more: Any) -> int:
        """Submit a spec written in YAML, on pool `tiny` and suites pick, say and read."""
        return submit(self.database, parse_spec(text), **more).study

    def study(self, study: int) -> Study:
        """The study as it stands."""
        return read.get_study(self.database, study)

    def trials(self, study: int, split: str = "search") -> list[Trial]:
        """Its trials with what was told of them on one split, by number."""
        with self.database.transaction() as connection:
            return load_trials(connection, study, split)  # type: ignore[arg-type]

    def queued(self, study: int) -> list[int]:
        """Evaluations that wait for a worker, oldest first."""
        found = self.database.rows("studies.queued_evaluations", study=study)
        return [int(one["id"]) for one in found]

    def sql(self, text: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of one statement, in a transaction of its own."""
        with self.database.transaction() as connection:
            cursor = connection.execute(text.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def claim(self, evaluation: int, worker: str = "driver") -> Claim:
        """Take an evaluation that is known to be free."""
        held = evaluations.claim(self.database, evaluation, worker, self.config)
        assert held is not None, f"evaluation {evaluation} could not be claimed"
        return held

    def finish(self, held: Claim) -> bool:
        """Carry out a claim: by the engine if there is one, else by formula."""
        if self.keeper is not None:
            run_claim(self.database, self.config, self.keeper, held, Event())
            return True
        for suite_id, suite in evaluations.load_job(self.database, held).suites:
            found = self.answers(held, suite)
            evaluations.save_predictions(self.database, held, suite_id, suite, found, {})
        return evaluations.complete(self.database, held, held.recipe.digest, {"seconds": 0.1})

    def fail(self, held: Claim, why: str = "made to fail", *, retryable: bool = False) -> None:
        """End a claim as failed."""
        evaluations.LEASES.fail(self.database, held, why, retryable=retryable, config=self.config)

    def run(
        self, study: int, *, order: random.Random | None = None, evaluations_at_most: int = 10_000
    ) -> None:
        """Advance and evaluate until nothing is left to do; in another order if one is given."""
        for _ in range(evaluations_at_most):
            advance(self.database, study)
            waiting = self.queued(study)
            if not waiting:
                return
            self.finish(self.claim(order.choice(waiting) if order else waiting[0]))


@pytest.fixture(scope="session")
def this_process() -> Callable[..., AbstractContextManager[Settings]]:
    """A function (home=…, database_url=…, …): settings of this process, for a block."""
    return these_settings


@pytest.fixture(scope="session")
def prepared() -> Callable[[str, Settings, Path], None]:
    """A function (database URL, settings, tiny pool): audited, with everything registered."""

    def prepare(url: str, config: Settings, tiny_pool: Path) -> None:
        audit(url)
        database = Database(url)
        register(database, config, tiny_pool)
        database.close()

    return prepare


@pytest.fixture
def config(tmp_path: Path, database_url: str, own_queues: Callable[[], str]) -> Iterator[Settings]:
    """Settings with a fresh database and queues that nobody listens to."""
    with these_settings(
        home=str(tmp_path),
        database_url=database_url,
        broker_url=own_queues(),
        max_attempts="2",
        engine_device="cpu",
    ) as found:
        yield found


class Recorder(RandomSearch):
    """Random search that wants items, and keeps what it is given."""

    uses_items: ClassVar[bool] = True
    given: ClassVar[list[tuple[Question, Sequence[Observation], Sequence[Observation]]]] = []

    def ask(self, observations: Sequence[Observation], k: int) -> list[Suggestion]:
        assert self.question is not None
        self.given.append((self.question, self.known, list(observations)))
        return super().ask(observations, k)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorder]]:
    """Stands for `random` as long as the test runs."""
    monkeypatch.setitem(METHODS, "random", Recorder)
    Recorder.given.clear()
    yield Recorder
    Recorder.given.clear()


def register(database: Database, config: Settings, tiny_pool: Path) -> None:
    """Pools `tiny` (four checkpoints) and `pair` (two), suites pick, say and read."""
    folders = [str(tiny_pool / "pool" / name) for name in ("now", "left", "right", "far")]
    registry.add_pool(database, config, "tiny", folders, reference="now")
    registry.add_pool(database, config, "pair", folders[:2], reference="now")
    for name in ("pick", "say", "read"):
        stored_suites.add_suite(database, name, tiny_pool / "suites" / f"{name}.jsonl")


@pytest.fixture
def driver(database: Database, database_url: str, config: Settings, tiny_pool: Path) -> Driver:
    """A driver on a fresh audited database with everything registered."""
    audit(database_url)
    register(database, config, tiny_pool)
    return Driver(database, config)


#: what happened to evaluations and predictions, written by the database itself
AUDIT = """
CREATE TABLE audit_evaluation (
    id bigint GENERATED ALWAYS AS IDENTITY, evaluation bigint, before text, after text,
    attempt_before int, attempt int, told_before boolean, told boolean, worker text, error text,
    at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION audit_evaluation() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit_evaluation (evaluation, before, after, attempt_before, attempt, told_before,
                                  told, worker, error)
    VALUES (NEW.id, OLD.state, NEW.state, OLD.attempt, NEW.attempt, OLD.told_at IS NOT NULL,
            NEW.told_at IS NOT NULL, coalesce(NEW.worker, OLD.worker), NEW.error);
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON evaluation
    FOR EACH ROW EXECUTE FUNCTION audit_evaluation();
CREATE TABLE audit_prediction (
    id bigint GENERATED ALWAYS AS IDENTITY, trial bigint, split text, suite bigint, what text,
    attempt int, state text, held int
);
CREATE FUNCTION audit_prediction() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit_prediction (trial, split, suite, what, attempt, state, held)
    SELECT NEW.trial_id, NEW.split, NEW.suite_id, TG_OP, NEW.attempt, e.state, e.attempt
    FROM evaluation e WHERE e.trial_id = NEW.trial_id AND e.split = NEW.split;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON prediction
    FOR EACH ROW EXECUTE FUNCTION audit_prediction();
"""


def audit(url: str) -> None:
    """Let the database note every change of an evaluation or a prediction."""
    with psycopg.connect(url) as connection:
        connection.execute(AUDIT)
