"""A study's trials as columns: the same numbers as one by one, and deltas that miss nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import BadInput
from services.studies import control, looking, read, views
from services.studies.columns import Columns, columns_of, read_columns
from services.studies.propose import merit
from services.studies.read import CandidateView
from ui.measures import Measure
from ui.study.choice import inside, matching, within_polygon


def same(one: Columns, other: Columns) -> bool:
    """Every array of both is equal, NaN to NaN."""

    def equal(a: np.ndarray, b: np.ndarray) -> bool:
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype == np.float64)

    bare = [f.name for f in fields(one) if f.name not in ("split", "metrics")]
    return (
        one.split == other.split
        and all(equal(getattr(one, name), getattr(other, name)) for name in bare)
        and one.metrics.keys() == other.metrics.keys()
        and all(
            equal(getattr(numbers, f.name), getattr(other.metrics[key], f.name))
            for key, numbers in one.metrics.items()
            for f in fields(numbers)
        )
    )


def defined(candidate: CandidateView) -> CandidateView:
    """Without the rates that are undefined for it: columns do not tell them from missing ones."""
    metrics = {
        suite: {name: one for name, one in by.items() if one.n}
        for suite, by in candidate.metrics.items()
    }
    return replace(candidate, metrics=metrics)


class TestReading:
    @pytest.mark.parametrize("split", ["search", "validation"])
    def test_they_are_the_candidates(self, study_with_results: Any, split: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        columns = read_columns(database, study, split)
        found = [defined(c) for c in read.candidates(database, study, split)]
        assert columns.views() == found
        assert [columns.view(i) for i in range(len(columns))] == found
        assert columns_of(found).views() == found
        assert list(columns.feasible) == [c.feasible for c in found]
        assert views.merits_of(study, columns) == pytest.approx(
            [merit(study, c.trial) for c in found]
        )

    def test_a_delta_is_what_reading_anew_finds(
        self, study_with_results: Any, work_off: Any
    ) -> None:
        database = study_with_results.database
        study = read.get_study(database, 2)
        held = read_columns(database, study, "search")
        told = [int(held.told.sum())]
        mark = read.change_mark(database, 2)
        for evaluations in (1, 3, 9):
            work_off(database, 2, evaluations)
            assert read.change_mark(database, 2) != mark
            mark = read.change_mark(database, 2)
            held = read_columns(database, study, "search", held)
            assert same(held, read_columns(database, study, "search"))
            told.append(int(held.told.sum()))
        assert told == [told[0], told[0] + 1, told[0] + 4, told[0] + 13]
        control.cancel(database, 2)
        assert (held.state == "queued").any()
        held = read_columns(database, study, "search", held)
        assert same(held, read_columns(database, study, "search"))
        assert not (held.state == "queued").any()

    def test_a_delta_reads_only_what_changed(
        self, study_with_results: Any, work_off: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from services.studies import columns as module

        database = study_with_results.database
        study = read.get_study(database, 2)
        held = read_columns(database, study, "search")
        before = len(held)
        work_off(database, 2, 1)
        asked: list[Any] = []
        whole = module._read
        monkeypatch.setattr(
            module, "_read", lambda c, s, about, ids: asked.append(ids) or whole(c, s, about, ids)
        )
        held = read_columns(database, study, "search", held)
        # the one that was told, and those that were asked for in its place
        assert len(asked[0]) == 1 + len(held) - before
        read_columns(database, study, "search", held)
        assert len(asked) == 1

    def test_the_test_split_is_sealed(self, study_with_results: Any) -> None:
        study = read.get_study(study_with_results.database, 1)
        with pytest.raises(BadInput, match="sealed"):
            read_columns(study_with_results.database, study, "test")  # type: ignore[arg-type]

    def test_a_curve_goes_on_where_it_was(self, study_with_results: Any, work_off: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 2)
        before = views.progress(study, read_columns(database, study, "search"))
        work_off(database, 2, 8)
        after = read_columns(database, study, "search")
        assert views.progress(study, after, before) == views.progress(study, after)

    def test_the_timeline_holds_what_was_begun(self, study_with_results: Any) -> None:
        spans = views.timeline(study_with_results.database, 2)
        assert len(spans) == 11
        assert {(s.worker, s.state) for s in spans} == {("worker-1:42", "complete")}
        assert all(s.started <= s.finished for s in spans)


class TestPicks:
    def test_few_flips_and_the_knee(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        columns = read_columns(database, study, "search")
        flips, merits = looking.flips_of(columns), views.merits_of(study, columns)
        for most in (0, 3, 10_000):
            best = looking.best_with_few_flips(study, columns, most)
            allowed = columns.feasible & (flips <= most)
            assert best is not None
            place = int(np.flatnonzero(columns.number == best)[0])
            assert allowed[place]
            assert merits[place] == merits[allowed].max()
        assert looking.best_with_few_flips(study, columns, -1) is None
        assert looking.knee_of(study, columns) in set(columns.number[columns.front])

    def test_importance_finds_the_weight_that_matters(self, study_with_results: Any) -> None:
        study = read.get_study(study_with_results.database, 1)
        columns = read_columns(study_with_results.database, study, "search")
        weights = looking.weights_of(study, columns)
        found = looking.importance(study, columns, 3 * weights[:, 2] + 1)
        assert found is not None
        assert found[2] == pytest.approx(1.0)
        few = columns.take(columns.number < looking.ENOUGH)
        assert looking.importance(study, few, np.ones(len(few))) is None


class TestChoice:
    @given(
        st.lists(st.tuples(st.floats(-1, 2), st.floats(-1, 2)), max_size=30),
        st.tuples(*[st.floats(0, 1)] * 4),
    )
    def test_a_lasso_around_a_box_holds_what_the_box_holds(
        self, points: list[tuple[float, float]], box: tuple[float, float, float, float]
    ) -> None:
        (x0, x1), (y0, y1) = sorted(box[:2]), sorted(box[2:])
        x, y = (np.array([p[i] for p in points], np.float64) for i in (0, 1))
        found = within_polygon(x, y, [x0, x1, x1, x0], [y0, y0, y1, y1])
        assert not found[(x < x0) | (x > x1) | (y < y0) | (y > y1)].any()
        assert found[(x > x0) & (x < x1) & (y > y0) & (y < y1)].all()

    def test_a_selection_holds_points_that_are_not_drawn(self, study_with_results: Any) -> None:
        study = read.get_study(study_with_results.database, 1)
        columns = read_columns(study_with_results.database, study, "search")
        x, y = Measure("negative_flip_rate"), Measure("macro")
        everywhere = {"box": [{"x": [1, 0], "y": [0, 1]}]}
        assert inside(columns, x, y, everywhere).sum() == columns.told.sum()
        assert not inside(columns, x, y, {}).any()
        some = {"lasso": [{"x": [0, 0.01, 0.01, 0], "y": [0, 0, 1, 1]}]}
        assert set(columns.number[inside(columns, x, y, some)]) == set(
            columns.number[x.values(columns) < 0.01]
        )

    def test_filters_narrow_together(self, study_with_results: Any) -> None:
        study = read.get_study(study_with_results.database, 1)
        columns = read_columns(study_with_results.database, study, "search")
        assert matching(columns).all()
        assert (matching(columns, "front") == columns.front).all()
        assert (matching(columns, "feasible") == columns.feasible).all()
        assert list(columns.number[matching(columns, text=" #7 ")]) == [7]
        assert set(columns.role[matching(columns, text="SOUP")]) == {"uniform", "greedy"}
        scores = Measure("score", "reviews")
        values = scores.values(columns)
        half = float(np.median(values))
        mask = matching(columns, "feasible", ["search"], "", {scores: (half, 1.0)})
        expected = columns.feasible & (columns.role == "search") & (values >= half)
        assert (mask == expected).all()
        assert 0 < mask.sum() < len(columns)
