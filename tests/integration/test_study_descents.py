"""Studies that search with gradients, from the spec to the choice, with the real engine in this
process; and the bookkeeping of descents whatever happens to their workers."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from optim.descent import Job, State
from optim.recipe import Recipe
from services import descents, outbox
from services.cli import front
from services.descents import Claim
from services.errors import BadInput, SpecRefused
from services.settings import Settings
from services.studies import control, read, views
from services.studies.advance import advance
from services.sweep import sweep
from workers.descent import run_descent
from workers.evaluation import EngineKeeper

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: downhill
pool: tiny
suites: [pick, say, read]
objectives: [OBJECTIVES]
search: {method: METHOD, space: affine, seed: 3, options: {OPTIONS}}
budget: {trials: TRIALS, finalists: 3}
"""


def spec(
    method: str, options: str = "", objectives: str = "macro, read, churn", trials: int = 20
) -> str:
    text = SPEC.replace("METHOD", method).replace("OPTIONS", options)
    return text.replace("OBJECTIVES", objectives).replace("TRIALS", str(trials))


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[EngineKeeper]:
    """An engine of this process."""
    found = EngineKeeper(Settings(home=tmp_path, engine_device="cpu"))
    yield found
    found.drop()


def made(driver: Driver, study: int) -> list[dict[str, Any]]:
    """The study's descents."""
    return driver.sql("SELECT * FROM descent WHERE study_id = %s ORDER BY number", study)


def claim(driver: Driver, study: int) -> Claim:
    """The first descent that waits."""
    waiting = driver.database.rows("descents.queued", study=study)
    held = descents.claim(driver.database, waiting[0]["id"], "driver", driver.config)
    assert held is not None
    return held


def begun(driver: Driver, text: str) -> int:
    """A study whose baselines are told and whose descents wait."""
    number = driver.submit(text)
    driver.run(number)
    assert made(driver, number)
    return number


def ended(driver: Driver, held: Claim, seed: int = 0) -> bool:
    """End a descent by formula, as an engine might have."""
    n = len(held.job.parents)
    weights = tuple(np.random.default_rng([held.number, seed]).dirichlet(np.ones(n)).tolist())
    recipe = Recipe(parents=held.job.parents, weights=weights, dtype=held.job.dtype)
    cost = {"step": 7, "loss": 0.5, "passes": 12}
    return descents.complete(
        driver.database, held, recipe=recipe, weights=weights, step=7, cost=cost
    )


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("gradient", "directions: 3, steps: 8, grain: layers", 3),
        ("gradient", "directions: 1, steps: 8, grain: columns, loss: entropy, start: best", 1),
        ("dam", "directions: 2, steps: 6, rate: 0.01", 2),
    ],
)
def test_candidates_of_descents_are_candidates(
    driver: Driver,
    keeper: EngineKeeper,
    assert_invariants: AssertInvariants,
    method: str,
    options: str,
    count: int,
) -> None:
    driver.keeper = keeper
    number = begun(driver, spec(method, options))
    for _ in range(count):
        run_descent(driver.database, driver.config, keeper, claim(driver, number), Event())
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.failure) == ("finished", None)
    searched = [t for t in driver.trials(number) if t.role == "search"]
    assert [t.slot for t in searched] == [f"d{i:03d}" for i in range(count)]
    assert all(len(t.weights) == 4 and t.objectives is not None for t in searched)
    for one, trial in zip(made(driver, number), searched, strict=True):
        recipe = Recipe.from_dict(one["recipe"])
        assert (recipe.digest, one["memory"]) == (trial.recipe_digest, None)
        assert bool(recipe.columns) == ("columns" in options or method == "dam")
        assert bool(recipe.groups) == ("layers" in options)
        assert one["cost"]["passes"] == 3 * one["cost"]["items"] + one["cost"]["taught"] > 0
    assert len({t.recipe_digest for t in searched}) == count
    assert_invariants(driver.database, number, driver.config)
    # a candidate has the same bytes on every split
    digests = driver.sql(
        "SELECT count(DISTINCT weights_digest) AS n FROM evaluation WHERE state = 'complete' "
        "GROUP BY trial_id"
    )
    assert {d["n"] for d in digests} == {1}


def test_what_the_descents_of_a_study_lower(driver: Driver) -> None:
    number = begun(driver, spec("gradient", "directions: 4"))
    found = made(driver, number)
    assert found[0]["preference"] == pytest.approx([1 / 3] * 3)
    assert sorted(d["preference"] for d in found[1:]) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    by_aim = {}
    for d in found[1:]:
        job = Job.from_dict(d["job"])
        by_aim[d["preference"].index(1)] = {
            (t.suite, t.loss, t.teacher, t.weight) for t in job.tasks
        }
        assert (job.low, job.high) == ((-0.5,) * 4, (1.5,) * 4)
    assert by_aim == {
        0: {("pick", "supervised", None, 0.5), ("say", "supervised", None, 0.5)},
        1: {("read", "supervised", None, 1.0)},
        # churn: to say what the reference, the first of the pool, says
        2: {("pick", "imitate", 0, 0.5), ("say", "imitate", 0, 0.5)},
    }


def test_each_suites_expert_is_the_checkpoint_that_is_best_on_it(driver: Driver) -> None:
    number = begun(driver, spec("dam"))
    (found,) = made(driver, number)
    job = Job.from_dict(found["job"])
    assert job.free
    assert (job.steps, job.rate, job.temperature, job.similarity) == (None, 1e-3, 2.0, 0.01)
    scores = driver.sql(
        "SELECT m.suite, t.label, m.value FROM metric m JOIN trial t ON t.id = m.trial_id "
        "WHERE m.name = 'score' AND t.role IN ('reference', 'single') AND m.split = 'search' "
        "AND t.study_id = %s",
        number,
    )
    assert [task.weight for task in job.tasks] == pytest.approx([1.0] * 3)
    for task in job.tasks:
        mine = {s["label"]: s["value"] for s in scores if s["suite"] == task.suite}
        best = min(mine.values()) if task.suite == "read" else max(mine.values())
        assert mine[("now", "left", "right", "far")[task.teacher or 0]] == best


def test_the_budget_bounds_the_descents(driver: Driver) -> None:
    assert len(made(driver, begun(driver, spec("gradient", "directions: 9", trials=2)))) == 2
    # one aim leaves nothing to prefer
    assert len(made(driver, begun(driver, spec("gradient", "", "macro")))) == 1


def test_a_descent_goes_on_where_its_dead_worker_stood(
    driver: Driver, keeper: EngineKeeper
) -> None:
    """And comes to the same candidate as one that was never stopped."""
    driver.keeper = keeper
    text = spec("gradient", "directions: 1, steps: 12, grain: columns")
    undisturbed, number = begun(driver, text), begun(driver, text)
    run_descent(driver.database, driver.config, keeper, claim(driver, undisturbed), Event())
    first = claim(driver, number)
    kept: list[State] = []
    pool, suites = descents.load_job(driver.database, first)
    engine = keeper.with_pool(pool, lambda *_: True)
    engine.descend(first.job, suites, save_seconds=0, on_state=kept.append)
    descents.save(driver.database, first, kept[4])
    descents.save(driver.database, first, kept[2])  # late: the later step stays
    driver.sql(
        "UPDATE descent SET lease_until = now() - interval '1 s' WHERE id = %s", first.descent
    )
    assert sweep(driver.database, driver.config)["descents"] == 1
    second = claim(driver, number)
    assert (second.attempt, second.state.step if second.state else None) == (2, 5)
    # the dead one is none: it may not write any more
    descents.save(driver.database, first, kept[8])
    assert not ended(driver, first)
    assert (
        descents.LEASES.fail(driver.database, first, "x", retryable=True, config=driver.config)
        is None
    )
    run_descent(driver.database, driver.config, keeper, second, Event())
    recipes = [made(driver, n)[0]["recipe"] for n in (undisturbed, number)]
    assert recipes[0] == recipes[1]
    assert made(driver, number)[0]["cost"]["items"] == made(driver, undisturbed)[0]["cost"]["items"]


def test_failures_have_kinds(
    driver: Driver, assert_invariants: AssertInvariants, capsys: pytest.CaptureFixture[str]
) -> None:
    number = begun(driver, spec("gradient", "directions: 3"))
    bad, unlucky, good = (claim(driver, number) for _ in range(3))
    fail = descents.LEASES.fail
    assert fail(driver.database, bad, "no", retryable=False, config=driver.config) == "failed"
    assert fail(driver.database, unlucky, "oh", retryable=True, config=driver.config) == "queued"
    again = claim(driver, number)
    assert fail(driver.database, again, "oh", retryable=True, config=driver.config) == "abandoned"
    descents.LEASES.give_back(driver.database, good)
    advance(driver.database, number)
    assert driver.study(number).phase == "search"
    last = claim(driver, number)
    assert (last.descent, last.attempt) == (good.descent, 2)
    assert ended(driver, last)
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert [t.slot for t in driver.trials(number) if t.role == "search"] == ["d002"]
    assert_invariants(driver.database, number, driver.config)
    told = [e["text"] for e in driver.database.rows("studies.events", study=number)]
    assert "descent 0 failed: no" in told
    assert "descent 1 abandoned: oh" in told
    assert any(text.startswith("descent 2 ended after 7 steps") for text in told)
    front.print_front(driver.database, number)
    shown = capsys.readouterr().out
    assert "descents (gradient)" in shown
    assert re.search(r"0 .*failed .* no\b", shown)
    assert re.search(r"2 .*complete +7 +0.5000 +12", shown)
    assert read.study_summary(driver.database, number)["budget"] == 3


@pytest.mark.parametrize("seed", range(4))
def test_the_order_in_which_descents_end_changes_no_candidate(driver: Driver, seed: int) -> None:
    luck = random.Random(seed)
    number = begun(driver, spec("gradient", "directions: 5"))
    held = [claim(driver, number) for _ in range(5)]
    luck.shuffle(held)
    for one in held:
        assert ended(driver, one)
        if luck.random() < 0.5:
            driver.run(number, order=luck)
        advance(driver.database, number)
        advance(driver.database, number)
    driver.run(number, order=luck)
    assert driver.study(number).state == "finished"
    entered = {t.slot: t.weights for t in driver.trials(number) if t.role == "search"}
    assert entered == {f"d{d['number']:03d}": tuple(d["weights"]) for d in made(driver, number)}


def test_a_lost_message_is_sent_again(driver: Driver) -> None:
    number = begun(driver, spec("gradient", "directions: 2"))
    outbox.relay(driver.database)
    driver.sql(
        "UPDATE descent SET queued_at = now() - interval '1 day' WHERE study_id = %s", number
    )
    assert sweep(driver.database, driver.config)["descents"] == 2
    assert sweep(driver.database, driver.config)["descents"] == 0


def test_a_study_that_waits_for_descents_is_not_asleep(driver: Driver) -> None:
    number = begun(driver, spec("gradient", "directions: 1"))
    driver.sql("UPDATE study SET changed_at = now() - interval '1 day'")
    assert sweep(driver.database, driver.config)["woken"] == 0
    held = claim(driver, number)
    driver.sql("UPDATE descent SET state = 'failed' WHERE id = %s", held.descent)
    assert sweep(driver.database, driver.config)["woken"] == 1


def test_pause_resume_and_cancel(driver: Driver) -> None:
    number = begun(driver, spec("gradient", "directions: 2"))
    held = claim(driver, number)
    (flying,) = views.in_flight(driver.database)
    assert (flying["split"], flying["worker"], flying["attempt"]) == ("descent", "driver", 1)
    assert views.flight(driver.database, number) == {"running": 1, "share": 0.0}
    control.pause(driver.database, number)
    waiting = driver.database.rows("descents.queued", study=number)[0]["id"]
    assert descents.claim(driver.database, waiting, "driver", driver.config) is None
    control.resume(driver.database, number)
    assert descents.LEASES.renew(driver.database, held, 0.5, driver.config)
    control.cancel(driver.database, number)
    assert not descents.LEASES.renew(driver.database, held, 0.5, driver.config)
    assert not ended(driver, held)
    assert {d["state"] for d in made(driver, number)} == {"cancelled"}


def test_out_of_time_gives_up_what_waits(driver: Driver) -> None:
    number = begun(
        driver,
        spec("gradient", "directions: 3").replace("trials: 20", "trials: 20, wall_minutes: 60"),
    )
    held = claim(driver, number)
    driver.sql("UPDATE study SET created_at = now() - interval '2 hours' WHERE id = %s", number)
    advance(driver.database, number)
    assert [d["state"] for d in made(driver, number)] == ["running", "cancelled", "cancelled"]
    assert driver.study(number).phase == "search"
    assert ended(driver, held)
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert [t.slot for t in driver.trials(number) if t.role == "search"] == ["d000"]


def test_a_changed_suite_ends_the_descent_for_good(driver: Driver, keeper: EngineKeeper) -> None:
    number = begun(driver, spec("gradient", "directions: 1"))
    held = claim(driver, number)
    driver.sql('UPDATE suite SET settings = settings || \'{"split_seed": "9"}\'')
    with pytest.raises(BadInput):
        run_descent(driver.database, driver.config, keeper, held, Event())


def test_options_are_checked_when_the_study_is_submitted(driver: Driver) -> None:
    with pytest.raises(SpecRefused, match=r"search\.options\.grain: 'rows' is not one of .'model'"):
        driver.submit(spec("gradient", "grain: rows"))
    with pytest.raises(SpecRefused, match=r"search\.options\.grain: dam has no such option"):
        driver.submit(spec("dam", "grain: model"))
    upwards = "{metric: churn, direction: maximize}"
    with pytest.raises(SpecRefused, match="cannot maximize churn"):
        driver.submit(spec("gradient", objectives=f"macro, {upwards}"))
    driver.sql("UPDATE suite SET settings = settings || '{\"task\": {}}' WHERE name = 'pick'")
    with pytest.raises(SpecRefused, match="needs gradients, and suite 'pick' is judged by lm-eval"):
        driver.submit(spec("gradient"))


def test_a_searcher_starts_from_what_descents_found(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    text = spec("cma-es", "population: 4", trials=9).replace("seed: 3", "seed: 3, warm_start: 2")
    plain = driver.submit(text.replace("warm_start: 2", "warm_start: 0"))
    driver.run(plain)
    number = begun(driver, text)
    # baselines stand, the searcher waits
    assert not [t for t in driver.trials(number) if t.role in ("search", "warm")]
    jobs = [Job.from_dict(d["job"]) for d in made(driver, number)]
    assert [(job.grain, job.steps) for job in jobs] == [("model", 60)] * 2
    for _ in range(2):
        assert ended(driver, claim(driver, number))
        driver.run(number)
    assert driver.study(number).state == "finished"
    trials = driver.trials(number)
    assert [t.slot for t in trials if t.role == "warm"] == ["d000", "d001"]
    searched = [t.weights for t in trials if t.role == "search"]
    assert len(searched) == 9
    # the first of them come after the last descent's candidate was told
    assert min(t.number for t in trials if t.role == "search") > max(
        t.number for t in trials if t.role == "warm"
    )
    assert searched[0] != next(t.weights for t in driver.trials(plain) if t.role == "search")
    for one in (plain, number):
        assert_invariants(driver.database, one, driver.config)


def test_a_searcher_does_not_wait_for_descents_that_failed(driver: Driver) -> None:
    text = spec("random", "", trials=3).replace("seed: 3", "warm_start: 1")
    number = begun(driver, text)
    held = claim(driver, number)
    descents.LEASES.fail(driver.database, held, "no", retryable=False, config=driver.config)
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert len([t for t in driver.trials(number) if t.role == "search"]) == 3


def test_descents_do_not_start_from_descents(driver: Driver) -> None:
    with pytest.raises(SpecRefused, match="warm_start is for other methods"):
        driver.submit(spec("gradient").replace("seed: 3", "warm_start: 1"))
