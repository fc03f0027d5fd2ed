"""What searchers that learn from single items are given: the question, the baselines, and what
every trial answered on the search split, from which objectives follow exactly."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from optim.predictions import Predictions
from optim.search import Question
from services.evaluations import Claim
from services.studies.evidence import Evidence, gather
from services.studies.propose import BASELINES, minimised
from services.studies.record import load_trials
from services.suites import Suite
from tests.plugins.studies import Recorder, made_up

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: learns
pool: tiny
suites: [say, pick, read]
objectives: [macro, negative_flip_rate, read, 'churn:pick']
constraints:
  - {metric: negative_flip_rate, suite: each, max: 0.4}
  - {metric: macro, min: 0.1, confidence: null}
search: {method: random, parallelism: 4}
budget: {trials: 6, finalists: 2}
"""


def evidence(driver: Driver, number: int) -> Evidence:
    study = driver.study(number)
    with driver.database.transaction() as connection:
        return gather(connection, study, load_trials(connection, number, "search"))


def objectives(question: Question, signal: np.ndarray, changed: np.ndarray) -> Mapping[str, float]:
    """Some metrics, from single items alone."""
    ends = np.cumsum([len(suite) for suite in question.suites])
    parts = dict(zip([s.name for s in question.suites], np.split(signal, ends[:-1]), strict=True))
    moved = dict(zip(parts, np.split(changed, ends[:-1]), strict=True))
    right = {name: parts[name] > 0 for name in ("say", "pick")}
    was = {suite.name: suite.reference for suite in question.suites}
    broken = sum(int((was[name] & ~right[name]).sum()) for name in right)  # type: ignore[operator]
    tokens = question.suites[2].tokens
    assert tokens is not None
    return {
        "macro": float(np.mean([right[name].mean() for name in right])),
        "negative_flip_rate": broken / sum(len(r) for r in right.values()),
        "read": float((-parts["read"] * tokens).sum() / tokens.sum()),
        "churn": float(moved["pick"].mean()),
    }


def test_items_give_the_objectives_that_were_told(driver: Driver, recorder: type[Recorder]) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    question, known, observations = recorder.given[-1]
    assert [suite.name for suite in question.suites] == ["say", "pick", "read"]
    assert [(a.metric, a.suite, a.sign) for a in question.axes] == [
        ("macro", "", -1), ("negative_flip_rate", "", 1), ("score", "read", 1),
        ("churn", "pick", 1),
    ]  # fmt: skip
    assert [(b.suites, b.limit, b.sign, b.confidence) for b in question.bounds] == [
        (("say", "pick"), 0.4, 1, 0.95), (("",), 0.1, -1, None),
    ]  # fmt: skip
    assert {o.slot for o in known} == {t.slot for t in driver.trials(number) if t.role in BASELINES}
    complete = [o for o in [*known, *observations] if o.state == "complete"]
    assert len(complete) > len(known)
    for one in complete:
        assert one.signal is not None
        assert one.changed is not None
        assert one.values is not None
        assert one.signal.shape == one.changed.shape == (question.items,)
        found = objectives(question, one.signal, one.changed)
        told = (-one.values[0], *one.values[1:])
        assert tuple(found.values()) == pytest.approx(told, rel=1e-6)


def test_pending_and_failed_trials_have_no_items(driver: Driver, recorder: type[Recorder]) -> None:
    number = driver.submit(SPEC)
    driver.run(number, evaluations_at_most=6)
    waiting = driver.queued(number)
    driver.fail(driver.claim(waiting[0]))
    driver.run(number)
    states = {o.state for _, _, found in recorder.given for o in found if o.signal is None}
    assert states == {"pending", "failed"}
    assert driver.study(number).state == "finished"


def test_nothing_but_the_search_split_is_evidence(driver: Driver, recorder: type[Recorder]) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    before = evidence(driver, number)
    found = driver.sql("SELECT split, count(*) AS n FROM prediction GROUP BY split")
    assert {row["split"] for row in found} == {"search", "validation", "test"}
    driver.sql("DELETE FROM prediction WHERE split <> 'search'")
    driver.sql("UPDATE evaluation SET objectives = '{0,0,0,0}' WHERE told_at IS NOT NULL "
               "AND split <> 'search'")  # fmt: skip
    after = evidence(driver, number)
    assert set(before.answers) == set(after.answers) != set()
    for trial, (signal, changed) in before.answers.items():
        assert np.array_equal(signal, after.answers[trial][0])
        assert np.array_equal(changed, after.answers[trial][1])
    study = driver.study(number)
    searched = sum(suite.search_items for suite in study.suites)
    assert before.question is not None
    assert before.question.items == searched
    # and what the searcher was told of the trials is what stands on the search split
    told = {t.slot: t for t in driver.trials(number)}
    for one in recorder.given[-1][1]:
        assert one.values == minimised(study, told[one.slot].objectives or ())


def test_methods_that_need_no_items_read_none(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    found = evidence(driver, number)
    assert found.question is None
    assert not found.answers


def test_many_trials_are_read_quickly(driver: Driver, recorder: type[Recorder]) -> None:
    """200 trials of 10,000 items: copies of one trial's rows, its arrays made long."""
    number = driver.submit(SPEC.replace("say, pick, read", "say, pick").replace("read, ", ""))
    driver.answers = long_answers
    driver.run(number, evaluations_at_most=6)
    first = max(t.id for t in driver.trials(number) if t.told)
    driver.sql(
        "WITH made AS (INSERT INTO trial (study_id, number, role, slot, label, weights, recipe, "
        "recipe_digest) SELECT study_id, 1000 + g, 'greedy', 'x' || g, label, weights, recipe, "
        "recipe_digest FROM trial, generate_series(1, 195) g WHERE id = %s RETURNING id), "
        "done AS (INSERT INTO evaluation (trial_id, split, state, weights_digest, told_at, "
        "objectives, violation) SELECT id, 'search', 'complete', 'x', now(), '{0,0,0}', 0 "
        "FROM made) INSERT INTO prediction SELECT made.id, p.split, p.suite_id, p.attempt, "
        "p.recipe_digest, p.suite_digest, p.items_digest, p.n, p.correct, p.answer, p.margin, "
        "p.nll, p.tokens, p.texts, p.cost FROM prediction p, made "
        "WHERE p.trial_id = %s AND p.split = 'search'",
        first, first,
    )  # fmt: skip
    evidence(driver, number)
    start = time.perf_counter()
    found = evidence(driver, number)
    seconds = time.perf_counter() - start
    assert len(found.answers) >= 200
    assert found.question is not None
    assert found.question.items >= 10_000
    assert seconds < 2  # 0.1 s on a quiet machine


def long_answers(held: Claim, suite: Suite) -> Predictions:
    """Answers as made up, over and over until there are 5,000 of them."""
    short = made_up(held, suite)

    def repeated(array: Any) -> Any:
        if array is None:
            return None
        # not the same bytes again and again, which would pack too well
        luck = np.random.default_rng([held.trial, suite.name == "say"])
        return array[luck.integers(0, len(array), 5000)]

    return Predictions(
        form=short.form,
        items=short.items,
        correct=repeated(short.correct),
        answer=repeated(short.answer),
        margin=repeated(short.margin),
    )
