"""One study from registration to a published checkpoint, by real workers, engines and servers.

The study runs once; every test below looks at another side of what it left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from optim.pareto import ranks
from services import artefacts
from services.checkpoints import read_checkpoint
from services.db import Database
from services.studies import read, sealed
from services.studies.propose import minimised
from services.studies.record import Split, Trial, load_trials

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.stack import Stack

SPEC = """
name: end-to-end
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: cma-es, space: affine, parallelism: 6, seed: 3, options: {population: 6}}
budget: {trials: 12, finalists: 3}
publish: {to: store}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this installation keeps its logs and its store."""
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="module")
def stack(
    home: Path,
    postgres_url: str,
    own_queues: Callable[[], str],
    running_stack: Callable[..., Any],
    prepared: Callable[..., None],
    tiny_pool: Path,
    this_process: Callable[..., Any],
) -> Iterator[Stack]:
    """One control and two evaluation workers on a database of their own."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE end_to_end TEMPLATE migrated")
    url = f"{postgres_url.rsplit('/', 1)[0]}/end_to_end"
    with this_process(
        home=str(home),
        database_url=url,
        broker_url=own_queues(),
        lease_seconds="5",
        sweep_seconds="1",
        engine_device="cpu",
    ) as config:
        prepared(url, config, tiny_pool)
        with running_stack(config) as started:
            yield started
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE end_to_end WITH (FORCE)")


@pytest.fixture(scope="module")
def study(stack: Stack) -> int:
    """The number of the study, once it has ended."""
    number = stack.submit(SPEC)
    stack.finished(number)
    return number


@pytest.fixture(scope="module")
def database(stack: Stack) -> Database:
    """The database that the study stands in."""
    return stack.database


def trials(database: Database, study: int, split: Split) -> list[Trial]:
    """Trials with what was told of them on one split."""
    with database.transaction() as connection:
        return load_trials(connection, study, split)


def test_it_finished(database: Database, study: int) -> None:
    summary = read.study_summary(database, study)
    assert (summary["state"], summary["phase"], summary["failure"]) == ("finished", "done", None)
    assert summary["asked"] == 12
    assert summary["chosen"] is not None


def test_every_invariant_holds(
    stack: Stack, study: int, assert_invariants: AssertInvariants
) -> None:
    assert_invariants(stack.database, study, stack.config)


def test_nothing_failed_and_nothing_was_tried_twice(stack: Stack, study: int) -> None:
    found = stack.sql("SELECT DISTINCT state, attempt, told_at IS NOT NULL AS told FROM evaluation")
    assert found == [{"state": "complete", "attempt": 1, "told": True}]


def test_baselines_and_budget(database: Database, study: int) -> None:
    roles = [t.role for t in trials(database, study, "search")]
    assert roles[:5] == ["reference", "single", "single", "single", "uniform"]
    assert roles.count("search") == 12
    validated = [t.role for t in trials(database, study, "validation")]
    assert len([r for r in validated if r in ("search", "greedy")]) == 3


def test_both_workers_did_work(stack: Stack, study: int) -> None:
    found = stack.sql("SELECT worker, count(*) AS n FROM evaluation GROUP BY worker")
    pids = {f":{w.process.pid}" for w in stack.of_kind("evaluate")}
    assert {":" + f["worker"].rsplit(":", 1)[1] for f in found} == pids


def test_ranks_are_what_the_rows_give(database: Database, study: int) -> None:
    seen = read.get_study(database, study)
    for split in ("search", "validation", "test"):
        told = trials(database, study, split)
        again = ranks(
            [minimised(seen, t.objectives or ()) for t in told], [t.violation or 0 for t in told]
        )
        assert [t.rank for t in told] == again
        assert 1 in again


def test_a_parent_alone_scores_like_its_own_checkpoint(database: Database, study: int) -> None:
    """The reference differs from itself nowhere, and single checkpoints differ from each other."""
    found = read.candidates(database, read.get_study(database, study))
    by_label = {view.trial.label: view for view in found}
    assert by_label["now"].metrics[""]["churn"].value == 0
    assert by_label["far"].metrics[""]["churn"].value > 0  # type: ignore[operator]
    assert 0 < by_label["now"].metrics["read"]["score"].value < 10  # type: ignore[operator]


def test_the_test_split_was_opened_once_and_at_the_end(stack: Stack, study: int) -> None:
    readings = sealed.readings(stack.database, study)
    assert len(readings) == 1
    chosen = stack.sql("SELECT max(told_at) AS at FROM evaluation WHERE split = 'validation'")
    first = stack.sql("SELECT min(started_at) AS at FROM evaluation WHERE split = 'test'")
    assert chosen[0]["at"] < first[0]["at"]
    assert readings[0]["at"] < first[0]["at"]
    assert readings[0]["trials"] == len(trials(stack.database, study, "test"))


def test_events_tell_the_story_in_order(database: Database, study: int) -> None:
    texts = [e["text"] for e in read.events(database, study)]
    assert texts[0].startswith("submitted by ")
    assert texts[1].startswith("search over; validating ")
    assert texts[2].startswith("chose trial ")
    assert texts[-1] == "finished"


def test_the_artefact_is_what_was_evaluated(
    stack: Stack, study: int, tmp_path: Path, home: Path
) -> None:
    chosen = read.study_summary(stack.database, study)["chosen"]
    detail = read.trial_detail(stack.database, read.get_study(stack.database, study), chosen)
    published = detail["artefacts"][0]
    assert published["state"] == "published"
    evaluated = {e["split"]: e for e in detail["evaluations"]}
    weights = stack.sql(
        "SELECT DISTINCT weights_digest FROM evaluation WHERE trial_id = %s", detail["id"]
    )
    assert set(evaluated) == {"search", "validation", "test"}
    assert [w["weights_digest"] for w in weights] == [published["weights_digest"]]

    out = tmp_path / "pulled"
    digest = artefacts.pull(stack.database, stack.config, f"{study}/{chosen}", out)
    assert digest == published["digest"]
    pulled = read_checkpoint(out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["weights"] == published["weights_digest"]
    assert manifest["checkpoint"] == pulled.digest
    assert not list((home / "cast").iterdir())


def test_the_artefact_loads(stack: Stack, study: int, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chosen = read.study_summary(stack.database, study)["chosen"]
    out = tmp_path / "pulled"
    artefacts.pull(stack.database, stack.config, f"{study}/{chosen}", out)
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    logits = model(**tokenizer("abc =", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.isfinite().all()


def test_workers_hold_no_torch(stack: Stack, study: int) -> None:
    for worker in stack.workers:
        maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
        assert "libtorch" not in maps
    assert all("libtorch" in _maps(w.engine()) for w in stack.of_kind("evaluate"))


def _maps(pid: int | None) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_the_same_study_again_gives_the_same_front(
    stack: Stack, study: int, assert_invariants: AssertInvariants
) -> None:
    """Same spec, other timing: two workers share the work as it comes."""
    again = stack.submit(SPEC.replace("publish: {to: store}\n", ""))
    assert stack.finished(again) == "finished"
    first, second = (
        {t.slot: (t.weights, t.objectives, t.rank) for t in trials(stack.database, n, "search")}
        for n in (study, again)
    )
    assert first == second
    assert_invariants(stack.database, again, stack.config)


def test_each_kind_of_worker_hears_its_own_queues(stack: Stack, study: int) -> None:
    workers = {w["kind"]: w["info"] for w in stack.database.rows("read.workers")}
    assert workers["control"]["queues"] == ["remelt.control"]
    assert workers["evaluate"]["queues"] == ["remelt.evaluate", "remelt.publish"]
