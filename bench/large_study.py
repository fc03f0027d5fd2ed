"""A study as large as studies get, for measuring pages: 10,000 trials of 5 objectives in Postgres.

The pool, the suites and the study are registered and submitted by the services; trials, evaluations
and metrics are copied into their tables at once. Answers come from a formula that is linear in the
weights, so that there is a front to be seen, and every number follows from the answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from psycopg.types.json import Jsonb

from optim.pareto import ranks
from optim.predictions import Predictions, items_digest
from optim.recipe import Recipe
from services import predictions as packing
from services import stored_suites
from services.db import Connection, Database, rows
from services.spec import parse_spec
from services.studies import read
from services.studies.record import Study
from services.studies.submit import submit

SUITES = ("reviews", "questions", "plurals", "topics", "facts")
PARENTS = 8
ITEMS = 400
WORKERS = 16
#: of each told evaluation
SECONDS = 8.0
SPEC = f"""
name: as-large-as-it-gets
pool: wide
suites: [{", ".join(SUITES)}]
search: {{method: random, space: affine, bounds: [-0.3, 1.2], parallelism: 16}}
budget: {{trials: 20000, finalists: 6}}
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """The study, and trials that are not told yet: what they will be told."""

    study: int
    trials: int


def make(database: Database, trials: int, spare: int) -> Made:
    """A running study of so many told trials, and `spare` more that are queued."""
    number = submit(database, parse_spec(SPEC), owner="bench").study
    study = read.get_study(database, number)
    total = trials + spare
    rng = np.random.default_rng(7)
    weights = np.vstack([
        np.eye(PARENTS), np.full((1, PARENTS), 1 / PARENTS),
        _searched(rng, total - PARENTS - 1),
    ])  # fmt: skip
    right = _right(study, weights)
    with database.transaction() as connection:
        _insert(connection, study, weights, right, trials)
    return Made(study=number, trials=trials)


def tell_one(database: Database, study: int) -> int:
    """The next queued trial is told, as `services.studies.tell` would write it; its number."""
    with database.transaction() as connection:
        found = connection.execute(
            """WITH next AS (
                   SELECT e.id, e.trial_id, t.number FROM evaluation e
                   JOIN trial t ON t.id = e.trial_id
                   WHERE t.study_id = %(study)s AND e.state = 'queued'
                   ORDER BY t.number LIMIT 1),
               copied AS (
                   INSERT INTO metric
                   SELECT next.trial_id, m.split, m.suite, m.name, m.value, m.low, m.high, m.n
                   FROM next, metric m JOIN trial t ON t.id = m.trial_id
                   WHERE t.study_id = %(study)s AND t.number = 11)
               UPDATE evaluation e SET state = 'complete', told_at = clock_timestamp(),
                   weights_digest = repeat('0', 64), worker = 'evaluate-1',
                   started_at = clock_timestamp() - interval '8 s',
                   finished_at = clock_timestamp(),
                   objectives = s.objectives, violation = 0, rank = s.rank
               FROM next, evaluation s JOIN trial t ON t.id = s.trial_id
               WHERE e.id = next.id AND t.study_id = %(study)s AND t.number = 11
               RETURNING next.number""",
            {"study": study},
        ).fetchone()
        assert found is not None
        rows(connection, "studies.touch", study=study)
    return int(found["number"])


def _searched(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points that a search might ask for: spread at first, near good mixtures later."""
    wide = rng.dirichlet(np.full(PARENTS, 0.5), count)
    near = rng.dirichlet(np.full(PARENTS, 6.0), count)
    late = np.linspace(0, 0.8, count)[:, None]
    moved = (1 - late) * wide + late * near
    noise = rng.normal(0, 0.04, moved.shape)
    return moved + noise - noise.mean(axis=1, keepdims=True)


def _right(study: Study, weights: np.ndarray) -> dict[str, np.ndarray]:
    """bool [trials, items] for each suite: skill is linear in the weights, merging adds some."""
    found = {}
    for index, suite in enumerate(study.suites):
        rng = np.random.default_rng([7, index])
        skill = 0.4 + 0.5 * rng.random(PARENTS)
        skill[index] += 0.9
        items = suite.search_items
        gain = 0.7 * (1 - np.square(weights).sum(axis=1, keepdims=True))
        noise = rng.normal(0, 0.5, (PARENTS, items))
        margin = (weights @ skill)[:, None] + gain + weights @ noise
        found[suite.name] = margin > rng.normal(0.9, 0.8, items)
    return found


def _insert(
    connection: Connection, study: Study, weights: np.ndarray, right: dict[str, np.ndarray],
    told: int,
) -> None:  # fmt: skip
    count = len(weights)
    scores = np.column_stack([right[s.name].mean(axis=1) for s in study.suites])
    rank = ranks((-scores[:told]).tolist(), [0.0] * told)
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 AS id FROM trial").fetchone()
    assert first is not None
    ids = [first["id"] + i for i in range(count)]
    recipes = [
        Recipe(parents=study.pool.digests, weights=tuple(map(float, w)), dtype=study.pool.dtype)
        for w in weights
    ]
    begun = datetime.now(UTC) - timedelta(seconds=SECONDS * told / WORKERS)
    _copy(
        connection,
        "trial (id, study_id, number, role, slot, label, weights, recipe, recipe_digest)",
        (
            (ids[i], study.id, i, *_named(study, i), weights[i].tolist(),
             Jsonb(recipe.to_dict()), recipe.digest)
            for i, recipe in enumerate(recipes)
        ),
    )  # fmt: skip
    _copy(
        connection,
        "evaluation (trial_id, split, state, worker, weights_digest, cost, started_at, "
        "finished_at, told_at, objectives, violation, rank)",
        (
            (ids[i], "search", "complete", f"evaluate-{i % WORKERS}", "0" * 64,
             Jsonb({"items": sum(s.search_items for s in study.suites), "seconds": SECONDS}),
             begun + timedelta(seconds=SECONDS * (i // WORKERS)),
             begun + timedelta(seconds=SECONDS * (i // WORKERS) + 7), begun
             + timedelta(seconds=SECONDS * (i // WORKERS) + 7, microseconds=i),
             scores[i].tolist(), 0.0, rank[i])
            if i < told
            else (ids[i], "search", "queued", None, None, Jsonb({}), None, None, None, None, None,
                  None)
            for i in range(count)
        ),
    )  # fmt: skip
    _copy(
        connection,
        "metric (trial_id, split, suite, name, value, low, high, n)",
        _metrics(study, ids[:told], {name: table[:told] for name, table in right.items()}),
    )
    _copy(
        connection,
        "prediction (trial_id, split, suite_id, attempt, recipe_digest, suite_digest, "
        "items_digest, n, correct, answer, margin)",
        _predictions(study, ids[:told], [r.digest for r in recipes[:told]], right),
    )
    connection.execute("SELECT setval(pg_get_serial_sequence('trial', 'id'), %s)", (ids[-1],))
    rows(connection, "studies.touch", study=study.id)


def _named(study: Study, number: int) -> tuple[str, str, str]:
    """Role, slot and label of a trial, in the order in which studies ask for them."""
    if number < PARENTS:
        name = study.pool.names[number]
        return "reference" if name == study.reference else "single", f"single.{name}", name
    if number == PARENTS:
        return "uniform", "uniform", "uniform soup"
    return "search", f"s{number:06d}", f"s{number:06d}"


def _metrics(study: Study, ids: list[int], right: dict[str, np.ndarray]) -> Iterable[Any]:
    """Rows of `metric`: scores and rates of every suite and of all of them, normal intervals."""
    shares: list[tuple[str, str, np.ndarray, int]] = []
    pooled: dict[str, Any] = {}
    for suite in study.suites:
        table, n = right[suite.name], suite.search_items
        counts = {
            "negative_flip_rate": (table[0] & ~table).sum(axis=1),
            "positive_flip_rate": (~table[0] & table).sum(axis=1),
        }
        counts["churn"] = counts["negative_flip_rate"] + counts["positive_flip_rate"]
        counts["inconsistency"] = counts["negative_flip_rate"]
        shares.append((suite.name, "score", table.mean(axis=1), n))
        for name, count in counts.items():
            shares.append((suite.name, name, count / n, n))
            pooled[name] = pooled.get(name, 0) + count
    items = sum(suite.search_items for suite in study.suites)
    shares += [("", name, count / items, items) for name, count in pooled.items()]
    macro = np.mean([table.mean(axis=1) for table in right.values()], axis=0)
    shares.append(("", "macro", macro, items))
    for suite_name, name, value, n in shares:
        half = 1.96 * np.sqrt(np.maximum(value * (1 - value), 1e-4) / n)
        columns = (value.tolist(), (value - half).tolist(), (value + half).tolist())
        for trial, v, low, high in zip(ids, *columns, strict=True):
            yield trial, "search", suite_name, name, v, low, high, n


def _predictions(
    study: Study, ids: list[int], digests: list[str], right: dict[str, np.ndarray]
) -> Iterable[Any]:
    for suite in study.suites:
        items = items_digest([str(i) for i in range(suite.search_items)])
        for index, trial in enumerate(ids):
            correct = right[suite.name][index]
            packed = packing.pack(
                Predictions(
                    form="choice", items=items, correct=correct,
                    answer=correct.astype(np.uint64), margin=np.zeros(len(correct), np.float16),
                )
            )  # fmt: skip
            yield (trial, "search", suite.id, 1, digests[index], suite.digest, items, packed["n"],
                   packed["correct"], packed["answer"], packed["margin"])  # fmt: skip


def _copy(connection: Connection, table: str, values: Iterable[Any]) -> None:
    with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:  # type: ignore[arg-type]
        for one in values:
            copy.write_row(one)


def register(database: Database, folder: Path) -> None:
    """A pool of checkpoints that exist as rows only, and suites of short questions."""
    with database.transaction() as connection:
        pool = rows(connection, "registry.add_pool", name="wide", digest="0" * 64,
                    reference="deployed")[0]["id"]  # fmt: skip
        for position in range(PARENTS):
            digest = f"{position + 1:x}" * 64
            name = "deployed" if position == 0 else f"{SUITES[(position - 1) % 5]}-{position}"
            rows(
                connection, "registry.add_checkpoint", digest=digest, files=Jsonb({}),
                config=Jsonb({"model_type": "llama"}), tokenizer_digest="f" * 64,
                dtype="bfloat16", parameters=260_096,
            )  # fmt: skip
            rows(connection, "registry.add_member", pool=pool, position=position, name=name,
                 checkpoint=digest, uri=f"file:///checkpoints/{name}")  # fmt: skip
    for name in SUITES:
        lines = [
            {"id": str(i), "context": f"{name} {i}?", "choices": [" yes", " no"], "gold": i % 2}
            for i in range(ITEMS)
        ]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        stored_suites.add_suite(database, name, file)
