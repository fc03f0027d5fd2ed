"""What pages read, on a real database: lists, preflights, progress, queues."""

from __future__ import annotations

from typing import Any

import pytest

from services.db import Database
from services.errors import SpecRefused
from services.spec import parse_spec
from services.studies import control, read, views
from services.studies.columns import read_columns
from services.studies.preflight import preflight
from services.studies.record import Study

PREFLIGHT = "name: a\npool: letters\nsuites: [reviews, prose]\nbudget: {trials: 10, finalists: 3}\n"


def test_the_list_names_best_values_in_their_units(study_with_results: Any) -> None:
    begun, finished = views.overview(study_with_results.database)
    assert (begun["id"], finished["id"]) == (2, 1)
    assert finished["front"] > 1
    (macro, value, nats), (flips, fewest, _) = finished["best"]
    assert (macro, flips, nats) == ("macro", "negative_flip_rate", False)
    study = read.get_study(study_with_results.database, 1)
    feasible = [c for c in read.candidates(study_with_results.database, study) if c.feasible]
    assert value == max(c.trial.objectives[0] for c in feasible if c.trial.objectives)
    assert fewest == 0.0


def test_the_lists_mark_changes_when_a_study_does(study_with_results: Any) -> None:
    database = study_with_results.database
    before = views.list_mark(database)
    assert views.list_mark(database) == before
    control.pause(database, study_with_results.begun)
    assert views.list_mark(database) != before


class TestPreflight:
    def test_it_counts_the_work(self, study_with_results: Any) -> None:
        found = preflight(study_with_results.database, parse_spec(PREFLIGHT))
        assert (found.checkpoints, found.baselines, found.greedy) == (6, 7, 5)
        search = sum(s[2] for s in found.suites)
        finals = sum(s[3] + s[4] for s in found.suites)
        assert found.items_per_candidate == search
        assert found.items_search == search * (7 + 5 + 10)
        assert found.items_finals == finals * (7 + 3)
        assert found.reference == "deployed"

    def test_what_a_study_took_is_what_was_announced(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, study_with_results.finished)
        found = preflight(database, study.spec)
        took = len(read.candidates(database, study)) * found.items_per_candidate
        assert took <= found.items_search

    @pytest.mark.parametrize(
        ("old", "new", "field"),
        [
            ("pool: letters", "pool: other", "pool"),
            ("[reviews, prose]", "[reviews, nothing]", "suites.1"),
            ("suites:", "reference: nobody\nsuites:", "reference"),
            ("budget:", "objectives: [churn:prose]\nbudget:", "objectives.0"),
        ],
    )
    def test_it_refuses_what_submitting_would(
        self, study_with_results: Any, old: str, new: str, field: str
    ) -> None:
        with pytest.raises(SpecRefused) as refused:
            preflight(study_with_results.database, parse_spec(PREFLIGHT.replace(old, new)))
        assert refused.value.where == f"spec: {field}"


class TestProgress:
    def test_curves_never_fall(self, study_with_results: Any) -> None:
        database, study = study_with_results.database, self.study(study_with_results)
        curve = views.progress(study, read_columns(database, study, "search"))
        best = [p.best for p in curve if p.best is not None]
        volume = [p.hypervolume for p in curve if p.hypervolume is not None]
        assert best == sorted(best)
        assert volume == sorted(volume)
        assert volume[-1] > volume[0] > 0
        assert len(curve) <= 2 * views.CURVE_POINTS

    def test_the_finals_are_expected_before_they_are_queued(self, study_with_results: Any) -> None:
        database = study_with_results.database
        done, total = views.expected(
            self.study(study_with_results), read.study_summary(database, 1)
        )
        assert done == total
        begun = read.get_study(database, study_with_results.begun)
        done, total = views.expected(begun, read.study_summary(database, begun.id))
        assert done == 11
        assert total >= 7 + 40 + 2 * (7 + 6)

    def test_a_pause_does_not_slow_the_pace(self, study_with_results: Any) -> None:
        database = study_with_results.database
        with database.transaction() as connection:
            connection.execute(
                """UPDATE evaluation e SET finished_at = now() - n * interval '10 seconds'
                       - CASE WHEN n > 5 THEN interval '3 hours' ELSE interval '0' END
                   FROM (SELECT e.id, row_number() OVER (ORDER BY e.id DESC) AS n
                         FROM evaluation e JOIN trial t ON t.id = e.trial_id
                         WHERE t.study_id = 2 AND e.state = 'complete') told
                   WHERE told.id = e.id"""
            )
        pace = read.study_summary(database, 2)["pace"]
        assert pace["n"] > 8
        assert pace["seconds"] == pytest.approx(10 * (pace["n"] - 2))

    def test_what_is_left_goes_by_the_last_evaluations(self) -> None:
        assert views.remaining_seconds({"pace": {"n": 11, "seconds": 20.0}}, 5) == 10.0
        assert views.remaining_seconds({"pace": {"n": 2, "seconds": 20.0}}, 5) is None
        assert views.remaining_seconds({"pace": None}, 5) is None

    def study(self, filled: Any) -> Study:
        """The finished study."""
        return read.get_study(filled.database, filled.finished)


def test_queues_and_flight_follow_the_claims(study_with_results: Any) -> None:
    database: Database = study_with_results.database
    queued = sum(q["queued"] for q in views.queues(database))
    assert queued > 0
    assert views.in_flight(database) == []
    evaluation = database.rows("studies.queued_evaluations", study=2)[0]["id"]
    claimed = database.row("evaluations.claim", id=evaluation, worker="w", lease=60, max_attempts=3)
    assert claimed is not None
    (flying,) = views.in_flight(database)
    assert (flying["study"], flying["worker"], flying["attempt"]) == (2, "w", 1)
    assert views.flight(database, 2) == {"running": 1, "share": 0.0}
    assert sum(q["queued"] for q in views.queues(database)) == queued - 1


def test_pools_know_who_uses_them(study_with_results: Any) -> None:
    (pool,) = views.pools(study_with_results.database)
    assert (pool["name"], pool["checkpoints"], pool["studies"]) == ("letters", 6, 2)
    assert views.pool(study_with_results.database, "letters").reference == "deployed"
    assert len(views.suites(study_with_results.database)) == 4
    assert views.publishing(study_with_results.database) == {"queued": 0, "running": 0}
