"""Engines and workers that die, stop, or come back from the dead in the middle of an evaluation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from optim.recipe import Recipe
from services.studies import probes, read
from services.studies.probes import Probe

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.stack import Stack

Freeze = Callable[..., Any]


def attempts_by_suite(stack: Stack, evaluation: int) -> dict[str, int]:
    """Which attempt wrote each suite."""
    found = stack.sql(
        "SELECT u.name, p.attempt FROM prediction p JOIN suite u ON u.id = p.suite_id "
        "JOIN evaluation e ON e.trial_id = p.trial_id AND e.split = p.split WHERE e.id = %s",
        evaluation,
    )
    return {f["name"]: f["attempt"] for f in found}


def tokens_of_last_attempt(stack: Stack, evaluation: int) -> tuple[int, int]:
    """(tokens of the attempt that completed an evaluation, tokens of its longer suite)."""
    found = stack.sql(
        "SELECT (e.cost->>'tokens')::int AS all, (p.cost->>'tokens')::int AS long "
        "FROM evaluation e JOIN prediction p ON p.trial_id = e.trial_id AND p.split = e.split "
        "JOIN suite u ON u.id = p.suite_id WHERE u.name = 'long' AND e.id = %s",
        evaluation,
    )
    return found[0]["all"], found[0]["long"]


def ended_as(stack: Stack, evaluation: int) -> tuple[str, int, int]:
    """(state, attempts, forgiven ones) of an evaluation."""
    found = stack.sql("SELECT state, attempt, forgiven FROM evaluation WHERE id = %s", evaluation)
    return found[0]["state"], found[0]["attempt"], found[0]["forgiven"]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_engine_killed_midway(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    study = stack.submit(slow)
    midway = frozen_midway(stack, study)
    os.killpg(midway.engine, signal.SIGKILL)
    assert stack.finished(study) == "finished"
    assert ended_as(stack, midway.evaluation) == ("complete", 2, 0)
    # the suite that was finished is not evaluated again
    assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
    spent, long = tokens_of_last_attempt(stack, midway.evaluation)
    assert spent == long > 0
    assert midway.worker.alive
    assert_invariants(stack.database, study, stack.config)


def test_one_rank_of_an_engine_killed_midway(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    """The whole group ends with it, and the next attempt has a new one."""
    for worker in stack.of_kind("evaluate"):
        worker.end()
    many = stack.start("evaluate", REMELT_ENGINE_RANKS="2")
    try:
        study = stack.submit(slow)
        midway = frozen_midway(stack, study)
        assert midway.worker is many
        (other,) = psutil.Process(midway.engine).children()
        other.kill()
        os.kill(midway.engine, signal.SIGCONT)
        stack.wait(lambda: gone(midway.engine), "rank 0 has ended", seconds=30)
        assert stack.finished(study) == "finished"
        assert ended_as(stack, midway.evaluation) == ("complete", 2, 0)
        assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
        group = many.engine()
        assert group is not None
        assert group != midway.engine
        assert len(psutil.Process(group).children()) == 1
        assert many.alive
        assert_invariants(stack.database, study, stack.config)
    finally:
        many.end()


def test_worker_killed_midway(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    study = stack.submit(slow)
    midway = frozen_midway(stack, study)
    midway.worker.signal(signal.SIGKILL)
    midway.worker.process.wait()
    os.kill(midway.engine, signal.SIGCONT)
    stack.wait(lambda: gone(midway.engine), "the orphaned engine has ended", seconds=30)
    assert stack.finished(study) == "finished"
    assert ended_as(stack, midway.evaluation) == ("complete", 2, 0)
    assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
    assert_invariants(stack.database, study, stack.config)


def test_worker_asked_to_stop_gives_its_claim_back(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    stack.wait_ready()
    study = stack.submit(slow)
    midway = frozen_midway(stack, study)
    asked = time.monotonic()
    midway.worker.signal(signal.SIGTERM)
    time.sleep(1.0)  # it has told the engine to stop
    os.kill(midway.engine, signal.SIGCONT)
    assert midway.worker.process.wait(60) == 0
    assert time.monotonic() - asked < 30
    stack.wait(lambda: gone(midway.engine), "its engine has ended", seconds=30)
    assert stack.finished(study) == "finished"
    assert ended_as(stack, midway.evaluation) == ("complete", 2, 1)
    assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
    assert_invariants(stack.database, study, stack.config)


def test_zombie_cannot_write(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    """A worker that sleeps past its lease finds its results waiting, and may not store them."""
    stack.wait_ready()
    study = stack.submit(slow)
    midway = frozen_midway(stack, study)
    midway.worker.signal(signal.SIGSTOP)
    os.kill(midway.engine, signal.SIGCONT)
    stack.wait(
        lambda: ended_as(stack, midway.evaluation)[:2] == ("complete", 2),
        "another worker has finished the evaluation",
    )
    midway.worker.signal(signal.SIGCONT)
    said = f"evaluation {midway.evaluation} attempt 1 stopped"
    stack.wait(lambda: said in midway.worker.log.read_text(), "the zombie has noticed")
    assert stack.finished(study) == "finished"
    assert ended_as(stack, midway.evaluation) == ("complete", 2, 0)
    assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
    assert midway.worker.alive
    assert_invariants(stack.database, study, stack.config)


def test_poison_is_abandoned_and_its_neighbours_finish(
    stack: Stack, slow: str, assert_invariants: AssertInvariants
) -> None:
    """A candidate that takes its engine with it every time."""
    study = stack.submit(slow)
    poison = stack.wait(
        lambda: stack.sql(
            "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id "
            "WHERE t.study_id = %s AND t.role = 'uniform'",
            study,
        ),
        "the uniform soup is asked for",
    )[0]["id"]

    def abandoned() -> bool:
        state, _, _ = ended_as(stack, poison)
        holder = stack.holds(poison) if state == "running" else None
        if holder is not None and (engine := holder.engine()) is not None:
            os.killpg(engine, signal.SIGKILL)
        return state == "abandoned"

    stack.wait(abandoned, "the poison is abandoned")
    assert stack.finished(study) == "finished"
    found = stack.sql(
        "SELECT t.role, e.state, e.attempt, e.error FROM evaluation e "
        "JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %s AND e.split = 'search'",
        study,
    )
    for f in found:
        if f["role"] == "uniform":
            assert (f["state"], f["attempt"]) == ("abandoned", 2)
            assert "SIGKILL" in f["error"]
        else:
            assert f["state"] == "complete", f
    assert len(found) == 4
    assert_invariants(stack.database, study, stack.config)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_control_worker_ends(
    stack: Stack, quick: str, assert_invariants: AssertInvariants, number: int
) -> None:
    """Nothing advances without a control worker, and all goes on with the next one."""
    control = stack.of_kind("control")[0]
    study = stack.submit(quick)
    stack.wait(lambda: stack.sql("SELECT 1 FROM trial WHERE study_id = %s", study), "it has begun")
    clock = control.children()
    assert clock
    control.signal(number)
    control.process.wait(60)
    stack.wait(lambda: all(map(gone, clock)), "its clock has ended", seconds=30)
    stack.start("control")
    assert stack.finished(study) == "finished"
    assert_invariants(stack.database, study, stack.config)


def test_worker_killed_in_the_middle_of_a_race(
    stack: Stack, raced: str, assert_invariants: AssertInvariants
) -> None:
    """What was finished stays, the rest is evaluated whole: its order would not be fresh."""
    study = stack.submit(raced)
    running = (
        "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %s AND t.role = 'search' AND e.split = 'search' "
        "AND e.state = 'running' AND EXISTS (SELECT 1 FROM prediction p WHERE p.trial_id = t.id)"
    )
    evaluation = stack.wait(lambda: stack.sql(running, study), "blocks are scored")[0]["id"]
    worker = stack.holder(evaluation)
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    assert ended_as(stack, evaluation)[:2] == ("running", 1)
    assert attempts_by_suite(stack, evaluation) == {"read": 1}
    assert stack.finished(study) == "finished"
    assert ended_as(stack, evaluation) == ("complete", 2, 0)
    assert attempts_by_suite(stack, evaluation) == {"read": 1, "many": 2}
    assert stack.sql("SELECT race FROM evaluation WHERE id = %s", evaluation)[0]["race"] is None
    assert_invariants(stack.database, study, stack.config)


def test_worker_killed_during_probes(
    stack: Stack, slow: str, frozen_midway: Freeze, assert_invariants: AssertInvariants
) -> None:
    """The study has ended; what it is asked for afterwards is finished by another worker."""
    study = stack.submit(slow)
    assert stack.finished(study) == "finished"
    pinned = read.get_study(stack.database, study)
    row = (0.25, 0.75)
    recipe = Recipe(parents=pinned.pool.digests, weights=row, dtype=pinned.pool.dtype)
    asked = [Probe(recipe=recipe, weights=row, label="a quarter")]
    probes.submit(stack.database, study, asked, "search")
    midway = frozen_midway(stack, study)
    midway.worker.signal(signal.SIGKILL)
    midway.worker.process.wait()
    os.kill(midway.engine, signal.SIGCONT)
    stack.wait(
        lambda: probes.standing(stack.database, pinned, asked, "search").told, "the probe is told"
    )
    assert ended_as(stack, midway.evaluation) == ("complete", 2, 0)
    assert attempts_by_suite(stack, midway.evaluation) == {"pick": 1, "long": 2}
    assert read.get_study(stack.database, study).state == "finished"
    assert_invariants(stack.database, study, stack.config)
