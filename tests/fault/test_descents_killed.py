"""Workers and engines that die in the middle of a descent: another one goes on from what is stored,
and comes to the candidate of a descent that nothing happened to."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.stack import Stack, Worker

SPEC = """
name: fault
pool: pair
suites: [pick, long]
objectives: [long]
search:
  method: gradient
  options: {directions: 1, grain: layers, steps: STEPS, batch: 100, rate: 0.005}
budget: {trials: 1, finalists: 1}
"""
STEPS = 60


def midway(stack: Stack, study: int) -> dict[str, Any]:
    """The descent, once some of its steps are stored."""
    found: dict[str, Any] = stack.wait(
        lambda: stack.sql(
            "SELECT id, step, worker FROM descent WHERE study_id = %s AND state = 'running' "
            "AND memory IS NOT NULL",
            study,
        ),
        "a descent is midway",
    )[0]
    return found


def holder(stack: Stack, descent: dict[str, Any]) -> Worker:
    """The worker that holds it."""
    pid = int(str(descent["worker"]).rsplit(":", 1)[1])
    return next(w for w in stack.workers if w.process.pid == pid)


def kill_worker(worker: Worker) -> None:
    worker.signal(signal.SIGKILL)


def kill_engine(worker: Worker) -> None:
    engine = worker.engine()
    assert engine is not None
    os.killpg(engine, signal.SIGKILL)


def stop_worker(worker: Worker) -> None:
    worker.signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """Filled by the first test that needs it."""
    return {}


@pytest.mark.parametrize(
    ("strike", "tries"), [(kill_worker, (2, 0)), (kill_engine, (2, 0)), (stop_worker, (2, 1))]
)
def test_a_descent_goes_on_after_a_death(
    stack: Stack,
    assert_invariants: AssertInvariants,
    undisturbed: dict[str, Any],
    strike: Callable[[Worker], None],
    tries: tuple[int, int],
) -> None:
    stack.wait_ready()
    text = SPEC.replace("STEPS", str(STEPS))
    study = stack.submit(text)
    found = midway(stack, study)
    assert 0 < found["step"] < STEPS
    strike(holder(stack, found))
    assert stack.finished(study) == "finished"
    (one,) = stack.sql("SELECT * FROM descent WHERE study_id = %s", study)
    assert (one["state"], one["step"], one["memory"]) == ("complete", STEPS, None)
    assert (one["attempt"], one["forgiven"]) == tries
    # it did not start over
    said = [
        int(step)
        for worker in stack.workers
        for step in re.findall(
            rf"descent {one['id']} goes on at step (\d+)", worker.log.read_text()
        )
    ]
    assert said
    assert min(said) >= found["step"]
    # and comes to the same candidate every time, wherever it was interrupted
    for name, value in (("recipe", one["recipe"]), ("items", one["cost"]["items"])):
        assert undisturbed.setdefault(name, value) == value
    assert_invariants(stack.database, study, stack.config)
