"""Pages that register, clone, edit, archive and compare, and what services give them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs
from streamlit.testing.v1 import AppTest

from optim.pareto import hypervolume
from services import evaluations
from services.errors import BadInput, NotFound
from services.spec import parse_spec
from services.studies import control, judge, listing, pairs, read, views
from services.studies.estimate import BYTES_PER_TOKEN
from services.studies.preflight import preflight
from services.studies.propose import BASELINES, minimised
from tests.plugins.pages import APP, SECONDS, figures, open_page
from ui import specs, words
from ui.views import compare
from ui.views.suites import items_html

SCRIPT = "<script>"


def said(app: AppTest) -> str:
    """What a page says."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "success", "error")
    return "\n".join(str(e.value) for kind in kinds for e in app.get(kind)).replace("\\", "")


def press(app: AppTest, label: str) -> AppTest:
    """Click a button by its label."""
    next(b for b in app.button if b.label == label).click().run()
    assert not app.exception
    return app


class TestControls:
    def test_a_clone_opens_the_form_with_the_same_spec(self, study_with_results: Any) -> None:
        database = study_with_results.database
        app = open_page("new_study", clone=1)
        assert "A clone of study #1" in said(app)
        assert parse_spec(app.text_area[0].value) == read.get_study(database, 1).spec
        app.text_area[0].input(app.text_area[0].value.replace("trials: 40", "trials: 12")).run()
        press(app, "Submit study")
        newest = read.list_studies(database)[0]["id"]
        assert read.get_study(database, newest).spec.budget.trials == 12

    def test_the_button_leads_there(self, study_with_results: Any) -> None:
        app = press(open_page("study", study=1), "Clone")
        assert "A clone of study #1" in said(app)

    def test_budget_and_parallelism_are_edited_while_it_searches(
        self, study_with_results: Any
    ) -> None:
        database = study_with_results.database
        app = open_page("study", study=2)
        next(n for n in app.number_input if n.label == "Candidates").set_value(55)
        next(n for n in app.number_input if n.label == "Candidates at a time").set_value(3)
        press(app, "Save")
        spec = read.get_study(database, 2).spec
        assert (spec.budget.trials, spec.search.parallelism) == (55, 3)
        assert "trials 40 → 55, parallelism 8 → 3" in read.events(database, 2)[-1]["text"]
        assert "Save" not in {b.label for b in open_page("study", study=1).button}

    def test_a_limit_is_emptied(self, study_with_results: Any) -> None:
        database = study_with_results.database
        control.edit(database, 2, {"item_evaluations": 9000})
        app = open_page("study", study=2)
        field = next(n for n in app.number_input if n.label == "Item evaluations")
        assert field.value == 9000
        field.set_value(None)
        press(app, "Save")
        assert read.get_study(database, 2).spec.budget.item_evaluations is None

    def test_resuming_offers_to_try_again(self, study_with_results: Any) -> None:
        database = study_with_results.database
        with database.transaction() as connection:
            connection.execute(
                "UPDATE evaluation e SET state = 'abandoned', attempt = 3 FROM trial t "
                "WHERE t.id = e.trial_id AND t.study_id = 2 AND t.number = 11"
            )
        control.pause(database, 2)
        app = open_page("study", study=2)
        app.radio(key="resume-again").set_value("failed").run()
        press(app, "Resume the study")
        states = {c.trial.number: c.trial.state for c in read.candidates(database, read.get_study(
            database, 2))}  # fmt: skip
        assert states[11] == "queued"
        assert "1 failed evaluations are tried again" in read.events(database, 2)[-1]["text"]

    def test_an_archived_study_is_out_of_the_list(self, study_with_results: Any) -> None:
        app = press(open_page("study", study=1), "Archive")
        assert "Unarchive" in {b.label for b in app.button}
        app = open_page("")
        assert len(app.get("page_link")) == 1
        app.toggle(key="archived").set_value(True).run()
        assert len(app.get("page_link")) == 2
        press(open_page("study", study=1), "Unarchive")
        assert len(open_page("").get("page_link")) == 2


class TestListing:
    def test_hypervolume_is_that_of_the_curve(self, study_with_results: Any) -> None:
        database = study_with_results.database
        found = {s["id"]: s for s in listing.listing(database)}
        for number in (1, 2):
            study = read.get_study(database, number)
            told = [c.trial for c in read.candidates(database, study) if c.trial.objectives]
            values = [minimised(study, t.objectives or ()) for t in told]
            base = [v for v, t in zip(values, told, strict=True) if t.role in BASELINES]
            worst = [max(axis) for axis in zip(*base, strict=True)]
            expected = hypervolume(values, [t.violation or 0.0 for t in told], worst)
            assert found[number]["hypervolume"] == pytest.approx(expected, abs=1e-12)
            seconds = database.row("views.hours")
            assert seconds is not None
        assert found[1]["hypervolume"] > found[2]["hypervolume"] >= 0

    def test_hours_are_the_sum_of_what_evaluations_took(self, study_with_results: Any) -> None:
        database = study_with_results.database
        with database.transaction() as connection:
            done = connection.execute(
                "SELECT count(*) AS n FROM evaluation e JOIN trial t ON t.id = e.trial_id "
                "WHERE t.study_id = 1 AND e.state = 'complete'"
            ).fetchone()
        assert done is not None
        hours = next(s["hours"] for s in listing.listing(database) if s["id"] == 1)
        assert hours == pytest.approx(done["n"] * 1.7 / 3600)

    def test_the_page_says_them(self, study_with_results: Any) -> None:
        text = said(open_page(""))
        assert "on the front, hypervolume 0." in text
        assert "letters · ada" in text


class TestPreflight:
    def test_tokens_are_measured_where_the_pool_was_evaluated(
        self, study_with_results: Any
    ) -> None:
        database = study_with_results.database
        spec = read.get_study(database, 1).spec
        found = preflight(database, spec)
        sizes = {name: (search, validation) for name, _, search, validation, _ in found.suites}
        # the formula's engine reports 900 tokens a suite, whatever its size
        assert found.tokens_how == "measured"
        assert found.tokens_per_candidate > 0
        assert found.tokens_search == pytest.approx(
            found.tokens_per_candidate * found.items_search / found.items_per_candidate
        )
        with database.transaction() as connection:
            connection.execute("UPDATE prediction SET cost = '{}'")
        guessed = preflight(database, spec)
        assert guessed.tokens_how == "estimated"
        expected = 0.0
        for name, (search, _) in sizes.items():
            items = [*views.items(database, name, "search")]
            with database.transaction() as connection:
                row = connection.execute("SELECT id FROM suite WHERE name = %s", (name,)).fetchone()
            assert row is not None
            every = read.suites_with_items(database, read.get_study(database, 1))
            whole = next(s for s in every if s.name == name).items
            bytes_each = np.mean(
                [
                    len("".join((i.context, *i.choices, i.prompt, i.target, i.text)).encode())
                    for i in whole
                ]
            )
            assert len(items) == search
            expected += search * bytes_each / BYTES_PER_TOKEN
        assert guessed.tokens_per_candidate == pytest.approx(expected)

    def test_the_page_says_what_is_the_same(self, study_with_results: Any) -> None:
        text = said(open_page("new_study"))
        assert "the same tokenizer files, the same configuration" in text
        assert "tokens in the search" in text
        assert "A dry run" in text

    def test_fields_follow_the_text(self, study_with_results: Any) -> None:
        app = open_page("new_study", clone=1)
        text = app.text_area[0].value
        assert app.number_input(key="f-trials").value == 40
        app.text_area[0].input(text.replace("trials: 40", "trials: 33")).run()
        assert app.number_input(key="f-trials").value == 33

    def test_the_question_is_a_form_too(self, study_with_results: Any) -> None:
        app = open_page("new_study")
        before = app.text_area[0].value
        press(app, "Write into the spec")
        assert parse_spec(app.text_area[0].value) == parse_spec(before)
        app.text_input(key="f-name").set_value("asked-by-form")
        app.multiselect(key="f-suites").set_value(["reviews", "plurals"])
        app.multiselect(key="f-objectives").set_value(["macro", "churn:plurals"])
        app.selectbox(key="f-reference").select("everything")
        app.number_input(key="f-limit").set_value(2.5)
        press(app, "Write into the spec")
        text = app.text_area[0].value
        spec = parse_spec(text)
        assert (spec.name, spec.reference) == ("asked-by-form", "everything")
        assert spec.suites == ("reviews", "plurals")
        assert [axis.label for axis in spec.axes] == ["macro", "churn:plurals"]
        (limit,) = spec.constraints
        assert (limit.metric, limit.suite, limit.max) == ("negative_flip_rate", "each", 0.025)
        assert "# candidates; the baselines come on top" in text
        # the limit is taken out again, and no other key is touched
        app.number_input(key="f-limit").set_value(None)
        press(app, "Write into the spec")
        assert parse_spec(app.text_area[0].value).constraints == ()


@hypothesis.settings(deadline=None)
@given(
    hs.sampled_from(["name", "pool", "reference", "suites", "objectives", "constraints", "notes"]),
    hs.one_of(
        hs.none(),
        hs.text("ab: #'\"\n-", max_size=8),
        hs.lists(hs.text("abc", min_size=1), max_size=3),
    ),
)
def test_the_specs_own_keys_are_set_without_touching_the_rest(key: str, value: Any) -> None:
    import yaml

    text = specs.example([{"name": "p", "reference": "r"}], [{"name": "s", "form": "choice"}])
    before = yaml.safe_load(text)
    after = yaml.safe_load(specs.with_values(text, "", {key: value}))
    expected = {k: v for k, v in before.items() if k != key}
    assert after == (expected if value is None else expected | {key: value})


class TestRegistering:
    def test_a_pool_is_registered_with_its_messages(
        self, study_with_results: Any, tiny_pool: Path
    ) -> None:
        app = open_page("pools")
        places = "\n".join(str(tiny_pool / "pool" / name) for name in ("now", "left"))
        app.text_input(key="pool-name").set_value("from-the-web")
        app.text_input(key="pool-reference").set_value("nobody")
        app.text_area(key="pool-places").set_value(places)
        press(app, "Read, check and register")
        assert "reference 'nobody' is not among the checkpoints" in said(app)
        app.text_input(key="pool-reference").set_value("now")
        press(app, "Read, check and register")
        assert "Pool from-the-web is registered: 2 checkpoints." in said(app)
        assert "the same tokenizer files, the same configuration" in said(app)
        assert views.pool(study_with_results.database, "from-the-web").names == ["now", "left"]

    def test_a_suite_is_uploaded(self, study_with_results: Any) -> None:
        lines = [json.dumps({"id": str(i), "text": f"line {i}"}) for i in range(40)]
        app = open_page("suites")
        app.text_input(key="suite-name").set_value("uploaded")
        press(app, "Check and register")
        assert "no file" in said(app)
        app.file_uploader(key="suite-file").set_value(
            ("x.jsonl", "\n".join([*lines, '{"id": "0", "text": "again"}']).encode(), "text/plain")
        )
        press(app, "Check and register")
        assert "id '0' is also on line 1" in said(app)
        app.file_uploader(key="suite-file").set_value(
            ("x.jsonl", "\n".join(lines).encode(), "text/plain")
        )
        press(app, "Check and register")
        assert "Suite uploaded is registered: 40 items" in said(app)
        assert "uploaded" in {s["name"] for s in views.suites(study_with_results.database)}

    def test_items_are_filtered_and_the_sealed_ones_are_not_there(
        self, study_with_results: Any
    ) -> None:
        database = study_with_results.database
        found = views.items(database, "reviews", "search", "DREADFUL")
        assert found
        assert all("dreadful" in item.context for item in found)
        everything = {
            split: {i.id for i in views.items(database, "reviews", split)}
            for split in ("search", "validation")
        }
        assert not everything["search"] & everything["validation"]
        with pytest.raises(BadInput, match="sealed"):
            views.items(database, "reviews", "test")
        app = open_page("suites", suite="reviews")
        app.text_input(key="items-text").set_value("wonderful").run()
        assert f"{len(views.items(database, 'reviews', 'search', 'wonderful'))} items" in said(app)

    def test_hostile_items_are_text(self, study_with_results: Any) -> None:
        found = views.items(study_with_results.database, "reviews", "search", SCRIPT)
        assert found
        assert SCRIPT not in items_html(found)
        assert "&lt;script&gt;" in items_html(found)


class TestCompare:
    def test_pairs_are_counted_item_by_item(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        numbers = [0, 3, 9]
        found = pairs.pairs(database, study, numbers)
        answers = {n: read.predictions(database, study, n, "search") for n in numbers}
        for a, b in itertools.permutations(numbers, 2):
            negative = changed = n = 0
            for name in ("reviews", "questions", "plurals"):
                old, new = answers[a][name], answers[b][name]
                assert old.correct is not None
                assert new.correct is not None
                negative += int((old.correct & ~new.correct).sum())
                changed += int((old.answer != new.answer).sum())
                n += len(old.correct)
            counts = found.counts[a, b]
            assert (counts.negative, counts.changed, counts.n) == (negative, changed, n)
            back = found.counts[b, a]
            assert (back.changed, back.positive) == (counts.changed, counts.negative)
        # against the reference they are what the study was told
        told = {c.trial.number: c for c in read.candidates(database, study)}
        assert found.counts[0, 9].churn == told[9].metrics[""]["churn"].value

    @pytest.mark.parametrize("numbers", [[], [1], [1, 1], list(range(7))])
    def test_two_to_six(self, study_with_results: Any, numbers: list[int]) -> None:
        study = read.get_study(study_with_results.database, 1)
        with pytest.raises(BadInput, match="Choose 2 to 6"):
            pairs.pairs(study_with_results.database, study, numbers)

    def test_unknown_ones_and_the_sealed_split(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        with pytest.raises(NotFound, match="no trial 999"):
            pairs.pairs(database, study, [1, 999])
        with pytest.raises(BadInput, match="sealed"):
            pairs.pairs(database, study, [1, 2], "test")  # type: ignore[arg-type]
        begun = read.get_study(database, 2)
        some = pairs.pairs(database, begun, [0, 1, 12])
        assert (some.numbers, some.missing) == ((0, 1), (12,))

    def test_the_page_stands_in_its_address(self, study_with_results: Any) -> None:
        app = open_page("compare", study=1, trials="0,3,5")
        assert app.multiselect(key="compared").value == [0, 3, 5]
        frame = app.dataframe[1].value
        assert [c for c in frame.columns if c.startswith("trial ")] == [
            "trial 0 deployed", "trial 3 plurals-ft", "trial 5 early",
        ]  # fmt: skip
        assert len(figures(app)) == 3
        assert set(frame["suite"][frame["metric"] != "score"]) == {"all"}
        prose = frame.loc[frame["suite"] == "prose", "trial 5 early"].item()
        assert prose.endswith(") nats/token")
        assert prose.count("nats") == 1
        paired = app.dataframe[0].value.set_index("suite")
        for number, column in ((3, "trial 3 plurals-ft"), (5, "trial 5 early")):
            database = study_with_results.database
            study = read.get_study(database, 1)
            told = judge.compare(database, study, 0, number, split="validation")
            for one in told.judgements:
                cell = paired.loc[one.suite or "all, macro average", column]
                text = one.suite == "prose"
                value, low, high = one.difference.value, one.difference.low, one.difference.high
                assert value is not None
                assert low is not None
                assert high is not None
                scale = 1 if text else 100
                assert float(cell.split()[0]) == pytest.approx(scale * value, abs=0.06)
                apart = low > 0 or high < 0
                assert cell.endswith(("better", "worse") if apart else "may be chance")
                if apart:
                    assert cell.endswith("better") == ((value > 0) != text)
        suites = app.dataframe[2].value
        assert "all" not in set(suites["suite"])
        assert len(suites) > len(frame)
        app.multiselect(key="compared").set_value([0, 3]).run()
        assert app.query_params["trials"] in ("0,3", ["0,3"])

    def test_short_links_lead_there(self, study_with_results: Any) -> None:
        app = AppTest.from_file(str(APP), default_timeout=SECONDS)
        app.query_params["study"], app.query_params["trials"] = "1", "0,3"
        assert "Compare candidates" in said(app.run())

    def test_from_a_candidate(self, study_with_results: Any) -> None:
        chosen = read.study_summary(study_with_results.database, 1)["chosen"]
        app = press(open_page("candidate", study=1, trial=3), "Compare")
        # trials that were not finalists have no results on validation
        asked = app.query_params["trials"]
        assert asked in ([f"3,{chosen}"], f"3,{chosen}")

    @pytest.mark.parametrize(
        ("text", "numbers"), [("3, 7,7", [3, 7]), ("", []), ("1,2,3,4,5,6,7", [1, 2, 3, 4, 5, 6])]
    )
    def test_numbers_of_an_address(self, text: str, numbers: list[int]) -> None:
        assert compare.numbers_in(text) == numbers

    @pytest.mark.parametrize("text", ["a", "1;2", "-1", "²"])
    def test_other_addresses_are_refused(self, text: str) -> None:
        with pytest.raises(BadInput, match="no numbers of trials"):
            compare.numbers_in(text)


def test_who_is_silent_does_nothing_and_what_waits_for_nobody_is_said(
    study_with_results: Any,
) -> None:
    database = study_with_results.database
    evaluations.seen(database, "worker-1:42", "evaluate", {"engine": "running"})
    app = open_page("workers")
    assert list(app.dataframe[0].value["engine"]) == ["running"]
    assert not app.warning
    with database.transaction() as connection:
        connection.execute("UPDATE worker SET seen_at = seen_at - interval '2 minutes'")
    app = open_page("workers")
    assert list(app.dataframe[0].value["engine"]) == ["–"]
    assert "Nobody works on what waits" in app.warning[0].value
    control.pause(database, 2)
    assert not open_page("workers").warning


def test_workers_say_their_pace(study_with_results: Any) -> None:
    evaluations.seen(study_with_results.database, "worker-1:42", "evaluate", {})
    (worker,) = views.workers(study_with_results.database)
    assert worker["tokens_per_second"] == pytest.approx(3600 / 1.7)
    frame = open_page("workers").dataframe[0].value
    assert frame["tokens/s"].iloc[0] == words.count(3600 / 1.7)
