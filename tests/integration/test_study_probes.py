"""Probes: what a study is asked for after its choice changes nothing of the study itself."""

from __future__ import annotations

import getpass
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from optim.predictions import Predictions
from optim.recipe import Recipe
from services import evaluations
from services.errors import BadInput
from services.evaluations import Claim
from services.settings import Settings
from services.studies import (
    attribution,
    budget,
    certainty,
    coalitions,
    control,
    explore,
    health,
    probes,
    read,
    views,
)
from services.studies.advance import advance
from services.studies.columns import columns_of
from services.studies.evidence import gather
from services.studies.export import export_study
from services.studies.probes import Probe
from services.studies.record import load_trials
from services.studies.tell import tell
from services.suites import Suite
from services.sweep import sweep, wake

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver, Recorder

SPEC = """
name: probed
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate, read]
search: {method: random, space: simplex, parallelism: 4, seed: 3}
budget: {trials: 6, finalists: 2}
"""


def finished(driver: Driver, text: str = SPEC) -> int:
    number = driver.submit(text)
    driver.run(number)
    assert driver.study(number).state == "finished"
    return number


def some(driver: Driver, number: int, count: int = 3) -> list[Probe]:
    """Mixtures that no search has seen."""
    study, found = driver.study(number), []
    for i in range(1, count + 1):
        row = (1 - i / 64, i / 64, 0.0, 0.0)
        recipe = Recipe(parents=study.pool.digests, weights=row, dtype=study.pool.dtype)
        found.append(Probe(recipe=recipe, weights=row, label=f"mixture {i}"))
    return found


def better_than_all(driver: Driver) -> None:
    """Let probes answer what no candidate does, so that none goes unnoticed."""
    usual = driver.answers

    def perfect(held: Claim, suite: Suite) -> Predictions:
        found = usual(held, suite)
        if held.role != "probe":
            return found
        if found.nll is not None:
            return replace(found, nll=found.nll / 10)
        assert found.correct is not None
        return replace(found, correct=np.ones_like(found.correct))

    driver.answers = perfect


def everything(driver: Driver, number: int) -> dict[str, Any]:
    """All that a study says of itself but its last change."""
    database, study = driver.database, driver.study(number)
    with database.transaction() as connection:
        evidence = gather(connection, study, load_trials(connection, number, "search"))
        spent = budget.spent(connection, number)
    summary = read.study_summary(database, number)
    del summary["changed_at"]
    found: dict[str, Any] = {
        "summary": summary,
        "spent": (spent.trials, spent.open, spent.items, spent.items_each),
        "expected": views.expected(study, summary),
        "racing": read.racing_saved(database, number),
        "extremes": database.rows("views.extremes"),
        "flight": views.flight(database, number),
        "health": health.findings(database, study),
        "export": export_study(database, number, "csv"),
        "evidence": (len(evidence.earlier), sorted(evidence.answers)),
    }
    for split in probes.SPLITS:
        candidates = read.candidates(database, study, split)
        found[split] = candidates
        found[f"{split} curve"] = views.progress(study, columns_of(candidates))
        found[f"{split} front"] = certainty.on_the_front(database, study, split)
        found[f"{split} metrics"] = database.rows("studies.metrics", study=number, split=split)
    return found


def test_a_study_is_the_same_with_probes(
    driver: Driver, recorder: type[Recorder], assert_invariants: AssertInvariants
) -> None:
    """Fronts, ranks, evidence, curves, budgets, counts and health."""
    number = finished(driver)
    before = everything(driver, number)
    better_than_all(driver)
    asked = some(driver, number)
    for split in probes.SPLITS:
        probes.submit(driver.database, number, asked, split)
    study = driver.study(number)
    waiting = everything(driver, number)
    assert waiting == before
    held = driver.claim(driver.queued(number)[0])
    assert views.in_flight(driver.database)[0]["number"] == held.number
    assert everything(driver, number) == before
    assert driver.finish(held)
    driver.run(number)
    assert everything(driver, number) == before
    with driver.database.transaction() as connection:
        for split in probes.SPLITS:
            found = probes.load(connection, study, split)
            assert [t.label for t in found] == [p.label for p in asked]
            assert all(t.told and len(t.objectives or ()) == 3 for t in found)
            assert all(t.rank is None for t in found)
            assert all((t.objectives or ())[:2] == (1.0, 0.0) for t in found)
    assert {(c["split"], c["state"]): c["n"] for c in probes.counts(driver.database, number)} == {
        ("search", "complete"): 3,
        ("validation", "complete"): 3,
    }
    # nor does a later study start from them
    later = driver.submit(SPEC.replace("seed: 3", "seed: 4, reuse: true"))
    advance(driver.database, later)
    roles = driver.sql(
        "SELECT DISTINCT t.role FROM earlier_result r JOIN trial t ON t.id = r.trial_id "
        "WHERE r.study_id = %s",
        later,
    )
    assert roles
    assert "probe" not in {r["role"] for r in roles}
    assert_invariants(driver.database, number, driver.config)


def test_a_recipe_is_evaluated_once_on_a_split(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = finished(driver)
    study = driver.study(number)
    single = Probe(
        recipe=Recipe.one_hot(study.pool.digests, 1, study.pool.dtype),
        weights=(0.0, 1.0, 0.0, 0.0),
        label="a baseline",
    )
    asked = [*some(driver, number, 2), single]
    found = probes.submit(driver.database, number, [*asked, *asked], "validation")
    assert found[single.recipe.digest].role == "single"
    assert len(driver.queued(number)) == 2
    again = probes.submit(driver.database, number, asked, "validation")
    assert {t.id for t in again.values()} == {t.id for t in found.values()}
    assert len(driver.queued(number)) == 2
    driver.run(number)
    probes.submit(driver.database, number, asked, "validation")
    assert not driver.queued(number)
    # on another split it is the same trial
    other = probes.submit(driver.database, number, asked, "search")
    assert {t.id for t in other.values()} == {t.id for t in found.values()}
    driver.run(number)
    # a searched candidate that was no finalist is probed on validation, and stays no finalist
    finalists = {t.number for t in driver.trials(number, "validation")}
    left = next(
        t
        for t in driver.trials(number)
        if t.number not in finalists
        and t.recipe_digest not in {f.recipe_digest for f in driver.trials(number, "validation")}
    )
    recipe = Recipe.from_dict(read.trial_detail(driver.database, study, left.number)["recipe_data"])
    probe = Probe(recipe=recipe, weights=left.weights, label="left out")
    assert probes.submit(driver.database, number, [probe], "validation")[recipe.digest].number != (
        left.number
    )
    driver.run(number)
    assert {t.number for t in driver.trials(number, "validation")} == finalists
    assert_invariants(driver.database, number, driver.config)


def test_probes_wait_for_the_choice_and_never_touch_the_test_split(driver: Driver) -> None:
    number = driver.submit(SPEC)
    asked = some(driver, number, 1)
    with pytest.raises(BadInput, match="in its search phase"):
        probes.submit(driver.database, number, asked, "validation")
    driver.run(number)
    with pytest.raises(BadInput, match="sealed"):
        probes.submit(driver.database, number, asked, "test")  # type: ignore[arg-type]
    found = probes.submit(driver.database, number, asked, "search")
    # not even by mistake
    for trial in (t.id for t in found.values()):
        with pytest.raises(psycopg.errors.CheckViolation, match="open split"):
            driver.sql("INSERT INTO evaluation (trial_id, split) VALUES (%s, 'test')", trial)
    cancelled = driver.submit(SPEC)
    control.cancel(driver.database, cancelled)
    with pytest.raises(BadInput, match="is cancelled"):
        probes.submit(driver.database, cancelled, asked, "validation")


def test_probes_are_retried_given_back_swept_and_fenced(
    driver: Driver, config: Settings, assert_invariants: AssertInvariants
) -> None:
    number = finished(driver)
    probes.submit(driver.database, number, some(driver, number, 4), "validation")
    first, second, third, fourth = driver.queued(number)
    held = driver.claim(first)
    driver.fail(held, retryable=True)
    assert not driver.finish(held)
    held = driver.claim(first)
    evaluations.LEASES.give_back(driver.database, held)
    held = driver.claim(first)
    driver.fail(held, "again", retryable=True)
    # a lease that runs out
    zombie = driver.claim(second, "gone")
    driver.sql("UPDATE evaluation SET lease_until = now() - interval '9 s' WHERE id = %s", second)
    assert sweep(driver.database, config)["expired"] == 1
    assert driver.finish(driver.claim(second))
    assert not driver.finish(zombie)
    # a message that was lost
    driver.sql("UPDATE evaluation SET queued_at = now() - interval '1 day' WHERE id = %s", third)
    driver.sql("DELETE FROM outbox")
    assert evaluations.requeue_lost(driver.database, 60) == 1
    assert driver.finish(driver.claim(third))
    # results of a finished study that nobody told it of
    assert driver.finish(driver.claim(fourth))
    with driver.database.transaction() as connection:
        # told apart from the study's own trials, so never ranked among them
        assert tell(connection, driver.study(number), "validation") == 0
    driver.sql("UPDATE study SET changed_at = now() - interval '1 day' WHERE id = %s", number)
    assert wake(driver.database, 60) == 1
    driver.run(number)
    driver.sql("UPDATE study SET changed_at = now() - interval '1 day' WHERE id = %s", number)
    assert wake(driver.database, 60) == 0
    with driver.database.transaction() as connection:
        states = [t.state for t in probes.load(connection, driver.study(number), "validation")]
    assert states == ["abandoned", "complete", "complete", "complete"]
    # who failed may be asked for again
    asked = some(driver, number, 4)
    assert len(probes.standing(driver.database, driver.study(number), asked, "validation").failed)
    probes.submit(driver.database, number, asked, "validation")
    driver.run(number)
    standing = probes.standing(driver.database, driver.study(number), asked, "validation")
    assert (standing.total, standing.told, standing.failed) == (4, 4, ())
    assert_invariants(driver.database, number, driver.config)


def test_pausing_and_cancelling_a_finished_study_is_about_its_probes(
    driver: Driver, config: Settings, assert_invariants: AssertInvariants
) -> None:
    number = finished(driver)
    for steer in (control.pause, control.resume):
        with pytest.raises(BadInput, match="is finished"):
            steer(driver.database, number)
    asked = some(driver, number)
    probes.submit(driver.database, number, asked, "validation")
    control.pause(driver.database, number)
    assert evaluations.claim(driver.database, driver.queued(number)[0], "w", config) is None
    assert probes.counts(driver.database, number)[0]["held"]
    control.resume(driver.database, number)
    held = driver.claim(driver.queued(number)[0])
    control.cancel(driver.database, number)
    assert not evaluations.LEASES.renew(driver.database, held, 0.5, config)
    assert not driver.finish(held)
    assert driver.study(number).state == "finished"
    standing = probes.standing(driver.database, driver.study(number), asked, "validation")
    assert [why for _, _, why in standing.failed] == ["cancelled"] * 3
    with pytest.raises(BadInput, match="is finished"):
        control.cancel(driver.database, number)
    said = [e["text"] for e in read.events(driver.database, number)][-4:]
    assert said == [
        f"{what} by {getpass.getuser()}" for what in (
            "3 probes asked for on validation", "probes paused", "probes resumed",
            "probes cancelled",
        )
    ]  # fmt: skip
    probes.submit(driver.database, number, asked, "validation")
    driver.run(number)
    standing = probes.standing(driver.database, driver.study(number), asked, "validation")
    assert standing.told == 3
    assert_invariants(driver.database, number, driver.config)


def test_probes_while_the_choice_is_published(
    driver: Driver, config: Settings, assert_invariants: AssertInvariants
) -> None:
    """The study neither waits for its probes nor takes them along when it ends."""
    number = driver.submit(SPEC + "publish: {to: store}\n")
    driver.run(number)
    assert driver.study(number).phase == "publish"
    asked = some(driver, number)
    probes.submit(driver.database, number, asked, "validation")
    control.pause(driver.database, number)
    assert evaluations.claim(driver.database, driver.queued(number)[0], "w", config) is None
    control.resume(driver.database, number)
    held = driver.claim(driver.queued(number)[0])
    # probes that hang are no reason not to look after the study
    driver.sql("UPDATE study SET changed_at = now() - interval '1 day' WHERE id = %s", number)
    assert wake(driver.database, 60) == 1
    driver.sql(
        "UPDATE artefact SET state = 'published', digest = 'd', weights_digest = 'w' "
        "WHERE trial_id IN (SELECT id FROM trial WHERE study_id = %s)",
        number,
    )
    advance(driver.database, number)
    assert driver.study(number).state == "finished"
    assert driver.finish(held)
    driver.run(number)
    study = driver.study(number)
    assert probes.standing(driver.database, study, asked, "validation").told == 3
    assert_invariants(driver.database, number, driver.config)


def test_attribution_shares_out_what_the_merge_gained(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = finished(driver)
    study = driver.study(number)
    soup = next(t for t in driver.trials(number) if t.role == "uniform")
    plan = coalitions.plan(driver.database, study, soup.number)
    assert [p.name for p in plan.players] == study.pool.names
    assert len(plan.merges) == 16
    nothing = attribution.result(driver.database, study, plan)
    # four single checkpoints and the whole are baselines; greedy soups may be among the others
    known = nothing.standing.told
    assert nothing.standing.total == 15
    assert known >= 5
    assert nothing.axes[0].all is not None
    assert nothing.axes[0].shapley[0].value is None
    attribution.submit(driver.database, study, plan)
    assert len(driver.queued(number)) == 15 - known
    driver.finish(driver.claim(driver.queued(number)[0]))
    advance(driver.database, number)
    assert attribution.result(driver.database, study, plan).standing.told == known + 1
    driver.run(number)
    found = attribution.result(driver.database, study, plan)
    assert found.standing.told == 15
    own = {t.number: t for t in driver.trials(number, "validation")}
    for index, axis in enumerate(found.axes):
        assert axis.all == pytest.approx((own[soup.number].objectives or ())[index])
        assert axis.empty == pytest.approx((own[0].objectives or ())[index])
        values = [f.value for f in axis.shapley]
        assert sum(v or 0 for v in values) == pytest.approx(axis.all - axis.empty)
        for figure in (*axis.shapley, *axis.leave_one_out):
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low <= (figure.value or 0) <= figure.high
    # leave-one-out by the objectives of the very probe
    with driver.database.transaction() as connection:
        by_label = {t.label: t for t in probes.load(connection, study, "validation")}
    without = by_label[f"trial {soup.number} without far"].objectives or ()
    for index, axis in enumerate(found.axes):
        assert axis.leave_one_out[3].value == pytest.approx((axis.all or 0) - without[index])
    data = found.to_dict()
    assert data["objectives"][0]["parents"][0]["name"] == "now"
    assert data["absent"] == "renormalised"
    # once more costs nothing
    attribution.submit(driver.database, study, plan)
    assert not driver.queued(number)
    assert_invariants(driver.database, number, driver.config)


def test_attribution_with_a_base_where_weights_are_negative(driver: Driver) -> None:
    number = finished(driver, SPEC.replace("simplex", "task"))
    study = driver.study(number)
    found = next(t for t in driver.trials(number) if t.role == "search")
    plan = coalitions.plan(driver.database, study, found.number, split="search")
    assert (plan.base, plan.empty) == ("now", "base")
    assert {p.name for p in plan.players} == {"left", "right", "far"}
    attribution.submit(driver.database, study, plan)
    driver.run(number)
    result = attribution.result(driver.database, study, plan)
    for axis in result.axes:
        gained = (axis.all or 0) - (axis.empty or 0)
        assert sum(f.value or 0 for f in axis.shapley) == pytest.approx(gained)
    with pytest.raises(BadInput, match="is the base"):
        coalitions.plan(driver.database, study, 0)
    with pytest.raises(BadInput, match="sealed"):
        coalitions.plan(driver.database, study, 0, split="test")  # type: ignore[arg-type]


def test_parents_of_little_weight_play_as_one(driver: Driver) -> None:
    number = finished(driver)
    study = driver.study(number)
    row = (0.6, 0.39, 0.006, 0.004)
    recipe = Recipe(parents=study.pool.digests, weights=row, dtype=study.pool.dtype)
    made = probes.submit(
        driver.database, number, [Probe(recipe=recipe, weights=row, label="uneven")], "validation"
    )
    driver.run(number)
    trial = made[recipe.digest].number
    plan = coalitions.plan(driver.database, study, trial, empty="uniform")
    assert [p.name for p in plan.players] == ["now", "left", "2 of little weight"]
    assert [p.parents for p in plan.players] == [(0,), (1,), (2, 3)]
    assert plan.merges[0].weights == (0.25,) * 4
    assert plan.merges[4].weights == (0.0, 0.0, 0.6, 0.4)


def test_moves_around_a_candidate(driver: Driver, assert_invariants: AssertInvariants) -> None:
    number = finished(driver)
    study = driver.study(number)
    plan = explore.plan(driver.database, study, moves=12, step=0.03)
    again = explore.plan(driver.database, study, moves=5, step=0.03)
    assert [m.weights for m in again.merges] == [m.weights for m in plan.merges[:6]]
    assert plan.candidate == read.study_summary(driver.database, number)["chosen"]
    before = explore.result(driver.database, study, plan)
    assert (before.moves, before.near, before.mean_churn) == ((), 0, None)
    explore.submit(driver.database, study, plan)
    driver.run(number)
    found = explore.result(driver.database, study, plan, epsilon=0.02)
    assert len(found.moves) == 12
    assert all(0 < m.length <= 0.03 + 1e-5 for m in found.moves)
    chosen = next(
        t for t in driver.trials(number, "validation") if t.number == plan.candidate
    ).objectives
    assert chosen is not None
    for move in found.moves:
        # macro is to rise, the others to fall
        gaps = [chosen[0] - move.objectives[0], move.objectives[1] - chosen[1]]
        gaps.append(move.objectives[2] - chosen[2])
        assert move.worse == pytest.approx(max(gaps))
        assert move.near == (move.worse <= 0.02 + 1e-12)
    assert found.near == sum(m.near for m in found.moves)
    everything_near = explore.result(driver.database, study, plan, epsilon=9.0)
    assert everything_near.near == 12
    largest = max(m.churn or 0 for m in everything_near.moves)
    assert largest <= (everything_near.largest_churn or 0)
    assert largest <= (everything_near.ambiguity or 0)
    with pytest.raises(BadInput, match="moves"):
        explore.plan(driver.database, study, moves=0)
    with pytest.raises(BadInput, match="step"):
        explore.plan(driver.database, study, step=0.0)
    assert_invariants(driver.database, number, driver.config)
