"""The invariants of docs/reliability.md, checked on the rows of a study after whatever happened.

The database's own audit (see `studies.audit`) tells what no final state can: that nothing was
told twice, and that nobody wrote without holding the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from optim.descent import DESCENTS
from optim.predictions import items_digest
from optim.recipe import Recipe
from optim.search import Observation
from services import stored_suites
from services.db import Connection, Database, rows
from services.settings import Settings
from services.studies import read
from services.studies.clusters import clusters_of
from services.studies.evidence import Evidence, gather
from services.studies.propose import minimised, searcher_of
from services.studies.record import Split, Study, Trial, load_predictions, load_study, load_trials
from services.studies.tell import measure

SPLITS: tuple[Split, ...] = ("search", "validation", "test")
#: state before -> states that may follow
FOLLOWS = {
    "queued": {"queued", "running", "cancelled"},
    "running": {"running", "queued", "complete", "stopped", "failed", "abandoned", "cancelled"},
    # told, ranked; failed: its numbers were not finite
    "complete": {"complete", "failed"},
    "stopped": set[str](),
    # tried again when somebody resumes the study
    "failed": {"queued"},
    "abandoned": {"queued"},
    "cancelled": {"queued"},
}
#: how late a lease may be noticed on a busy machine, on top of lease and sweep
SLACK_SECONDS = 5.0

AssertInvariants = Callable[..., None]


@pytest.fixture(scope="session")
def assert_invariants() -> AssertInvariants:
    """A function (database, study, config) that raises for the first broken invariant."""
    return check


def check(database: Database, study_id: int, config: Settings) -> None:
    """I1, I2, I4 to I8 of one study; I3 and I9 need more than rows."""
    with database.transaction() as connection:
        study = load_study(connection, study_id)
        _transitions(connection, study)
        _predictions_written_under_a_claim(connection, study)
        _complete_means_every_suite(connection, study)
        _attempts_and_leases(connection, study, config)
        for split in SPLITS:
            _tables_and_ranks(connection, study, split)
        _suggestions(connection, study)
        _descents(connection, study, load_trials(connection, study_id, "search"))
        _sealed(connection, study)
        _probes(connection, study)
    _sums(database, study)


def _all(connection: Connection, text: str, study: Study) -> list[dict[str, Any]]:
    return connection.execute(text.encode(), {"study": study.id}).fetchall()


def _transitions(connection: Connection, study: Study) -> None:
    """I1 and I5: legal steps only, attempts count up by claims, told at most once and for good."""
    changes = _all(
        connection,
        "SELECT a.* FROM audit_evaluation a JOIN evaluation e ON e.id = a.evaluation "
        "JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %(study)s ORDER BY a.id",
        study,
    )
    tellings: dict[int, int] = {}
    for c in changes:
        assert c["after"] in FOLLOWS[c["before"]], c
        claimed = c["before"] == "queued" and c["after"] == "running"
        assert c["attempt"] == c["attempt_before"] + claimed, c
        assert c["told"] or not c["told_before"], c
        if c["told"] and not c["told_before"]:
            tellings[c["evaluation"]] = tellings.get(c["evaluation"], 0) + 1
    assert set(tellings.values()) <= {1}, tellings


def _predictions_written_under_a_claim(connection: Connection, study: Study) -> None:
    """I2: each row was written once, by the holder of the running attempt."""
    written = _all(
        connection,
        "SELECT a.* FROM audit_prediction a JOIN trial t ON t.id = a.trial "
        "WHERE t.study_id = %(study)s",
        study,
    )
    for w in written:
        assert (w["what"], w["state"], w["attempt"]) == ("INSERT", "running", w["held"]), w
    keys = [(w["trial"], w["split"], w["suite"]) for w in written]
    assert len(set(keys)) == len(keys)


def _complete_means_every_suite(connection: Connection, study: Study) -> None:
    """I2: a row per suite, of the trial's recipe, on the pinned items of that split."""
    stored = rows(connection, "studies.suites_with_content", study=study.id)
    suites = {s["id"]: stored_suites.suite_from_row(s) for s in stored if _intact(s)}
    complete = _all(
        connection,
        "SELECT e.id, e.trial_id, e.split, e.attempt, t.recipe_digest FROM evaluation e "
        "JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %(study)s AND e.state = 'complete'",
        study,
    )
    for e in complete:
        found = rows(connection, "studies.predictions", trial=e["trial_id"], split=e["split"])
        assert {p["suite_id"] for p in found} == {s.id for s in study.suites}, e
        for p in found:
            assert p["recipe_digest"] == e["recipe_digest"]
            assert 1 <= p["attempt"] <= e["attempt"]
            if suite := suites.get(p["suite_id"]):
                items = suite.split(e["split"])
                assert p["suite_digest"] == suite.digest
                assert p["n"] == len(items)
                assert p["items_digest"] == items_digest([item.id for item in items])


def _intact(stored: dict[str, Any]) -> bool:
    try:
        stored_suites.suite_from_row(stored)
    except Exception:  # a test spoilt it on purpose: its items cannot be compared any more
        return False
    return True


def _attempts_and_leases(connection: Connection, study: Study, config: Settings) -> None:
    """I4: nothing runs past its lease and a sweep. I5: no more tries than the cap."""
    found = _all(
        connection,
        "SELECT e.*, t.role, "
        "extract(epoch FROM clock_timestamp() - e.lease_until)::float8 AS late "
        "FROM evaluation e JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %(study)s",
        study,
    )
    ended = study.state in ("finished", "failed", "cancelled")
    for e in found:
        assert 0 <= e["forgiven"] <= e["attempt"], e
        assert e["attempt"] - e["forgiven"] <= config.max_attempts, e
        if e["state"] == "running":
            assert e["late"] < config.sweep_seconds + SLACK_SECONDS, e
        if ended and (e["role"] != "probe" or study.state != "finished"):
            assert e["state"] not in ("queued", "running"), e
        if e["state"] == "abandoned":
            assert e["attempt"] - e["forgiven"] == config.max_attempts, e
            assert e["error"]


def _tables_and_ranks(connection: Connection, study: Study, split: Split) -> None:
    """I6 and I8: metrics and ranks are what the raw rows give again."""
    trials = load_trials(connection, study.id, split)
    told = [t for t in trials if t.objectives is not None]
    assert all(t.told == (t.objectives is not None) for t in trials)
    table: dict[int, dict[tuple[str, str], Any]] = {}
    for m in rows(connection, "studies.metrics", study=study.id, split=split):
        key = (m["suite"], m["name"])
        table.setdefault(m["number"], {})[key] = (m["value"], m["low"], m["high"], m["n"])
    assert set(table) == {t.number for t in told}
    reference = next((t for t in trials if t.role == "reference"), None)
    clusters = clusters_of(connection, study, split)
    for t in told:
        assert reference is not None
        old = load_predictions(connection, study, reference.id, split)
        new = load_predictions(connection, study, t.id, split)
        measured = measure(study, old, new, clusters)
        again = {k: (v.value, v.low, v.high, v.n) for k, v in measured.items()}
        assert again == table[t.number]
    front = {t.number for t in told if t.rank == 1}
    assert front == _front(study, told)
    assert all((t.rank is not None) == (t.objectives is not None) for t in trials)


def _front(study: Study, told: Sequence[Trial]) -> set[int]:
    """Numbers of feasible trials that no feasible trial dominates, one against one."""
    points = {
        t.number: np.array(minimised(study, t.objectives or ()))
        for t in told
        if (t.violation or 0.0) <= 0
    }
    return {
        n
        for n, p in points.items()
        if not any(bool((q <= p).all() and (q < p).any()) for q in points.values())
    }


def _suggestions(connection: Connection, study: Study) -> None:
    """I8: a searcher rebuilt from the rows of earlier generations suggests what stands there."""
    trials = load_trials(connection, study.id, "search")
    asked = {t.slot: t for t in trials if t.role == "search"}
    if study.spec.search.method in DESCENTS:
        return  # what their candidates are, and from where, is in `descent`
    evidence = gather(connection, study, trials)
    searcher, known = searcher_of(study, trials, evidence), list[Observation]()
    assert len(asked) <= study.spec.budget.trials
    by_generation: dict[str, list[Trial]] = {}
    for slot in sorted(asked):
        by_generation.setdefault(slot.split(".")[0], []).append(asked[slot])
    for generation in by_generation.values():
        suggested = {s.slot: s.weights for s in searcher.ask(known, 10_000)}
        for t in generation:
            assert suggested[t.slot] == t.weights, t.slot
        known += [_observation(study, t, evidence) for t in generation]


def _descents(connection: Connection, study: Study, trials: Sequence[Trial]) -> None:
    """Every complete descent is a candidate once, with its recipe; nothing else is; leases end."""
    made = _all(
        connection,
        "SELECT *, attempt - forgiven AS tries FROM descent WHERE study_id = %(study)s",
        study,
    )
    found = {t.slot: t for t in trials if t.role in ("search", "warm") and t.slot[0] == "d"}
    complete = {f"d{d['number']:03d}": d for d in made if d["state"] == "complete"}
    assert set(found) <= set(complete)
    for slot, t in found.items():
        assert Recipe.from_dict(complete[slot]["recipe"]).digest == t.recipe_digest
        assert tuple(complete[slot]["weights"]) == t.weights
    assert len(found) <= max(study.spec.budget.trials, study.spec.search.warm_start)
    if study.state in ("finished", "failed", "cancelled"):
        assert not [d for d in made if d["state"] in ("queued", "running")]
    if study.state == "finished":
        assert set(found) == set(complete)


def _observation(study: Study, t: Trial, evidence: Evidence) -> Observation:
    if t.objectives is not None:
        values = minimised(study, t.objectives)
        answers = evidence.answers.get(t.id, (None, None))
        return Observation(t.slot, t.weights, values, t.violation or 0.0, "complete", *answers)
    if t.state == "stopped":
        assert t.race is not None
        seen = minimised(study, [o["estimate"] for o in t.race["objectives"]])
        miss = t.race["violation"]
        answers = evidence.answers.get(t.id, (None, None))
        return Observation(t.slot, t.weights, None, miss, "stopped", *answers, estimate=seen)
    return Observation(t.slot, t.weights, state="failed" if t.closed else "pending")


def _sealed(connection: Connection, study: Study) -> None:
    """The test split is touched only by studies that have gone past their choice, and logged."""
    found = _all(
        connection,
        "SELECT count(*) AS n FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %(study)s AND e.split = 'test'",
        study,
    )
    readings = rows(connection, "studies.test_readings", study=study.id)
    if study.phase in ("search", "validation"):
        assert not readings
    if found[0]["n"]:
        assert readings


def _probes(connection: Connection, study: Study) -> None:
    """Probes come after the choice and the study's own trials, on open splits, are told but never
    ranked or raced, and no recipe is evaluated twice for their sake."""
    found = _all(
        connection,
        "SELECT t.id, t.number, t.role, t.recipe, t.recipe_digest, e.split, e.state, "
        "e.told_at IS NOT NULL AS told, e.rank, e.race FROM trial t "
        "JOIN evaluation e ON e.trial_id = t.id WHERE t.study_id = %(study)s ORDER BY e.id",
        study,
    )
    probes = [f for f in found if f["role"] == "probe"]
    if not probes:
        return
    assert study.phase in ("publish", "done")
    own = {f["number"] for f in found if f["role"] != "probe"}
    assert min(p["number"] for p in probes) > max(own)
    for p in probes:
        assert p["split"] in ("search", "validation")
        assert p["rank"] is None
        assert p["race"] is None
        assert Recipe.from_dict(p["recipe"]).digest == p["recipe_digest"]
        alive = [
            f
            for f in found
            if (f["recipe_digest"], f["split"]) == (p["recipe_digest"], p["split"])
            and (f["told"] or f["state"] in ("queued", "running", "complete"))
        ]
        assert len(alive) <= 1, alive
    for split in ("search", "validation"):
        reference = next(
            t for t in load_trials(connection, study.id, split) if t.role == "reference"
        )
        for p in (p for p in probes if p["told"] and p["split"] == split):
            old = load_predictions(connection, study, reference.id, split)
            new = load_predictions(connection, study, p["id"], split)
            stored = _all(
                connection,
                "SELECT m.suite, m.name, m.value, m.low, m.high, m.n FROM metric m "
                f"WHERE m.trial_id = {int(p['id'])} AND m.split = '{split}'",
                study,
            )
            table = {
                (m["suite"], m["name"]): (m["value"], m["low"], m["high"], m["n"]) for m in stored
            }
            measured = measure(study, old, new, clusters_of(connection, study, split))
            again = {k: (v.value, v.low, v.high, v.n) for k, v in measured.items()}
            assert again == table


def _sums(database: Database, study: Study) -> None:
    """I7: what was asked for is the sum of what became of it."""
    summary = read.study_summary(database, study.id)
    with database.transaction() as connection:
        numbers = [t.number for t in load_trials(connection, study.id, "search")]
    assert numbers == list(range(len(numbers)))
    counts = dict.fromkeys(SPLITS, 0)
    for c in summary["counts"]:
        counts[c["split"]] += c["n"]
    assert counts["search"] == len(numbers)
    cancelled = sum(
        c["n"] for c in summary["counts"] if (c["split"], c["state"]) == ("search", "cancelled")
    )
    states = sum(summary[name] for name in ("complete", "stopped", "running", "queued", "failed"))
    assert states + cancelled == len(numbers)
