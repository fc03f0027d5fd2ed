"""Steering a study: who may, what is tried again, what can be edited, and that it still replays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services import artefacts, registry, stored_suites
from services.access import User
from services.errors import BadInput, Forbidden, SpecRefused
from services.spec import parse_spec, spec_yaml
from services.studies import control, probes, read, sealed
from services.studies.advance import advance
from services.studies.submit import submit

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: steered
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: METHOD, space: affine, parallelism: 4, options: {OPTIONS}}
budget: {trials: 8, finalists: 2}
"""
EVE, BOB, ADA = User("eve", "viewer"), User("bob", "submitter"), User("ada", "admin")


def spec(method: str = "cma-es", options: str = "population: 4") -> str:
    """Eight candidates in generations of 4."""
    return SPEC.replace("METHOD", method).replace("OPTIONS", options)


def texts(driver: Driver, study: int) -> list[str]:
    """What happened to a study."""
    return [e["text"] for e in read.events(driver.database, study)]


def rows_of(driver: Driver) -> list[dict[str, Any]]:
    """Everything that a refused action could have changed."""
    return driver.sql(
        "SELECT (SELECT jsonb_agg(to_jsonb(s) ORDER BY id) FROM study s) AS studies, "
        "(SELECT count(*) FROM pool) AS pools, (SELECT count(*) FROM suite) AS suites, "
        "(SELECT count(*) FROM artefact) AS artefacts, (SELECT count(*) FROM event) AS events, "
        "(SELECT count(*) FROM test_reading) AS readings, (SELECT count(*) FROM outbox) AS hints"
    )


def actions(driver: Driver, number: int, tmp_path: Path) -> dict[str, Callable[[User], Any]]:
    """Everything that changes something."""
    suite = tmp_path / "more.jsonl"
    lines = "".join(f'{{"id": "{i}", "text": "line {i}"}}\n' for i in range(40))
    suite.write_text(lines)
    database = driver.database
    return {
        "submit": lambda by: submit(database, parse_spec(spec()), by=by),
        "pause": lambda by: control.pause(database, number, by=by),
        "resume": lambda by: control.resume(database, number, by=by),
        "edit": lambda by: control.edit(database, number, {"trials": 9}, by=by),
        "cancel": lambda by: control.cancel(database, number, by=by),
        "archive": lambda by: control.archive(database, number, by=by),
        "unarchive": lambda by: control.unarchive(database, number, by=by),
        "publish": lambda by: artefacts.request(database, number, 0, by=by),
        "probes": lambda by: probes.submit(database, number, [], "validation", by=by),
        "pool": lambda by: registry.add_pool(
            database, driver.config, "p", ["a=/a", "b=/b"], reference="a", by=by
        ),
        "suite": lambda by: stored_suites.add_suite(database, "more", suite, by=by),
        "sent suite": lambda by: stored_suites.add_suite_bytes(
            database, "m", lines.encode(), by=by
        ),
        "test report": lambda by: sealed.final_report(database, number, purpose="x", by=by),
        "test answers": lambda by: sealed.sealed_predictions(
            database, number, 0, purpose="x", by=by
        ),
    }


def test_a_viewer_changes_nothing(driver: Driver, tmp_path: Path) -> None:
    number = submit(driver.database, parse_spec(spec()), by=BOB).study
    advance(driver.database, number)
    before = rows_of(driver)
    for name, act in actions(driver, number, tmp_path).items():
        with pytest.raises(Forbidden, match="eve is a viewer and may not"):
            act(EVE)
        assert rows_of(driver) == before, name


def test_a_submitter_steers_only_their_own(driver: Driver, tmp_path: Path) -> None:
    mine = submit(driver.database, parse_spec(spec()), by=BOB).study
    others = submit(driver.database, parse_spec(spec()), by=ADA).study
    with pytest.raises(Forbidden, match="submit for somebody else"):
        submit(driver.database, parse_spec(spec()), owner="ada", by=BOB)
    for number in (mine, others):
        advance(driver.database, number)
    before = rows_of(driver)
    about = actions(driver, others, tmp_path)
    for name in set(about) - {"submit", "pool", "suite", "sent suite"}:
        with pytest.raises(Forbidden, match=r"bob may not .*: it belongs to ada"):
            about[name](BOB)
    assert rows_of(driver) == before
    steps = ("publish", "pause", "edit", "resume", "cancel", "archive", "unarchive")
    for number, who in ((mine, BOB), (others, ADA)):
        for name in steps:
            actions(driver, number, tmp_path)[name](who)
        told = texts(driver, number)
        assert [t.split()[0] for t in told] == [
            "submitted", "publishing", "paused", "trials", "resumed", "cancelled", "archived",
            "taken",
        ]  # fmt: skip
        assert all(who.name in text for text in told)
    assert read.study_summary(driver.database, mine)["owner"] == "bob"


def test_who_opened_the_test_split_is_an_event(driver: Driver) -> None:
    number = submit(driver.database, parse_spec(spec()), by=BOB).study
    driver.run(number)
    assert sealed.final_report(driver.database, number, purpose="to decide", by=BOB)
    assert texts(driver, number)[-1] == "test split read by bob: to decide"
    assert sealed.readings(driver.database, number)[-1]["purpose"] == "to decide"


def test_people_who_signed_in_name_only_allowed_folders(
    driver: Driver, tiny_pool: Path, this_process: Any
) -> None:
    folders = [str(tiny_pool / "pool" / name) for name in ("now", "left")]

    def add(name: str, places: list[str]) -> registry.Pool:
        return registry.add_pool(
            driver.database, driver.config.model_copy(update={"pool_folders": allowed}), name,
            places, reference="now", by=BOB,
        )  # fmt: skip

    allowed = ""
    with pytest.raises(BadInput, match="not below a folder that may be named here"):
        add("web", folders)
    allowed = f"/nowhere, {tiny_pool / 'pool'}"
    assert add("web", folders).names == ["now", "left"]
    for place in ("/etc", f"{tiny_pool}/pool/../../x", f"{tiny_pool}/pool-2", "http://x/y"):
        with pytest.raises(BadInput, match="not below a folder"):
            add("web2", ["now=" + folders[0], f"other={place}"])


def fail_one(driver: Driver, number: int, role: str) -> int:
    """Evaluate until one of that role is at hand, and let it fail; its trial number."""
    for _ in range(100):
        advance(driver.database, number)
        held = driver.claim(driver.queued(number)[0])
        if held.role == role:
            driver.fail(held)
            return next(t.number for t in driver.trials(number) if t.id == held.trial)
        driver.finish(held)
    raise AssertionError("no such trial")


@pytest.mark.parametrize(("again", "retried"), [("unfinished", 0), ("failed", 0), ("all", 1)])
def test_what_failed_is_tried_again_when_asked(
    driver: Driver, assert_invariants: AssertInvariants, again: Any, retried: int
) -> None:
    number = driver.submit(spec())
    failed = fail_one(driver, number, "search")
    control.pause(driver.database, number)
    assert control.resume(driver.database, number, again, by=ADA) == retried
    driver.run(number)
    state = next(t.state for t in driver.trials(number) if t.number == failed)
    assert state == ("complete" if retried else "failed")
    assert driver.study(number).state == "finished"
    assert_invariants(driver.database, number, driver.config)


def test_what_was_given_up_is_tried_again_with_all_its_tries(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(spec())
    advance(driver.database, number)
    first = driver.queued(number)[0]
    for _ in range(driver.config.max_attempts):
        driver.fail(driver.claim(first), retryable=True)
    assert driver.trials(number)[0].state == "abandoned"
    control.pause(driver.database, number)
    assert control.resume(driver.database, number, "failed") == 1
    driver.fail(driver.claim(first), retryable=True)
    assert driver.trials(number)[0].state == "queued"
    driver.run(number)
    assert driver.study(number).state == "finished"
    assert_invariants(driver.database, number, driver.config)


def test_a_study_that_lost_its_reference_goes_on(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(spec())
    fail_one(driver, number, "reference")
    advance(driver.database, number)
    assert driver.study(number).state == "failed"
    with pytest.raises(BadInput, match=r"nothing of it can be tried again\. Resume with `all`"):
        control.resume(driver.database, number)
    assert control.resume(driver.database, number, "all") == 1
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.failure) == ("finished", None)
    assert_invariants(driver.database, number, driver.config)


def test_a_study_that_could_not_publish_tries_again(driver: Driver) -> None:
    number = driver.submit(spec() + "publish: {to: store}\n")
    driver.run(number)
    assert driver.study(number).phase == "publish"
    driver.sql("UPDATE artefact SET state = 'failed', error = 'no space'")
    advance(driver.database, number)
    assert driver.study(number).failure == "publishing failed: no space"
    with pytest.raises(BadInput, match="nothing of it can be tried again"):
        control.resume(driver.database, number)
    assert control.resume(driver.database, number, "all") == 1
    study = driver.study(number)
    assert (study.state, study.phase, study.failure) == ("running", "publish", None)
    assert driver.sql("SELECT state FROM artefact") == [{"state": "queued"}]


def test_a_failure_that_was_learnt_from_stays(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(spec())
    fail_one(driver, number, "search")
    while not any(t.slot.startswith("g001") for t in driver.trials(number)):
        driver.finish(driver.claim(driver.queued(number)[0]))
        advance(driver.database, number)
    control.pause(driver.database, number)
    assert control.resume(driver.database, number, "all") == 0
    assert "1 stay failed, for later candidates" in texts(driver, number)[-1]
    driver.run(number)
    # the searcher is rebuilt from the rows and asked again
    assert_invariants(driver.database, number, driver.config)


@pytest.mark.parametrize("method", ["cma-es", "random"])
def test_editing_the_budget_changes_no_suggestion(
    driver: Driver, assert_invariants: AssertInvariants, method: str
) -> None:
    options = "population: 4" if method == "cma-es" else ""
    plain = driver.submit(spec(method, options).replace("trials: 8", "trials: 11"))
    driver.run(plain)
    edited = driver.submit(spec(method, options), key="edited")
    driver.run(edited, evaluations_at_most=7)
    control.edit(driver.database, edited, {"trials": 11, "parallelism": 1}, by=ADA)
    assert texts(driver, edited)[-1] == "trials 8 → 11, parallelism 4 → 1, by ada"
    driver.run(edited)
    found = [{t.slot: t.weights for t in driver.trials(n)} for n in (plain, edited)]
    assert found[0] == found[1]
    assert_invariants(driver.database, edited, driver.config)
    # the same submission is still the same study
    assert driver.submit(spec(method, options), key="edited") == edited


def test_what_cannot_be_edited_is_said(driver: Driver) -> None:
    number = driver.submit(spec())
    for changes, error, message in (
        ({"seed": 1}, BadInput, "'seed' cannot be edited.*clone the study"),
        ({"finalists": 1}, BadInput, "'finalists' cannot be edited"),
        ({"trials": 0}, SpecRefused, "budget.trials"),
        ({"parallelism": "many"}, SpecRefused, "search.parallelism"),
    ):
        with pytest.raises(error, match=message):
            control.edit(driver.database, number, changes)
    before = texts(driver, number)
    control.edit(driver.database, number, {"trials": 8})
    assert texts(driver, number) == before
    control.edit(driver.database, number, {"trials": 1, "wall_minutes": 90})
    driver.run(number)
    assert sum(t.role == "search" for t in driver.trials(number)) == 1
    with pytest.raises(BadInput, match="does not search any more"):
        control.edit(driver.database, number, {"trials": 9})


def test_archived_studies_are_out_of_the_list(driver: Driver) -> None:
    number = driver.submit(spec())
    with pytest.raises(BadInput, match="is running, so it cannot be archived"):
        control.archive(driver.database, number)
    control.cancel(driver.database, number)
    control.archive(driver.database, number)
    assert read.list_studies(driver.database) == []
    assert [s["id"] for s in read.list_studies(driver.database, archived=True)] == [number]
    with pytest.raises(BadInput, match="cancelled and archived, so it cannot be archived"):
        control.archive(driver.database, number)
    control.unarchive(driver.database, number)
    assert [s["id"] for s in read.list_studies(driver.database)] == [number]


def test_a_clone_is_the_same_spec(driver: Driver) -> None:
    number = driver.submit(spec())
    assert parse_spec(spec_yaml(driver.study(number).spec)) == parse_spec(spec())
