"""What the judging services say, on the pages: near-best sets, costs, what parents are worth,
kinship and the health of suites.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from optim.leakage import Compared
from services import kinship, leakage, registry, stored_suites
from services.settings import settings
from services.studies import attribution, coalitions, control, cost, multiplicity, probes, read
from services.suite_health import of_items
from tests.plugins.pages import figures, open_page
from ui.plots.kinship import kinship_figure
from ui.study.near_best import unstable_html

NEEDED = "Evaluate the merges it needs"


def said(app: AppTest) -> str:
    """What a page says."""
    kinds = ("title", "markdown", "caption", "info", "warning", "success", "error")
    return "\n".join(str(e.value) for kind in kinds for e in app.get(kind)).replace("\\", "")


def labels(app: AppTest) -> set[str]:
    """What the buttons say."""
    return {b.label for b in app.button}


def press(app: AppTest, label: str) -> AppTest:
    """Press the button whose label begins so."""
    (found,) = [b for b in app.button if b.label.startswith(label)]
    app = found.click().run()
    assert not app.exception
    return app


def bars(app: AppTest) -> str:
    """What stands at the progress bars."""
    return "\n".join(bar.proto.text for bar in app.get("progress"))


def charts(app: AppTest) -> dict[str, Any]:
    """Plots by their title."""
    return {figure["layout"]["title"]["text"]: figure for figure in figures(app)}


class Cells(HTMLParser):
    """The cells of a table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and data.strip():
            self.rows[-1][-1] += data


def near_best_table(app: AppTest) -> list[list[str]]:
    """The near-best set's figures: its heads, then a row a suite."""
    (body,) = [e.proto.body for e in app.get("html") if 'class="near-best"' in e.proto.body]
    cells = Cells()
    cells.feed(body.split("</style>")[1])
    return cells.rows


def frame(app: AppTest, column: str) -> Any:
    """The table that has this column."""
    (found,) = [table.value for table in app.dataframe if column in table.value.columns]
    return found


class TestStudy:
    def test_the_near_best_set_is_that_of_the_service(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        found = multiplicity.multiplicity(database, study, epsilon=0.1)
        assert len(found.members) > 1
        app = open_page("study", study=1)
        app.number_input(key="epsilon-1").set_value(0.1).run()
        told = said(app)
        assert f"**{len(found.members)} of {found.candidates}** feasible candidates" in told
        assert f"the best, trial {found.best}, in the mean of the objectives" in told
        assert found.optimism is not None
        assert found.optimism.line in told
        table = near_best_table(app)
        assert [row[0].split("n =")[0] for row in table[1:]] == [
            "reviews", "questions", "plurals", "all",
        ]  # fmt: skip
        every = found.figures[-1]
        assert every.expected_churn.value is not None
        cell = table[-1][table[0].index("two differ")]
        assert cell.startswith(f"{100 * every.expected_churn.value:.1f}\u00a0%")
        assert all(f"- **{head}**: " in told for head in table[0][1:])
        for head, mean, largest in (
            ("range of gold", every.viable_range, every.widest_range),
            ("capacity", every.capacity, every.largest_capacity),
        ):
            column = [row[table[0].index(head)] for row in table[1:]]
            # generated answers have no options
            assert column[2] == "–"
            assert column[3] == f"{mean:.2f}{largest:.2f}"
        (shown,) = [e.proto.body for e in app.get("html") if "the majority" in e.proto.body]
        assert shown == unstable_html(found.unstable[:10]).strip()

    def test_prompts_and_answers_are_text(self, study_with_results: Any) -> None:
        database = study_with_results.database
        found = multiplicity.multiplicity(
            database, read.get_study(database, 1), epsilon=0.5, most_items=1000
        )
        assert any("<script>" in item.prompt for item in found.unstable)
        written = unstable_html(found.unstable)
        assert "<script>" not in written
        assert "&lt;script&gt;" in written

    def test_a_best_without_equals_says_so(self, study_with_results: Any) -> None:
        app = open_page("study", study=1)
        app.number_input(key="epsilon-1").set_value(0.0).run()
        assert "nothing was left to choose" in said(app)

    def test_many_answers_are_compared_on_a_button_only(
        self, study_with_results: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ui.study.near_best.AT_ONCE", 10)
        app = open_page("study", study=1)
        assert "feasible candidates are within" not in said(app)
        app.number_input(key="epsilon-1").set_value(0.1).run()
        assert "feasible candidates are within" in said(press(app, "Compare their answers"))

    def test_costs_add_up(self, study_with_results: Any) -> None:
        database = study_with_results.database
        found = cost.of_study(database, read.get_study(database, 1))
        app = open_page("study", study=1)
        table = frame(app, "FLOPs")
        assert list(table["part"]) == ["search", "baselines on search", "validation", "test", "all"]
        assert table["items"].iloc[:-1].sum() == table["items"].iloc[-1] == found.total.items
        assert "Energy was not measured" in said(app)


class TestCandidate:
    def test_merges_are_asked_for_and_their_figures_drawn(
        self, study_with_results: Any, work_off: Callable[..., None]
    ) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        chosen = read.study_summary(database, 1)["chosen"]
        plan = coalitions.plan(database, study, chosen)
        before = probes.standing(database, study, plan.merges, "validation")
        app = open_page("candidate", study=1, trial=chosen, on="validation")
        assert f"{NEEDED} ({before.missing} evaluations)" in labels(app)
        app = press(app, NEEDED)
        asked = probes.standing(database, study, plan.merges, "validation")
        assert (asked.open, asked.missing) == (before.missing, 0)
        assert not any(label.startswith(NEEDED) for label in labels(app))
        work_off(database, 1, 10_000)
        found = attribution.result(database, study, plan)
        assert found.standing.told == found.standing.total
        app = open_page("candidate", study=1, trial=chosen, on="validation")
        drawn = charts(app)
        for axis, title in zip(found.axes, ("Macro average", "Negative flips"), strict=True):
            bars = {trace["name"]: trace for trace in drawn[title]["data"]}
            values = [f.value for f in axis.shapley]
            assert bars["Shapley value"]["x"] == pytest.approx([100 * (v or 0) for v in values])
        assert "Shapley values add up to the candidate less no parent at all" in said(app)
        # it changes nothing of the study
        assert read.study_summary(database, 1)["chosen"] == chosen

    def test_paused_merges_say_so_and_can_be_resumed(
        self, study_with_results: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = study_with_results.database
        chosen = read.study_summary(database, 1)["chosen"]
        app = press(open_page("candidate", study=1, trial=chosen), NEEDED)
        assert "no worker has been seen" in bars(app)
        assert "paused" not in bars(app)
        control.pause(database, 1)
        app = open_page("candidate", study=1, trial=chosen)
        assert bars(app).endswith("to come · paused")
        assert "The probes of this study are paused" in said(app)
        app = press(app, "Resume the probes")
        assert "paused" not in bars(app) + said(app)
        assert not probes.counts(database, 1)[0]["held"]
        control.pause(database, 1)
        monkeypatch.setenv("REMELT_LOCAL_ROLE", "viewer")
        settings.cache_clear()
        assert "Resume the probes" not in labels(open_page("candidate", study=1, trial=chosen))

    def test_others_are_not_offered_to_ask(
        self, study_with_results: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REMELT_LOCAL_ROLE", "viewer")
        settings.cache_clear()
        chosen = read.study_summary(study_with_results.database, 1)["chosen"]
        app = open_page("candidate", study=1, trial=chosen)
        assert not any(label.startswith(NEEDED) for label in labels(app))
        assert "owner and admins may have them evaluated" in said(app)

    def test_nothing_of_it_before_the_choice(self, study_with_results: Any) -> None:
        assert "each parent is worth" not in said(open_page("candidate", study=2, trial=0))

    def test_a_suite_that_a_parent_has_seen(self, study_with_results: Any) -> None:
        database = study_with_results.database
        study = read.get_study(database, 1)
        with database.transaction() as connection:
            suite = stored_suites.suite_from_row(stored_suites.suite_row(connection, "reviews"))
        easier = Compared(own=0.4, other=0.1, easier=0.3, low=0.2, high=0.4)
        found = leakage.Leakage(
            checkpoint=study.pool.members[1].digest, suite="reviews", against="new.jsonl", n=60,
            others=60, paired=False, nats=easier, grams=easier, signs=("5-grams",),
        )  # fmt: skip
        leakage.save(database, suite, found, "0" * 64)
        single = next(
            c.trial.number for c in read.candidates(database, study)
            if c.trial.label == study.pool.names[1]
        )  # fmt: skip
        told = said(open_page("candidate", study=1, trial=single))
        assert "reviews-ft (weight 1.00) may have seen reviews" in told
        assert "40.0 % instead of 10.0 %" in told
        assert "may have seen" not in said(open_page("candidate", study=1, trial=0))

    def test_what_it_cost(self, study_with_results: Any) -> None:
        assert "of the study's), " in said(open_page("candidate", study=1, trial=3))


class TestPools:
    def test_kinship_that_was_measured_is_a_map(self, study_with_results: Any) -> None:
        database = study_with_results.database
        with database.transaction() as connection:
            pool = registry.pool(connection, "letters")
        digests = sorted(m.digest for m in pool.members if m.name != pool.reference)
        vectors = np.random.default_rng(1).normal(size=(5, 50))
        vectors[4] = 0
        app = open_page("pools")
        assert "Measure the kinship" in labels(app)
        database.rows(
            "kinship.insert", base=pool.members[0].digest, digests=digests, n=50,
            gram=(vectors @ vectors.T).ravel().tolist(), sums=vectors.sum(axis=1).tolist(),
        )  # fmt: skip
        app.run()
        assert "Measure the kinship" not in labels(app)
        (drawn,) = charts(app).values()
        found = kinship.stored(database, "letters")
        assert found is not None
        assert drawn == json.loads(str(kinship_figure(found).to_json()))
        row = found.names.index("early")
        # a checkpoint that is the base has no direction
        assert drawn["data"][0]["z"][row] == [None] * 5
        one = np.corrcoef(vectors[0], vectors[1])[0, 1]
        assert found.kinship.pearson[0, 1] == pytest.approx(one)

    def test_measuring_reads_the_files(self, study_with_results: Any) -> None:
        app = press(open_page("pools"), "Measure the kinship")
        assert "/checkpoints/" in said(app)


class TestSuites:
    def test_its_health_and_what_a_study_answered(self, study_with_results: Any) -> None:
        database = study_with_results.database
        with database.transaction() as connection:
            suite = stored_suites.suite_from_row(stored_suites.suite_row(connection, "questions"))
        app = open_page("suites", suite="questions")
        told = said(app)
        assert "Health of questions" in told
        findings = of_items(suite).findings
        assert findings
        assert all(finding.what in told and finding.mend in told for finding in findings)
        assert frame(app, "without reading the question")["right"].iloc[0] == "25.0\u00a0%"
        assert "Golds by position, from the first on: " in told
        assert "if models differ in 10 % of the items" in told
        assert "All have right" not in told
        app.selectbox(key="health-study-questions").set_value(1).run()
        assert not app.exception
        told = said(app)
        for split in ("search", "validation"):
            assert f"models of study #1 answered · {split} split" in told
        assert "All have right, so they tell nothing apart: " in told
        assert "Positions chosen by deployed: " in told

    def test_many_items_are_looked_at_on_a_button_only(
        self, study_with_results: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ui.suite_health.AT_ONCE", 10)
        monkeypatch.setattr("services.suite_health._known", {})
        app = open_page("suites", suite="reviews")
        assert "Golds by position" not in said(app)
        assert "Golds by position" in said(press(app, "Look for what is wrong"))

    def test_an_upload_is_told_what_is_wrong_with_it(self, study_with_results: Any) -> None:
        lines = [
            {"id": str(i), "prompt": f"What is {i % 40} and {i % 40}?", "target": f" {i % 40 * 2}"}
            for i in range(240)
        ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        app = open_page("suites")
        app.text_input(key="suite-name").set_value("sums")
        app.file_uploader(key="suite-file").set_value(("sums.jsonl", data, "application/json"))
        told = said(press(app, "Check and register"))
        assert "Suite sums is registered: 240 items" in told
        assert "have a twin in search" in told
        assert "Remove one of each pair" in told
