"""Pages run by Streamlit's own test driver against a real database: what each of them says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from psycopg.types.json import Jsonb
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

from optim.recipe import Recipe
from services import evaluations, noise, stored_suites
from services.cli import front
from services.db import Database
from services.settings import settings
from services.spec import Groups, Racing, parse_spec
from services.studies import columns, read, sealed
from services.studies.propose import merit
from services.studies.read import CandidateView
from services.studies.space import make_recipe
from tests.plugins.pages import APP, SECONDS, figures, open_page
from ui import tables


def texts(app: AppTest) -> str:
    """Everything a page says in Markdown, captions, boxes and plain text."""
    kinds = (
        "title",
        "subheader",
        "markdown",
        "caption",
        "info",
        "warning",
        "error",
        "success",
        "text",
    )
    return "\n".join(str(e.value) for kind in kinds for e in app.get(kind)).replace("\\", "")


def best(database: Database) -> CandidateView:
    """The found candidate of highest merit on validation."""
    study = read.get_study(database, 1)
    found = read.candidates(database, study, "validation")
    feasible = [c for c in found if c.feasible and c.trial.role == "search"]
    return max(feasible, key=lambda c: merit(study, c.trial))


def flip_table(app: AppTest) -> str:
    """The HTML of the candidate page's flips."""
    (body,) = [e.proto.body for e in app.get("html") if 'class="flips"' in e.proto.body]
    return str(body)


def press(app: AppTest, label: str) -> AppTest:
    """Press the button of that label."""
    found = [b for b in app.button if b.label == label]
    assert len(found) == 1, [b.label for b in app.button]
    return found[0].click().run()


def measure_noise(database: Database, changed: int) -> None:
    """The reference against itself, on one suite: so many answers change in bfloat16."""
    study = read.get_study(database, 1)
    with database.transaction() as connection:
        suite = stored_suites.suite_from_row(stored_suites.suite_row(connection, "reviews"))
    how = {"usual": {"dtype": "float32"}, "other": {"dtype": "bfloat16"}}
    about = {"suite": "reviews", "split": "validation", "settings": how, "n": 60, "positive": 0}
    for floor in (
        noise.NoiseFloor(**about, variant="batching", changed=0, negative=0, largest=1e-6),
        noise.NoiseFloor(**about, variant="dtype", changed=changed, negative=1, largest=0.1),
    ):
        noise.save(database, study.pool.members[0].digest, suite, floor)


class TestEmpty:
    @pytest.fixture(autouse=True)
    def _empty(self, empty_database: Any) -> None:
        """Nothing registered."""

    @pytest.mark.parametrize(
        ("page", "next_step"),
        [
            ("", "remelt pool add"), ("new_study", "remelt pool add"),
            ("pools", "remelt pool add"), ("suites", "remelt suite add"),
            ("workers", "remelt worker"),
        ],
    )  # fmt: skip
    def test_an_empty_page_says_what_to_do_next(self, page: str, next_step: str) -> None:
        app = open_page(page)
        assert next_step in "\n".join(code.value for code in app.code)

    @pytest.mark.parametrize("ids", [{}, {"study": 7}, {"study": "x"}, {"study": "-1"}])
    def test_an_unknown_study_is_explained(self, ids: dict[str, Any]) -> None:
        app = open_page("study", **ids)
        said = texts(app)
        assert "No study is named" in said or "no study has the number 7" in said
        assert "Studies" in [link.proto.label for link in app.get("page_link")]

    def test_what_is_missing_can_be_registered_from_where_it_is_missed(self) -> None:
        links = [link.proto.page for link in open_page("new_study").get("page_link")]
        assert links == ["pools", "suites"]


class TestHealth:
    def test_findings_are_cards_with_their_mend(self, study_with_results: Any) -> None:
        study = read.get_study(study_with_results.database, 1)
        with study_with_results.database.transaction() as connection:
            # as if the space had ended where the best candidate stands
            bounds = [min(best(study_with_results.database).trial.weights), 9]
            connection.execute(
                "UPDATE study SET spec = jsonb_set(spec, '{search,bounds}', %s) WHERE id = 1",
                (Jsonb(bounds),),
            )
        assert study.spec.search.space == "affine"
        said = texts(open_page("study", study=1))
        assert "stands at the edge of the space" in said
        assert "Widen search.bounds" in said

    @pytest.mark.parametrize(
        ("study", "said_by"),
        [
            (1, "No candidate meets the constraint on score of reviews"),
            # too little is known for findings
            (2, "No candidate meets the constraints on search so far"),
        ],
    )
    # where nothing is feasible the curve of the best values has no steps
    def test_that_nothing_is_feasible_is_said_once(
        self, study_with_results: Any, study: int, said_by: str
    ) -> None:
        with study_with_results.database.transaction() as connection:
            connection.execute(
                "UPDATE study SET spec = jsonb_set(spec, '{constraints,0,min}', '0.999')"
            )
            connection.execute(
                "UPDATE evaluation SET violation = 0.5, rank = 2 WHERE told_at IS NOT NULL"
            )
        said = [w.value.replace("\\", "") for w in open_page("study", study=study).warning]
        assert [text[: len(said_by)] for text in said if "constraint" in text] == [said_by]


class TestNames:
    def test_a_suite_is_called_what_it_is_called(self, study_with_results: Any) -> None:
        axes = [{"metric": "score", "suite": "reviews"}, {"metric": "negative_flip_rate"}]
        with study_with_results.database.transaction() as connection:
            connection.execute(
                "UPDATE study SET spec = jsonb_set(spec, '{objectives}', %s)", (Jsonb(axes),)
            )
        named = [card.label for card in open_page("study", study=1).metric]
        assert "reviews" in named
        assert "Negative flips" in named


class TestGroups:
    def test_a_grouped_candidate_shows_every_group_and_its_own_recipe(
        self, study_with_results: Any
    ) -> None:
        """One trial's weights and recipe, as a study of groups would have written them."""
        database, number = study_with_results.database, 10
        with database.transaction() as connection:
            connection.execute(
                "UPDATE study SET spec = jsonb_set(spec, '{search,groups}', '{\"kinds\": true}') "
                "WHERE id = 1"
            )
        study = read.get_study(database, 1)
        weights = [w for row in (0.5, 0.25, 1.0) for w in (row, 1 - row, 0.0, 0.0, 0.0, 0.0)]
        recipe = make_recipe(study.spec.search, study.pool, weights)
        with database.transaction() as connection:
            connection.execute(
                "UPDATE trial SET weights = %s, recipe = %s WHERE study_id = 1 AND number = %s",
                (weights, Jsonb(recipe.to_dict()), number),
            )
        app = open_page("candidate", study=1, trial=number)
        said = texts(app)
        assert "groups by layer or module kind, which mergekit cannot do" in said
        (written,) = [code.value for code in app.code if "parents:" in code.value]
        assert Recipe.from_dict(yaml.safe_load(written)) == recipe
        heat = figures(app)[0]["data"][0]
        assert heat["x"] == ["attention", "mlp", "the rest"]
        frame = tables.trial_frame(study, columns.read_columns(database, study, "search"))
        assert any("(mean of 3 groups)" in text for text in frame["weights"])
        open_page("study", study=1)


class TestStudies:
    def test_the_list_shows_state_progress_and_best(self, study_with_results: Any) -> None:
        said = texts(open_page(""))
        assert "macro\u00a0average" in said
        assert "finished" in said
        assert "running" in said

    def test_filters_narrow_it(self, study_with_results: Any) -> None:
        app = open_page("")
        assert len(app.get("page_link")) == 2
        app.text_input[0].input("nothing like it").run()
        assert "No study matches" in texts(app)


class TestNewStudy:
    def test_the_example_is_valid_and_counted(self, study_with_results: Any) -> None:
        app = open_page("new_study")
        assert "The spec is valid" in texts(app)
        assert "6 checkpoints" in texts(app)
        assert "**bcwi** pulls good candidates towards the reference" in texts(app)

    @pytest.mark.parametrize(
        ("old", "new", "parts"),
        [
            ("margin-surrogate ", "hill-climbing ", ["search.method", "Line "]),
            ("pool: letters", "pool: other", ["pool", "letters"]),
            ("trials: 60", "trials: none", ["budget.trials", "Line "]),
            ("budget:", "budge:", ["budge", "unknown key"]),
        ],
    )
    def test_a_bad_spec_gets_its_message_at_the_field(
        self, study_with_results: Any, old: str, new: str, parts: list[str]
    ) -> None:
        app = open_page("new_study")
        app.text_area[0].input(app.text_area[0].value.replace(old, new)).run()
        press(app, "Submit study")
        said = str(app.error[0].value).replace("\\", "")
        assert all(part in said for part in parts), said
        assert len(read.list_studies(study_with_results.database)) == 2

    def test_fields_write_into_the_spec(self, study_with_results: Any) -> None:
        app = open_page("new_study")
        app.selectbox(key="f-method").select("nsga-iii")
        app.toggle(key="f-racing").set_value(True)
        app.selectbox(key="f-space").select("task")
        app.selectbox(key="f-base").select("everything")
        app.toggle(key="f-kinds").set_value(True)
        app.toggle(key="f-reuse").set_value(True)
        app.number_input(key="f-high").set_value(0.8)
        app.number_input(key="f-low").set_value(0.0)
        app.number_input(key="f-items").set_value(9000)
        app.number_input(key="f-trials").set_value(25)
        press(app, "Write into the spec")
        assert not app.exception
        text = app.text_area[0].value
        assert "# candidates; the baselines come on top" in text
        spec = parse_spec(text)
        assert (spec.search.method, spec.search.racing) == ("nsga-iii", Racing())
        assert (spec.search.space, spec.search.base) == ("task", "everything")
        assert (spec.search.bounds, spec.search.reuse) == ((0.0, 0.8), True)
        assert spec.search.groups == Groups(kinds=True)
        assert (spec.budget.trials, spec.budget.item_evaluations) == (25, 9000)
        said = texts(app)
        assert "15 free weights in 3 groups of tensors in the task space" in said
        press(app, "Submit study")
        newest = read.list_studies(study_with_results.database)[0]["id"]
        assert read.get_study(study_with_results.database, newest).spec == spec

    def test_submitting_makes_a_study(self, study_with_results: Any) -> None:
        app = open_page("new_study")
        app.text_area[0].input(app.text_area[0].value.replace("better-and", "third-and")).run()
        press(app, "Submit study")
        newest = read.list_studies(study_with_results.database)[0]
        assert (newest["name"], newest["state"]) == ("third-and-quiet", "running")


class TestStudy:
    def test_it_is_useful_with_no_clicks(self, study_with_results: Any) -> None:
        app = open_page("study", study=1)
        said = texts(app)
        assert "Chosen: trial" in said
        assert len(figures(app)) == 7
        assert [m.label for m in app.metric][:2] == ["Macro average", "Negative flips"]
        assert "n = 162 · validation" in said

    def test_notes_and_names_are_text(self, study_with_results: Any) -> None:
        app = open_page("study", study=1)
        assert "<script>" in app.text[0].value
        assert not any("<script>" in str(m.value) for m in app.markdown)

    def test_the_axes_and_the_split_come_from_the_address(self, study_with_results: Any) -> None:
        app = open_page("study", study=1, split="validation", x="churn")
        assert app.selectbox(key="x").value == "churn"
        assert "Trials · validation split" in texts(app)

    def test_the_noise_floor_stands_beside_negative_flips(self, study_with_results: Any) -> None:
        database = study_with_results.database
        chosen = read.study_summary(database, 1)["chosen"]
        pages: list[tuple[str, dict[str, int]]] = [
            ("study", {"study": 1}),
            ("candidate", {"study": 1, "trial": chosen}),
        ]
        assert not any("noise floor" in texts(open_page(page, **ids)) for page, ids in pages)
        measure_noise(database, changed=2)
        for page, ids in pages:
            assert (
                "noise floor of the reference (deployed, validation split): 0 of 60 answers change "
                "with other batching on reviews (95 % 0.0–6.0 %; 0 negative); 2 of 60 in bfloat16 "
                "on reviews (95 % 0.9–11.4 %; 1 negative)"
            ) in texts(open_page(page, **ids))

    def test_the_command_line_says_it_below_the_front(
        self, study_with_results: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        database = study_with_results.database
        front.print_front(database, 1)
        assert "noise floor" not in capsys.readouterr().out
        measure_noise(database, changed=2)
        front.print_front(database, 1)
        floor = "noise floor of the reference (deployed, validation split): 0 of 60"
        assert any(line.startswith(floor) for line in capsys.readouterr().out.splitlines())
        assert len(front.front_data(database, 1)["noise_floor"]) == 2

    def test_pausing_and_resuming(self, study_with_results: Any) -> None:
        database = study_with_results.database
        app = press(open_page("study", study=2), "Pause")
        assert read.study_summary(database, 2)["state"] == "paused"
        press(app, "Resume")
        assert read.study_summary(database, 2)["state"] == "running"

    def test_cancelling_asks_first(self, study_with_results: Any) -> None:
        database = study_with_results.database
        app = open_page("study", study=2)
        assert "This cannot be undone" in texts(app)
        assert read.study_summary(database, 2)["state"] == "running"
        press(app, "Cancel the study")
        assert read.study_summary(database, 2)["state"] == "cancelled"

    def test_a_finished_study_has_nothing_to_steer(self, study_with_results: Any) -> None:
        labels = {b.label for b in open_page("study", study=1).button}
        assert not labels & {"Pause", "Resume", "Cancel"}

    def test_it_says_that_nobody_works(self, study_with_results: Any) -> None:
        assert "No worker has been seen" in texts(open_page("study", study=2))


class TestSealedSplit:
    def test_looking_at_pages_reads_nothing_of_it(self, study_with_results: Any) -> None:
        before = sealed.readings(study_with_results.database, 1)
        open_page("study", study=1, split="test")
        open_page("candidate", study=1, trial=0, on="test")
        assert sealed.readings(study_with_results.database, 1) == before

    def test_opening_it_is_logged_once_and_shown(self, study_with_results: Any) -> None:
        before = len(sealed.readings(study_with_results.database, 1))
        app = press(open_page("study", study=1), "Open test report (logged)")
        assert "Trials · test split" in texts(app)
        assert "n = 141 · test" in texts(app)
        app.run()
        found = sealed.readings(study_with_results.database, 1)
        assert len(found) == before + 1
        assert "dashboard" in found[-1]["purpose"]

    def test_a_running_study_does_not_offer_it(self, study_with_results: Any) -> None:
        labels = {b.label for b in open_page("study", study=2).button}
        assert "Open test report (logged)" not in labels


class TestCandidate:
    def test_it_lists_negative_flips_first(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        chosen = read.study_summary(database, 1)["chosen"]
        app = open_page("candidate", study=1, trial=chosen)
        flips = read.flips(database, study, chosen, "validation")
        negative = [f for f in flips if f.kind == "negative"]
        table = flip_table(app)
        assert negative
        assert all(f.item in table for f in negative)
        assert f"{len(negative)} of {len(flips)} changed answers" in texts(app)

    def test_hostile_prompts_are_escaped(self, study_with_results: Any) -> None:
        app = open_page("candidate", study=1, trial=5)
        app.text_input[0].input("<script>").run()
        table = flip_table(app)
        assert "&lt;script&gt;" in table
        assert "<script>" not in table

    def test_the_reference_changes_nothing(self, study_with_results: Any) -> None:
        assert "No answer changes" in texts(open_page("candidate", study=1, trial=0))

    def test_the_recipe_is_there_to_copy(self, study_with_results: Any) -> None:
        codes = [c.value for c in open_page("candidate", study=1, trial=6).code]
        assert any("merge_method: linear" in code for code in codes)

    def test_publishing_queues_an_artefact(self, study_with_results: Any) -> None:
        app = press(open_page("candidate", study=1, trial=6), "Publish")
        study = read.get_study(study_with_results.database, 1)
        (artefact,) = read.trial_detail(study_with_results.database, study, 6)["artefacts"]
        assert artefact["state"] == "queued"
        assert "queued" in texts(app)

    @pytest.mark.parametrize("ids", [{"study": 1}, {"study": 1, "trial": 999}])
    def test_an_unknown_trial_is_explained(
        self, study_with_results: Any, ids: dict[str, int]
    ) -> None:
        said = texts(open_page("candidate", **ids))
        assert "No candidate is named" in said or "study 1 has no trial 999" in said


class TestRegistered:
    def test_a_count_is_written_alike_in_text_and_in_a_grid(self, study_with_results: Any) -> None:
        app = open_page("pools")
        assert "checkpoints of 260\u202f096 parameters" in texts(app)
        grid = app.dataframe[0]
        assert set(grid.value["parameters"]) == {260_096}
        shown = convert_arrow_bytes_to_pandas_df(grid.proto.arrow_data.styler.display_values)
        assert set(shown["parameters"]) == {"260\u202f096"}

    def test_pools_and_suites_are_tables(self, study_with_results: Any) -> None:
        pools = open_page("pools").dataframe[0].value
        assert next(iter(pools["checkpoint"])) == "deployed"
        suites = open_page("suites").dataframe[0].value
        assert set(suites["suite"]) == {"reviews", "questions", "plurals", "prose"}
        assert (
            (suites["search"] + suites["validation"] + suites["test (sealed)"])
            .eq(suites["items"])
            .all()
        )

    def test_workers_show_their_last_heartbeat(self, study_with_results: Any) -> None:
        from services import evaluations

        evaluations.seen(study_with_results.database, "w:1", "evaluate", {"engine": "running"})
        app = open_page("workers")
        assert app.metric[0].value == "1"
        assert list(app.dataframe[0].value["worker"]) == ["w:1"]


class TestShortLinks:
    def test_the_root_sends_numbers_to_their_page(self, study_with_results: Any) -> None:
        app = AppTest.from_file(str(APP), default_timeout=SECONDS)
        app.query_params["study"] = "1"
        app.run()
        assert "#1 better-and-quiet" in texts(app)


def test_no_secret_is_on_any_page(study_with_results: Any) -> None:
    from services.settings import settings

    url = settings().database_url
    assert url is not None
    secret = url.get_secret_value()
    for page, ids in (
        ("study", {"study": 1}),
        ("candidate", {"study": 1, "trial": 6}),
        ("workers", {}),
    ):
        app = open_page(page, **ids)
        assert secret not in texts(app) + "".join(c.value for c in app.code)


def test_a_stopped_candidate_shows_what_was_seen_and_never_metrics(
    study_with_results: Any,
) -> None:
    database, number = study_with_results.database, study_with_results.begun
    with database.transaction() as connection:
        connection.execute(
            "UPDATE study SET spec = jsonb_set(spec, '{search,racing}', %s) WHERE id = %s",
            (Jsonb({"alpha": 0.05, "margin": None}), number),
        )
    claims = [
        evaluations.claim(database, one["id"], "worker-1:42", settings())
        for one in database.rows("studies.queued_evaluations", study=number)
    ]
    held = next(one for one in claims if one is not None and one.role == "search")
    race = {
        "by": {"trial": 3},
        "seen": {"reviews": 40, "questions": 30, "plurals": 20, "prose": 0},
        "objectives": [
            {"estimate": 0.31, "low": 0.2, "high": 0.45},
            {"estimate": 0.2, "low": 0.1, "high": 0.3},
        ],
        "violation": 0.0,
    }
    assert evaluations.stop(database, held, {"seconds": 0.2, "items": 90}, race)
    app = open_page("candidate", study=number, trial=held.number)
    said = texts(app)
    assert "Stopped after 90 items: behind trial 3" in said
    assert "the bounds hold all the same" in said
    assert "plurals 20 of" in said
    assert any("20.0–45.0\u00a0%" in frame.value.to_string() for frame in app.dataframe)
    assert "racing stopped 1 of" in texts(open_page("study", study=number))
