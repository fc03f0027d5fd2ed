"""Plots as pure functions: every candidate once, under the right mark, and named safely."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import registry
from services.spec import spec_from_dict
from services.studies.columns import columns_of
from services.studies.read import CandidateView, Metric
from services.studies.record import Study, StudySuite, Trial
from services.studies.views import Progress
from ui import measures, tables, theme, words
from ui.plots import labels
from ui.plots.front import front_figure, hover_titles, kinds
from ui.plots.progress import best_figure, volume_figure
from ui.plots.weights import bars_figure, groups_figure, heat_figure

NAMES = ("deployed", "left", "right")
HOSTILE = "<script>alert(1)</script>"


def make_study(objectives: Sequence[str] = ("macro", "negative_flip_rate"), **spec: Any) -> Study:
    """A study of three checkpoints and three suites, as rows would make it."""
    suites = [("sst2", "choice"), ("plurals", "exact"), ("prose", "text")]
    return Study(
        id=1,
        name="s",
        state="finished",
        phase="done",
        spec=spec_from_dict(
            {
                "name": "s",
                "pool": "p",
                "suites": [name for name, _ in suites],
                "objectives": list(objectives),
                **spec,
            }
        ),
        pool=registry.Pool(
            id=1,
            name="p",
            reference="deployed",
            members=tuple(
                registry.Member(name=n, uri="", digest=n, parameters=1, dtype="float32", files={})
                for n in NAMES
            ),
        ),
        reference="deployed",
        suites=tuple(
            StudySuite(
                id=i,
                name=n,
                form=f,  # type: ignore[arg-type]
                digest="",
                search_items=50,
                validation_items=25,
                test_items=25,
            )
            for i, (n, f) in enumerate(suites)
        ),
        chosen_trial_id=None,
        failure=None,
    )


def make_candidate(
    number: int,
    macro: float | None,
    flips: float = 0.02,
    *,
    role: str = "search",
    label: str = "",
    rank: int | None = 2,
    violation: float = 0.0,
    weights: tuple[float, ...] = (0.5, 0.75, -0.25),
) -> CandidateView:
    """A candidate as read from rows; macro None: not evaluated yet."""
    told = macro is not None
    found: dict[str, dict[str, Metric]] = {}
    if macro is not None:
        found[""] = {
            "macro": Metric(value=macro, low=macro - 0.03, high=macro + 0.03, n=100),
            "negative_flip_rate": Metric(value=flips, low=flips / 2, high=flips * 2, n=100),
            "churn": Metric(value=0.1, low=0.06, high=0.15, n=100),
        }
        found["sst2"] = {"score": Metric(value=macro, low=macro - 0.1, high=macro + 0.1, n=50)}
        found["prose"] = {"score": Metric(value=2.0, low=1.9, high=2.1, n=50)}
    trial = Trial(
        id=number, number=number, role=role, slot=f"g000.{number:02d}", label=label or f"g{number}",
        weights=weights, recipe_digest="", evaluation_id=number,
        state="complete" if told else "running", told=told,
        objectives=(macro, flips) if macro is not None else None,
        violation=violation if told else None, rank=rank if told else None, error=None,
    )  # fmt: skip
    return CandidateView(trial=trial, split="search", metrics=found)


def some_candidates() -> list[CandidateView]:
    """One of every kind."""
    return [
        make_candidate(0, 0.60, 0.0, role="reference", label="deployed", rank=1),
        make_candidate(1, 0.50, 0.30, role="single", label="left"),
        make_candidate(2, 0.40, 0.25, role="single", label="right"),
        make_candidate(3, 0.62, 0.05, role="uniform", label="uniform soup"),
        make_candidate(4, 0.63, 0.04, role="greedy", label="greedy soup, step 1"),
        make_candidate(5, 0.66, 0.03, rank=1),
        make_candidate(6, 0.67, 0.04, rank=1),
        make_candidate(7, 0.65, 0.05),
        make_candidate(8, 0.70, 0.20, violation=0.1),
        make_candidate(9, None),
    ]


def plotted(figure: go.Figure, name: str) -> list[int]:
    """Numbers of the trials drawn under a legend's name."""
    return [int(row[0]) for t in figure.data if t.name == name for row in t.customdata]


def draw(study: Study, found: list[CandidateView], **more: Any) -> go.Figure:
    """The default scatter."""
    known = {m.key: m for m in measures.measures(study)}
    x, y = measures.defaults(study)
    return front_figure(study, columns_of(found), known[x], known[y], **more)


class TestFront:
    def test_every_candidate_is_drawn_once_under_its_own_mark(self) -> None:
        figure = draw(make_study(), some_candidates(), chosen=6)
        marked = {
            "reference": [0], "checkpoint": [1, 2], "uniform soup": [3], "greedy soup": [4],
            "front": [5, 6], "dominated": [7], "infeasible": [8], "chosen": [6],
        }  # fmt: skip
        assert {name: plotted(figure, name) for name in marked} == marked

    def test_axes_say_what_unit_direction_split_and_n(self) -> None:
        figure = draw(make_study(), some_candidates())
        assert figure.layout.xaxis.title.text == (
            "negative flips (% of items, lower is better)<br>search, n = 100"
        )
        assert "higher is better" in figure.layout.yaxis.title.text

    def test_a_hover_shows_weights_scores_with_intervals_and_flips(self) -> None:
        figure = draw(make_study(), some_candidates())
        trace = next(t for t in figure.data if t.name == "front")
        assert "trial 5" in trace.hovertext[0]
        assert "left 0.75" in trace.hovertext[0]
        lines = {}
        for line in trace.hovertemplate.removesuffix("<extra></extra>").split("<br>")[1:]:
            name, places = line.split(":")[0], re.findall(r"customdata\[(\d+)\]", line)
            lines[name] = [pytest.approx(trace.customdata[0][int(i)], abs=1e-6) for i in places]
        assert lines["macro average"] == [0.66, 0.63, 0.69]
        assert lines["negative flips"] == [0.03, 0.015, 0.06]
        assert lines["prose"] == [2.0, 1.9, 2.1]
        assert "%{customdata[1]:.1%}" in trace.hovertemplate
        assert " nats/token (" in trace.hovertemplate

    def test_names_are_text_and_never_markup(self) -> None:
        found = [make_candidate(0, 0.6, 0.0, role="reference", label=HOSTILE, rank=1)]
        figure = draw(make_study(), found)
        shown = [*figure.data[1].hovertext, *figure.data[2].text]
        assert len(shown) == 2
        for text in shown:
            assert "&lt;script&gt;" in text
            assert "<script>" not in text

    def test_intervals_can_be_left_out(self) -> None:
        def bars(**more: Any) -> list[str]:
            figure = draw(make_study(), some_candidates(), **more)
            return [t.name for t in figure.data if t.error_y.array is not None]

        assert bars() == ["front", "reference"]
        assert bars(bars=False) == []

    def test_a_large_front_keeps_its_intervals_to_itself(self) -> None:
        found = [make_candidate(i, 0.6 + i / 100, i / 100, rank=1) for i in range(20)]
        figure = draw(make_study(), found, chosen=3)
        assert [t.name for t in figure.data if t.error_y.array is not None] == ["chosen"]

    def test_a_zoomed_plot_shows_the_front_and_counts_what_it_leaves_out(self) -> None:
        near = draw(make_study(), some_candidates())
        whole = draw(make_study(), some_candidates(), zoom=False)
        assert near.layout.meta["outside"] == 3  # both checkpoints and the infeasible candidate
        assert whole.layout.meta["outside"] == 0
        low, high = near.layout.yaxis.range
        assert low < 0.60 < 0.67 < high

    def test_without_a_front_everything_is_shown(self) -> None:
        found = [make_candidate(n, 0.6 + n / 1000, n / 50, violation=0.1) for n in range(1, 9)]
        reference = make_candidate(0, 0.60, 0.0, role="reference", violation=0.1)
        assert draw(make_study(), [reference, *found]).layout.meta["outside"] == 0

    @pytest.mark.parametrize(("span", "ticks"), [(0.05, ".1%"), (0.004, ".2%")])
    def test_no_two_ticks_read_the_same(self, span: float, ticks: str) -> None:
        found = [make_candidate(1, 0.6, 0.01), make_candidate(2, 0.6 + span, 0.2)]
        figure = draw(make_study(), found)
        assert figure.layout.yaxis.tickformat == ticks
        assert figure.layout.xaxis.tickformat == ".1%"

    def test_the_staircase_stands_only_where_axes_are_the_objectives(self) -> None:
        def lines(study: Study) -> int:
            return sum(t.mode == "lines" for t in draw(study, some_candidates()).data)

        assert lines(make_study()) == 1
        assert lines(make_study(["sst2", "plurals"])) == 0

    def test_without_results_it_is_an_empty_plot(self) -> None:
        assert len(draw(make_study(), []).data) == 1
        assert draw(make_study(), some_candidates()[:1]).layout.meta["outside"] == 0

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(
            st.tuples(
                st.floats(0, 1), st.floats(0, 1), st.sampled_from(["search", "single", "greedy"]),
                st.sampled_from([1, 2, 3]), st.sampled_from([0.0, 0.2]), st.booleans(),
            ),
            max_size=30,
        ),
        st.booleans(),
    )  # fmt: skip
    def test_told_candidates_are_drawn_exactly_once(
        self, rows: list[tuple[float, float, str, int, float, bool]], zoom: bool
    ) -> None:
        found = [
            make_candidate(i, macro if told else None, flips, role=role, rank=rank, violation=v)
            for i, (macro, flips, role, rank, v, told) in enumerate(rows)
        ]
        figure = draw(make_study(), found, zoom=zoom)
        drawn = [int(row[0]) for t in figure.data if t.mode == "markers" for row in t.customdata]
        assert sorted(drawn) == [c.trial.number for c in found if c.trial.told]


def test_every_kind_is_told_apart_by_shape_and_colour() -> None:
    from ui.plots.front import MARKS

    looks = [(mark.symbol, mark.colour) for mark in MARKS.values()]
    assert len(set(looks)) == len(looks)
    strong = {m.symbol for n, m in MARKS.items() if n not in ("dominated", "front")}
    assert len(strong) == len(MARKS) - 2
    assert all(re.fullmatch(r"#[0-9A-F]{6}", c) for c in (theme.BLUE, theme.ORANGE, theme.GREEN))


def test_infeasible_is_not_front_even_with_rank_one() -> None:
    found = columns_of([make_candidate(1, 0.5, rank=1, violation=0.1)])
    assert list(kinds(found)) == ["infeasible"]


class TestProgress:
    def test_best_so_far_never_gets_worse_and_skips_the_infeasible(self) -> None:
        study = make_study()
        macro, flips = measures.objectives(study)
        lines = {
            m.key: next(
                t for t in best_figure(columns_of(some_candidates()), m).data if t.mode == "lines"
            ).y
            for m in (macro, flips)
        }
        assert list(lines["macro"]) == sorted(lines["macro"])
        assert max(lines["macro"]) == 0.67
        assert set(lines["negative_flip_rate"]) == {0.0}

    @pytest.mark.parametrize("uniform", [0.59, 0.601])
    def test_the_names_of_two_lines_stand_on_different_sides(self, uniform: float) -> None:
        found = [make_candidate(0, 0.60, role="reference", label="deployed"),
                 make_candidate(1, uniform, role="uniform", label="uniform soup")]  # fmt: skip
        figure = best_figure(columns_of(found), measures.objectives(make_study())[0])
        upper, lower = sorted(figure.layout.annotations, key=lambda a: -a.y)
        assert (upper.yanchor, lower.yanchor) == ("bottom", "top")

    def test_hypervolume_starts_where_it_is_known(self) -> None:
        curve = [
            Progress(evaluations=n, best=0.1, hypervolume=None if n < 3 else n / 10)
            for n in range(1, 6)
        ]
        assert list(volume_figure(curve).data[0].x) == [3, 4, 5]


class TestWeights:
    def test_bars_are_largest_first_and_negative_ones_differ(self) -> None:
        bar = bars_figure(make_study(), (0.5, 0.75, -0.25)).data[0]
        assert list(bar.x) == [-0.25, 0.5, 0.75]
        assert bar.y[1] == "deployed (reference)"
        assert bar.marker.color[0] != bar.marker.color[1]

    def test_the_heat_map_holds_the_front_best_first(self) -> None:
        study = make_study()
        figure = heat_figure(
            study, columns_of(some_candidates()), measures.objectives(study)[0], chosen=5
        )
        assert figure is not None
        assert list(figure.data[0].x) == ["#6", "#5 chosen", "deployed"]
        assert figure.data[0].zmin == -figure.data[0].zmax

    def test_groups_have_a_column_each(self) -> None:
        study = make_study()
        rows = {"attention": (0.5, 0.7, -0.2), "the rest": (1.0, 0.0, 0.0)}
        heat = groups_figure(study, rows).data[0]
        assert list(heat.x) == ["attention", "the rest"]
        assert [list(line) for line in heat.z] == [[0.5, 1.0], [0.7, 0.0], [-0.2, 0.0]]

    def test_the_heat_map_of_grouped_candidates_holds_their_mean(self) -> None:
        study = make_study(search={"groups": "kinds"})
        weights = (0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        found = make_candidate(1, 0.6, rank=1, weights=weights)
        figure = heat_figure(study, columns_of([found]), measures.objectives(study)[0])
        assert figure is not None
        assert [line[0] for line in figure.data[0].z] == [0.5, 0.5, 0.0]
        assert figure.layout.title.text.startswith("Mean weights of the groups")
        assert words.trial_weights(study, weights).endswith("(mean of 3 groups)")
        assert words.trial_weights(study, (0.2, 0.8, 0.0) * 3) == "left 0.80, deployed 0.20"

    def test_without_a_front_there_is_none(self) -> None:
        study = make_study()
        found = columns_of([make_candidate(1, 0.5)])
        assert heat_figure(study, found, measures.objectives(study)[0]) is None


class TestMeasures:
    def test_defaults_are_the_average_against_negative_flips(self) -> None:
        assert measures.defaults(make_study(["sst2"])) == ("negative_flip_rate", "macro")

    def test_a_text_suite_is_in_nats_and_lower_is_better(self) -> None:
        prose = next(m for m in measures.measures(make_study()) if m.key == "score:prose")
        assert (prose.unit, prose.better) == (measures.NATS, "minimize")

    def test_objectives_keep_the_studys_directions(self) -> None:
        found = measures.objectives(make_study(["macro", "churn:sst2", "prose"]))
        assert [m.better for m in found] == ["maximize", "minimize", "minimize"]

    def test_keys_are_unique(self) -> None:
        keys = [m.key for m in measures.measures(make_study())]
        assert len(set(keys)) == len(keys)


class TestTables:
    def test_how_sure_the_front_is_stands_in_table_and_hover(self) -> None:
        study, found, shares = make_study(), some_candidates(), {6: 0.834}
        frame = tables.trial_frame(study, columns_of(found), shares=shares)
        assert frame.loc[frame["number"] == 6, "on front"].item() == pytest.approx(83.4)
        assert frame.loc[frame["number"] == 5, "on front"].isna().all()
        titles = hover_titles(study, columns_of(found), shares)
        assert "on the front of 83\u00a0% of resampled" in titles[6]
        assert "resampled" not in titles[5]

    def test_trials_are_sorted_by_rank_and_the_untold_come_last(self) -> None:
        frame = tables.trial_frame(make_study(), columns_of(some_candidates()), chosen=6)
        assert list(frame["number"])[:3] == [0, 5, 6]
        assert list(frame["number"])[-1] == 9
        assert frame.loc[frame["number"] == 6, "what"].item() == "found · chosen"
        assert frame.loc[frame["number"] == 5, "± macro"].item() == pytest.approx(3.0)

    def test_a_stopped_trial_says_so_and_is_on_no_plot(self) -> None:
        study, found = make_study(["macro", "prose"]), some_candidates()
        objectives = [
            {"estimate": 0.5, "low": 0.4, "high": 0.6},
            {"estimate": 2.5, "low": 2.5, "high": 2.5},
        ]
        race = {"by": {"trial": 6}, "seen": {"sst2": 31, "prose": 50}, "objectives": objectives}
        trial = replace(found[9].trial, state="stopped", race=race)
        found[9] = replace(found[9], trial=trial)
        frame = tables.trial_frame(study, columns_of(found))
        shown = frame[frame["number"] == 9].iloc[0]
        assert shown["state"] == "stopped after 81 items: behind trial 6"
        assert all(shown[m.key] is None or shown[m.key] != shown[m.key] for m in
                   tables.shown_measures(study))  # fmt: skip
        seen = tables.seen_frame(study, race)
        assert list(seen["95 % bounds"]) == ["40.0–60.0\u00a0%", "2.500–2.500 nats"]
        measure = measures.measures(study)[0]
        figures = [draw(study, found), best_figure(columns_of(found), measure)]
        assert all(9 not in [row[0] for row in trace.customdata]
                   for figure in figures for trace in figure.data
                   if trace.customdata is not None)  # fmt: skip

    def test_a_candidates_metrics_stand_with_interval_n_and_reference(self) -> None:
        found = some_candidates()
        frame = tables.metric_frame(make_study(), found[5], found[0])
        row = frame[frame["metric"] == "macro average"].iloc[0]
        assert row["value"].replace("\u00a0", " ") == "66.0 %"
        assert row["95 % interval"].replace("\u00a0", " ") == "63.0–69.0 %"
        assert row["items"] == 100
        assert row["reference"].replace("\u00a0", " ") == "60.0 %"


class TestLabels:
    def test_a_name_goes_where_nothing_is(self) -> None:
        blocked = [(0.5, 0.5 + step / 100) for step in range(1, 12)]
        assert labels.place([(0.5, 0.5)], ["name"], (0, 1), (0, 1), blocked) != ["top center"]

    @pytest.mark.parametrize(
        ("point", "inside"),
        [((0.0, 0.5), lambda p: "left" not in p), ((1.0, 0.5), lambda p: "right" not in p)],
    )
    def test_names_stay_on_the_canvas(
        self, point: tuple[float, float], inside: Callable[[str], bool]
    ) -> None:
        assert inside(labels.place([point], ["a-long-name"], (0, 1), (0, 1))[0])

    def test_two_names_at_one_place_do_not_cover_each_other(self) -> None:
        found = labels.place([(0.5, 0.5), (0.51, 0.5)], ["first", "second"], (0, 1), (0, 1))
        assert found[0] != found[1]


def test_refusal_suites_have_measures_of_their_own() -> None:
    plain = make_study(objectives=["macro", "backward_trust"])
    keys = [m.key for m in measures.measures(plain)]
    assert not [key for key in keys if key.startswith(("over_refusal", "unsafe_compliance"))]
    # what says again what flips say is a column only where it is asked for
    shown = [m.key for m in tables.shown_measures(plain)]
    assert ("backward_trust" in shown, "backward_error" in shown) == (True, False)
    first, *rest = plain.suites
    wary = replace(plain, suites=(replace(first, form="refusal"), *rest))
    found = {m.key: m for m in measures.measures(wary)}
    assert {"over_refusal", "over_refusal:sst2", "unsafe_compliance:sst2"} <= set(found)
    assert "over_refusal:plurals" not in found
    assert found["unsafe_compliance"].better == "minimize"
    assert all(m.title and m.meaning for m in found.values())
    assert "unsafe_compliance" in [m.key for m in tables.shown_measures(wary)]
