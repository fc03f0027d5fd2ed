"""Messages that come twice, too late or never: Postgres holds the truth, the broker only hints."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from services import outbox
from services.embedded.broker import ensure_broker, stop_broker
from services.queue import EVALUATE, send
from services.studies.advance import advance

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.stack import Stack


def evaluations_of(stack: Stack, study: int) -> list[int]:
    """Every evaluation of a study."""
    found = stack.sql(
        "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %s",
        study,
    )
    return [f["id"] for f in found]


def most_attempts(stack: Stack, study: int) -> int:
    """The most attempts that any evaluation of a study took."""
    found = stack.sql(
        "SELECT max(e.attempt) AS n FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %s",
        study,
    )
    return int(found[0]["n"] or 0)


def test_every_message_three_times_at_once(
    stack: Stack, quick: str, assert_invariants: AssertInvariants
) -> None:
    stack.wait_ready()
    study = stack.submit(quick)
    advance(stack.database, study)
    with ThreadPoolExecutor(3) as threads:
        for one in evaluations_of(stack, study):
            list(threads.map(lambda topic, one=one: send(topic, one), ["evaluate"] * 3))
        list(threads.map(lambda _: send("advance", study), range(3)))
    assert stack.finished(study) == "finished"
    stack.wait(stack.idle, "every message was taken")
    assert most_attempts(stack, study) == 1
    assert_invariants(stack.database, study, stack.config)


def test_messages_again_after_success(
    stack: Stack, quick: str, assert_invariants: AssertInvariants
) -> None:
    study = stack.submit(quick)
    assert stack.finished(study) == "finished"
    stack.wait(stack.idle, "every message was taken")
    everything = (
        "SELECT (SELECT count(*) FROM audit_evaluation) AS changes, "
        "(SELECT count(*) FROM audit_prediction) AS writes, "
        "(SELECT count(*) FROM event) AS events, (SELECT count(*) FROM test_reading) AS readings"
    )
    before = stack.sql(everything)
    for one in evaluations_of(stack, study):
        send("evaluate", one)
    send("advance", study)
    send("evaluate", 10**12)
    send("advance", 10**6)
    stack.wait(stack.idle, "every message was taken")
    assert stack.sql(everything) == before
    assert len(stack.of_kind("evaluate")) == 2
    assert_invariants(stack.database, study, stack.config)


def test_broker_down_while_studies_run_and_are_submitted(
    stack: Stack,
    slow: str,
    quick: str,
    midway: Callable[..., int],
    assert_invariants: AssertInvariants,
) -> None:
    busy = stack.submit(slow)
    midway(stack, busy)
    stop_broker(stack.config.home)
    try:
        study = stack.submit(quick)
        assert stack.sql("SELECT state FROM study WHERE id = %s", study) == [{"state": "running"}]
        assert outbox.waiting(stack.database) >= 1
        assert evaluations_of(stack, study) == []
    finally:
        ensure_broker(stack.config.home)
    for one in (busy, study):
        assert stack.finished(one) == "finished"
        assert_invariants(stack.database, one, stack.config)
    stack.wait(lambda: outbox.waiting(stack.database) == 0, "the outbox is empty")


def test_queue_emptied_by_hand(
    stack: Stack, quick: str, assert_invariants: AssertInvariants
) -> None:
    stack.wait_ready()
    stack.wait(stack.idle, "every message was taken")
    workers = stack.of_kind("evaluate")
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    study = stack.submit(quick)
    advance(stack.database, study)
    with stack.queue() as client:
        stack.wait(lambda: client.llen(EVALUATE), "messages wait")
        client.delete(EVALUATE)
    for worker in workers:
        worker.signal(signal.SIGCONT)
    assert stack.finished(study) == "finished"
    assert_invariants(stack.database, study, stack.config)
