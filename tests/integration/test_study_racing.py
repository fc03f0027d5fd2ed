"""Racing with the real engine: bad candidates are stopped, good ones are not, and what is stored of
both makes the same study again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from optim.recipe import Recipe
from services import evaluations, registry, stored_suites
from services.settings import Settings
from services.studies import archive, read
from services.studies.advance import advance
from services.studies.evidence import answers_of
from services.studies.export import export_study
from services.studies.record import Study, load_predictions, load_trials, seen_of
from services.suites import parse_suite
from services.sweep import sweep
from tests.plugins.shuffled import Shuffled
from workers.engine.client import Stopped
from workers.engine.results import SuiteResult
from workers.evaluation import EngineKeeper

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: race
pool: tiny
suites: [easy, say, read]
objectives: [easy, read]
search:
  method: cma-es
  bounds: [-4, 5]
  parallelism: PARALLEL
  options: {population: 4, sigma: SIGMA, start: [[1, 0, 0, 0]]}
  RACING
budget: {trials: 8, finalists: 2}
"""
ITEMS = 300


def spec(*, sigma: float, parallelism: int = 4, racing: str = "racing: {}") -> str:
    text = SPEC.replace("SIGMA", str(sigma)).replace("PARALLEL", str(parallelism))
    return text.replace("RACING", racing)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[EngineKeeper]:
    """An engine of this process."""
    found = EngineKeeper(Settings(home=tmp_path, engine_device="cpu"))
    yield found
    found.drop()


@pytest.fixture
def driver(driver: Driver, keeper: EngineKeeper, tmp_path: Path) -> Driver:
    """With an engine, and a suite that the reference answers right: what is far from it is bad."""
    driver.keeper = keeper
    with driver.database.transaction() as connection:
        pool = registry.pool(connection, "tiny")
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(ITEMS)]
    items = [
        {"id": f"{i:03d}", "context": f"{word} =", "choices": [" n", " p", " s"], "gold": 0}
        for i, word in enumerate(words)
    ]
    suite = parse_suite("easy", _lines(items), where="")
    found: list[SuiteResult] = []
    keeper.with_pool(pool, lambda *_: True).evaluate(
        Recipe.one_hot(tuple(pool.digests), list(pool.names).index("now"), pool.dtype),
        [suite],
        None,
        on_suite=found.append,
    )
    answers = found[0].predictions.answer
    assert answers is not None
    for item, answer in zip(items, answers.tolist(), strict=True):
        item["gold"] = answer
    (tmp_path / "easy.jsonl").write_text(_lines(items))
    stored_suites.add_suite(driver.database, "easy", tmp_path / "easy.jsonl")
    return driver


def _lines(items: list[dict[str, object]]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def test_bad_candidates_are_stopped_and_replayed(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    first, second, whole = (
        driver.submit(spec(sigma=1.5)),
        driver.submit(spec(sigma=1.5, parallelism=1)),
        driver.submit(spec(sigma=1.5, racing="racing: null")),
    )
    driver.run(first, order=random.Random(2))
    driver.run(second)
    driver.run(whole)
    searched = [t for t in driver.trials(first) if t.role == "search"]
    stopped = [t for t in searched if t.state == "stopped"]
    assert len(searched) == 8
    assert len(stopped) >= 4
    # whoever evaluates when, the same are stopped, after the same items
    again = [t for t in driver.trials(second) if t.role == "search"]
    assert [(t.slot, t.weights, t.state, t.race) for t in again] == [
        (t.slot, t.weights, t.state, t.race) for t in searched
    ]
    assert all(t.state == "complete" for t in driver.trials(first) if t.role != "search")
    for number in (first, second, whole):
        assert driver.study(number).state == "finished"
        assert_invariants(driver.database, number, driver.config)
    _stored(driver, first)
    # a stopped one is behind whom it lost to, as is seen where the same weights were scored whole
    full = {t.weights: t.objectives for t in driver.trials(whole)}
    by_number = {t.number: t for t in driver.trials(first)}
    for trial in stopped:
        assert trial.race is not None
        winner = by_number[trial.race["by"]["trial"]].objectives
        assert winner is not None
        assert trial.race["seen"]["easy"] < ITEMS / 2 * 1.2
        known = full.get(trial.weights)
        if known is not None:
            assert known[0] < winner[0]
            assert known[1] > winner[1]
            easy, text = trial.race["objectives"]
            assert easy["low"] - 1e-9 <= known[0] <= easy["high"] + 1e-9
            assert text["estimate"] == pytest.approx(known[1])
    assert any(trial.weights in full for trial in stopped)


def _stored(driver: Driver, number: int) -> None:
    """What a stopped evaluation leaves behind: its finished suites, cost, and no numbers."""
    found = driver.sql(
        "SELECT e.state, e.cost, e.race, e.objectives, e.rank, "
        "(SELECT json_object_agg(u.name, p.n) FROM prediction p JOIN suite u ON u.id = p.suite_id "
        " WHERE p.trial_id = t.id AND p.split = 'search') AS stored, "
        "(SELECT count(*) FROM metric m WHERE m.trial_id = t.id) AS metrics "
        "FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %s AND e.split = 'search' ORDER BY t.number",
        number,
    )
    whole = sum(suite.search_items for suite in driver.study(number).suites)
    for one in found:
        if one["state"] == "stopped":
            seen = one["race"]["seen"]
            assert one["cost"]["items"] == sum(seen.values()) < whole
            assert one["cost"]["tokens"] > 0
            assert (one["objectives"], one["rank"], one["metrics"]) == (None, None, 0)
            assert one["stored"]["read"] == seen["read"]
            assert one["stored"].keys() <= {name for name, n in seen.items() if n}
        else:
            assert one["cost"]["items"] == whole
    study = driver.study(number)
    _unfinished(driver, study)
    stopped = [c for c in read.candidates(driver.database, study) if c.trial.state == "stopped"]
    assert all(not c.metrics and not c.feasible for c in stopped)
    data = json.loads(export_study(driver.database, number, "json"))
    assert data["stopped"] == len(stopped)
    assert [t["race"]["by"] for t in data["search"] if t["state"] == "stopped"]
    assert 0 < data["racing"]["saved"] < 1


def _unfinished(driver: Driver, study: Study) -> None:
    """What was scored of suites that did not end is there for those who learn from items."""
    with driver.database.transaction() as connection:
        trials = load_trials(connection, study.id, "search")
        old = load_predictions(connection, study, trials[0].id, "search")
        for trial in trials:
            seen = seen_of(connection, study, [trial.id]).get(trial.id, {})
            whole = load_predictions(connection, study, trial.id, "search")
            if trial.state != "stopped":
                assert not seen
                continue
            assert trial.race is not None
            assert not seen.keys() & whole.keys()
            signal, _ = answers_of(study, old, whole, seen)
            assert np.isfinite(signal).sum() == sum(trial.race["seen"].values())
            for name, count in trial.race["seen"].items():
                if name in whole:
                    assert count == len(whole[name])
                elif count:
                    part = seen[name]
                    assert part.seen.sum() == count
                    right = np.asarray(part.predictions.correct)[part.seen]
                    if name == "easy":
                        # the reference is right on all of it: this is why it was stopped
                        estimate = trial.race["objectives"][0]["estimate"]
                        assert estimate == pytest.approx(right.mean(), abs=0.1)
                        margin = np.asarray(part.predictions.margin)[part.seen]
                        assert ((margin > 0) >= right).all()


def test_a_worker_that_dies_with_the_verdict_leaves_the_next_one_the_same(
    driver: Driver, keeper: EngineKeeper, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(spec(sigma=1.5).replace("[easy, read]", "[easy]"))
    while not (searched := [t for t in driver.trials(number) if t.role == "search"]):
        advance(driver.database, number)
        for one in driver.queued(number)[:1]:
            driver.finish(driver.claim(one))
        advance(driver.database, number)
    verdicts = []
    for trial in searched:
        held = driver.claim(trial.evaluation_id)
        job = evaluations.load_job(driver.database, held)
        race = archive.load(driver.database, held, job)
        assert race is not None
        engine = keeper.with_pool(job.pool, lambda *_: True)
        suites = race.in_order([suite for _, suite in job.suites])
        try:
            engine.evaluate(held.recipe, suites, held.split, race=race)
        except Stopped:
            verdicts.append(race.report())
        else:
            verdicts.append(None)
    driver.sql("UPDATE evaluation SET lease_until = now() WHERE state = 'running'")
    sweep(driver.database, driver.config)
    driver.run(number)
    ended = {t.number: t for t in driver.trials(number)}
    assert any(verdicts)
    for trial, verdict in zip(searched, verdicts, strict=True):
        assert (ended[trial.number].state == "stopped") == (verdict is not None)
        if verdict is not None:
            assert ended[trial.number].race == verdict
    assert_invariants(driver.database, number, driver.config)


def test_good_candidates_are_not_stopped(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(spec(sigma=0.001))
    driver.run(number)
    searched = [t for t in driver.trials(number) if t.role == "search"]
    assert {t.state for t in searched} == {"complete"}
    assert all(t.race is not None and "by" not in t.race for t in searched)
    assert_invariants(driver.database, number, driver.config)


def test_a_constraint_that_cannot_be_kept_stops_a_candidate(driver: Driver) -> None:
    text = spec(sigma=1.5).replace("objectives: [easy, read]", "objectives: [say]")
    number = driver.submit(
        text + "constraints: [{metric: negative_flip_rate, suite: easy, max: 0.2}]\n"
    )
    driver.run(number)
    reasons = [t.race["by"] for t in driver.trials(number) if t.state == "stopped" and t.race]
    assert {"constraint": "negative_flip_rate:easy <= 0.2"} in reasons
    assert driver.study(number).state == "finished"


def test_blocks_in_any_order_give_the_answers_of_whole_suites(
    driver: Driver, keeper: EngineKeeper
) -> None:
    with driver.database.transaction() as connection:
        pool = registry.pool(connection, "tiny")
        suites = [
            stored_suites.suite_from_row(stored_suites.suite_row(connection, name))
            for name in ("easy", "say", "read")
        ]
    engine = keeper.with_pool(pool, lambda *_: True)
    for weights in ((0.4, 0.3, 0.2, 0.1), (1.5, -0.5, 0.3, -0.3), (0.25,) * 4):
        recipe = Recipe(parents=tuple(pool.digests), weights=weights, dtype=pool.dtype)
        found: list[dict[str, SuiteResult]] = []
        watchers = [None, *(Shuffled(seed, ("easy", "say")) for seed in (1, 2, 1))]
        for watcher in watchers:
            one: dict[str, SuiteResult] = {}
            engine.evaluate(
                recipe,
                suites,
                "search",
                race=watcher,
                on_suite=lambda r, one=one: one.update({r.suite: r}),  # type: ignore[misc]
            )
            found.append(one)
        for other in found[1:]:
            for name, result in found[0].items():
                mine, theirs = result.predictions, other[name].predictions
                for field in ("correct", "answer", "tokens"):
                    a, b = getattr(mine, field), getattr(theirs, field)
                    assert (a is None and b is None) or np.array_equal(a, b), (name, field)
                assert mine.texts == theirs.texts
                if mine.margin is not None:
                    np.testing.assert_allclose(mine.margin, theirs.margin, atol=2e-2)
        one, two, again = (w for w in watchers if w is not None)
        assert one.drawn == again.drawn != two.drawn
        assert sorted(one.drawn) == sorted(two.drawn)
        assert len(one.drawn) >= 2 * 16
        for name in ("easy", "say"):
            suite = next(s for s in suites if s.name == name)
            assert sorted(one.items(name)) == list(range(len(suite.split("search"))))
