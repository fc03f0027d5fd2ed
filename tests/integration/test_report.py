"""The report of a study: its numbers against straight computations on the stored predictions, what
it reads of the sealed split, and what it says when there is nothing to report."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from optim.intervals import mcnemar, wilson
from optim.recipe import Recipe
from services import report as reports
from services import stored_suites
from services.cli import cli
from services.errors import BadInput, NoFeasibleCandidate, NotFound
from services.report import cost, html, markdown, words
from services.report.blocks import (
    Answers,
    Bars,
    Cards,
    Code,
    Facts,
    Number,
    Plots,
    Report,
    Scatter,
    Section,
    Table,
    Text,
)
from services.report.material import Material, gather
from services.report.provenance import recipe_block
from services.report.verdict import headline
from services.spec import parse_spec
from services.studies import control, read, sealed
from services.studies.advance import advance
from services.studies.cost import Energy

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: reported
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
constraints: [{metric: negative_flip_rate, max: 0.9}]
search: {method: random, parallelism: 4}
budget: {trials: 8, finalists: 3}
"""
RUDE = "</pre><script>alert('x')</script> | `a` *b* [c](javascript:x)"


@pytest.fixture
def finished(driver: Driver) -> int:
    """A study that has made its choice."""
    number = driver.submit(SPEC)
    driver.run(number)
    return number


def found_candidate(driver: Driver, number: int) -> int:
    """A found candidate that was scored on test, whatever was chosen."""
    return next(t.number for t in driver.trials(number, "test") if t.role == "search" and t.told)


def section(report: Report, name: str) -> Section:
    return next(one for one in report.sections if one.name == name)


def block(report: Report, name: str, kind: type, index: int = 0) -> Any:
    return [one for one in section(report, name).blocks if isinstance(one, kind)][index]


def texts(report: Report, name: str) -> str:
    return "\n".join(b.text for b in section(report, name).blocks if isinstance(b, Text))


def answers(material: Material, candidate: Any, suite: str) -> Any:
    return material.answers[candidate.trial.number][suite]


def test_the_verdict_is_what_the_predictions_say(driver: Driver, finished: int) -> None:
    material = gather(driver.database, finished, candidate=found_candidate(driver, finished))
    assert material.split == "test"
    scored = ("pick", "say")
    old = {s: answers(material, material.reference, s).correct for s in scored}
    new = {s: answers(material, material.candidate, s).correct for s in scored}
    gain = headline(material)
    assert gain.value == pytest.approx(np.mean([new[s].mean() - old[s].mean() for s in scored]))
    assert gain.n == sum(len(old[s]) for s in scored)
    assert gain.value is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low <= gain.value <= gain.high
    before, after = (np.concatenate([side[s] for s in scored]) for side in (old, new))
    broken, mended = int((before & ~after).sum()), int((~before & after).sum())
    written = reports.write(material)
    said = texts(written, "verdict")
    assert f"breaks {broken} of the {before.sum()} answers that are right today" in said
    assert f"mends {mended} of the {(~before).sum()} that are wrong" in said
    p = mcnemar(broken, mended)
    assert ("p < 0.001" if p < 0.001 else f"p = {p:.3f}") in said
    assert ("not distinguishable" in said) == (gain.low <= 0 <= gain.high)
    cards = block(written, "verdict", Cards).cards
    singles = [c for c in material.validation if c.trial.role == "single"]
    best = max(singles, key=lambda c: c.metrics[""]["macro"].value or 0)
    other = [np.mean(answers(material, best, s).correct) for s in scored]
    ahead = float(np.mean([new[s].mean() for s in scored]) - np.mean(other))
    assert cards[1].figure == words.figure(Number(value=ahead, unit="points"))
    assert best.trial.label in cards[1].title
    flips = next(c for c in cards if c.title.startswith("Negative flips"))
    assert flips.figure == f"{100 * broken / len(before):.1f}\u00a0%"
    assert all("test, n = " in card.beside for card in cards)


def test_flips_by_suite(driver: Driver, finished: int) -> None:
    number = found_candidate(driver, finished)
    material = gather(driver.database, finished, candidate=number)
    table = block(reports.write(material), "changes", Table)
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["all together", "pick", "say"]
    for suite in ("pick", "say"):
        old = answers(material, material.reference, suite)
        new = answers(material, material.candidate, suite)
        broken = int((old.correct & ~new.correct).sum())
        both_right = old.correct & new.correct
        changed = int((~both_right & (old.answer != new.answer)).sum())
        row = dict(zip(table.columns, rows[suite], strict=True))
        assert row["n"] == len(old)
        assert row["broken"] == f"{broken} of {int(old.correct.sum())}"
        low, high = wilson(broken, len(old))
        assert row["negative flips"] == Number(
            value=broken / len(old), low=low, high=high, n=len(old)
        )
        assert row["churn"].value == pytest.approx(changed / len(old))
    counted = sum(int(str(rows[s][2]).split(" ")[0]) for s in ("pick", "say"))
    assert rows["all together"][2].split(" ")[0] == str(counted)
    examples = block(reports.write(material), "changes", Answers)
    open_flips = read.flips(driver.database, material.study, number, "validation")
    negative = {(f.suite, f.item) for f in open_flips if f.kind == "negative"}
    assert {(a.suite, a.item) for a in examples.answers} <= negative
    margins = [a.new_margin for a in examples.answers if a.new_margin is not None]
    assert margins == sorted(margins)
    # nothing of the sealed items is shown
    unseen = {i.id for s in material.suites for i in s.split("test")}
    assert not {a.item for a in examples.answers} & unseen


def test_scores_weights_and_the_front(driver: Driver, finished: int) -> None:
    number = found_candidate(driver, finished)
    material = gather(driver.database, finished, candidate=number)
    written = reports.write(material)
    bars = block(written, "candidate", Plots).plots[0]
    assert isinstance(bars, Bars)
    assert dict(bars.bars) == dict(
        zip(material.study.pool.names, material.candidate.trial.weights, strict=True)
    )
    table = block(written, "candidate", Table)
    for row in table.rows[1:]:
        old = answers(material, material.reference, row[0])
        new = answers(material, material.candidate, row[0])
        assert row[1] == len(new)
        assert row[2].value == pytest.approx(old.score())
        assert row[-2].value == pytest.approx(new.score())
        assert row[-1].value == pytest.approx(new.score() - old.score())
    singles = [c for c in material.validation if c.trial.role == "single"]
    best = max(singles, key=lambda c: c.metrics[""]["macro"].value or 0)
    assert any(best.trial.label in column for column in table.columns)
    plots = block(written, "front", Plots).plots
    scatter = plots[0]
    assert isinstance(scatter, Scatter)
    kinds = [p.kind for p in scatter.points]
    assert kinds.count("chosen") == kinds.count("reference") == 1
    assert {p.label for p in scatter.points if p.kind == "parent"} == {
        c.trial.label for c in singles
    }
    assert plots[-1].name == "hypervolume"
    front = block(written, "front", Table)
    listed = {row[0]: row for row in front.rows}
    for candidate in material.validation:
        if candidate.trial.rank == 1:
            row = listed[f"trial {candidate.trial.number}"]
            assert row[-2] == f"{100 * material.shares[candidate.trial.number]:.1f}\u00a0%"
            assert row[2].value == candidate.metrics[""]["macro"].value


def test_a_plot_of_very_many_candidates_shows_the_best_and_the_named(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = driver.submit(SPEC.replace("parallelism: 4", "parallelism: 1"))
    while sum(t.told and t.role == "search" for t in driver.trials(number)) < 5:
        advance(driver.database, number)
        driver.finish(driver.claim(driver.queued(number)[0]))
        advance(driver.database, number)
    material = gather(driver.database, number)
    assert len(block(reports.write(material), "front", Plots).plots[0].points) == len(
        material.search
    )
    monkeypatch.setattr("services.report.front.MOST_POINTS", 1)
    written = reports.write(material)
    points = block(written, "front", Plots).plots[0].points
    assert len(points) < len(material.search)
    kinds = [p.kind for p in points]
    assert kinds.count("parent") == len(material.study.pool.members) - 1
    assert kinds.count("reference") == 1
    assert "The plots show the 1 of the best ranks" in texts(written, "front")


def test_cost_and_provenance(driver: Driver, finished: int) -> None:
    written = reports.build(driver.database, finished)
    rows = {str(row[0]): row for row in block(written, "cost", Table).rows}
    done = driver.sql(
        "SELECT split, count(*)::int AS n FROM evaluation WHERE state = 'complete' GROUP BY split"
    )
    counted = {one["split"]: one["n"] for one in done}
    searched = int(rows["candidates, on search"][1]) + int(rows["baselines, on search"][1])
    assert searched == counted["search"]
    assert int(rows["finals, on validation"][1]) == counted["validation"]
    assert int(rows["finals, on test"][1]) == counted["test"]
    assert int(rows["all"][1]) == sum(counted.values())
    study = driver.study(finished)
    items = sum(suite.search_items for suite in study.suites)
    mine = int(rows["candidates, on search"][1]) * items
    assert rows["candidates, on search"][2] == f"{mine:,}".replace(",", "\u202f")
    facts = dict(block(written, "cost", Facts).facts)
    assert "not measured" in facts["Energy"]
    digests = block(written, "provenance", Code, 3).text.split("\n")
    assert digests == [
        *(f"{m.digest}  checkpoint {m.name}" for m in study.pool.members),
        *(f"{s.digest}  suite {s.name}" for s in study.suites),
    ]
    facts = dict(block(written, "provenance", Facts).facts)
    chosen = read.study_summary(driver.database, finished)["chosen"]
    assert facts["Recipe"] == read.trial_detail(driver.database, study, chosen)["recipe_digest"]
    for text in (html.page(written), markdown.page(written)):
        assert "file://" not in text
        assert str(Path(__file__).parents[2]) not in text
        assert "/tmp" not in text


def test_energy_is_said_with_how_much_of_the_work_was_measured() -> None:
    measured = Energy(
        measured=3, ended=4, kwh=0.0015, gco2e=0.42, sources=("country FRA",), how=("CPU load",)
    )
    said = cost.energy(measured)
    assert "1.5 Wh, 0.42 gCO2e, measured in 3 of 4 evaluations" in said
    assert "CPU load; country FRA" in said


def test_a_recipe_of_the_page_can_be_read_again(driver: Driver, finished: int) -> None:
    written = reports.build(driver.database, finished)
    recipe, spec = (block(written, "provenance", Code, i).text for i in (1, 2))
    facts = dict(block(written, "provenance", Facts).facts)
    assert Recipe.from_dict(yaml.safe_load(recipe)).digest == facts["Recipe"]
    assert parse_spec(spec) == driver.study(finished).spec


def test_a_recipe_of_columns_is_not_written_out() -> None:
    parents = ("a" * 64, "b" * 64)
    recipe = Recipe(parents=parents, weights=(0.5, 0.5), columns={"x": ((0.1, 0.2), (0.9, 0.8))})
    found = recipe_block(recipe, {})
    assert isinstance(found, Text)
    assert "1 tensor" in found.text


def test_the_test_split_is_read_once_and_logged(driver: Driver, finished: int) -> None:
    before = sealed.readings(driver.database, finished)
    sealed_report = reports.build(driver.database, finished, test=False)
    assert sealed.readings(driver.database, finished) == before
    assert "Judged on the validation split" in sealed_report.subtitle
    assert "of the test split" not in texts(sealed_report, "verdict")
    opened = reports.build(driver.database, finished, purpose="to decide")
    after = sealed.readings(driver.database, finished)
    assert [one["purpose"] for one in after[len(before) :]] == ["to decide"]
    assert "Judged on the test split" in opened.subtitle
    listed = block(opened, "uncertainty", Table, 1).rows
    assert listed[-1][1] == "to decide"
    splits = {row[1] for row in block(opened, "uncertainty", Table).rows}
    assert splits == {"search", "validation", "test"}


def test_before_the_choice_it_uses_open_splits_and_says_so(driver: Driver) -> None:
    number = driver.submit(SPEC)
    with pytest.raises(BadInput, match="no results of its reference yet"):
        reports.build(driver.database, number)
    advance(driver.database, number)
    driver.finish(driver.claim(driver.queued(number)[0]))
    advance(driver.database, number)
    alone = reports.build(driver.database, number)  # the reference, and nothing else
    assert ET.fromstring(html.page(alone)) is not None
    for _ in range(11):
        advance(driver.database, number)
        driver.finish(driver.claim(driver.queued(number)[0]))
    advance(driver.database, number)
    written = reports.build(driver.database, number)
    assert "Judged on the search split: the study goes on" in written.subtitle
    assert "expect less" in texts(written, "verdict") or "already" in texts(written, "verdict")
    assert "has not been opened" in texts(written, "uncertainty")
    assert sealed.readings(driver.database, number) == []
    control.cancel(driver.database, number)
    written = reports.build(driver.database, number)
    assert "the study cancelled" in written.subtitle
    assert sealed.readings(driver.database, number) == []


def test_another_candidate_than_the_choice(driver: Driver, finished: int) -> None:
    chosen = read.study_summary(driver.database, finished)["chosen"]
    other = next(
        t.number
        for t in driver.trials(finished, "test")
        if t.told and t.number != chosen and t.role != "reference"
    )
    written = reports.build(driver.database, finished, candidate=other)
    assert f"trial {other}" in written.title
    assert "not the study's own choice" in texts(written, "verdict")
    tested = {t.number for t in driver.trials(finished, "test")}
    searched = next(t.number for t in driver.trials(finished) if t.number not in tested and t.told)
    written = reports.build(driver.database, finished, candidate=searched)
    assert "Judged on the search split" in written.subtitle
    with pytest.raises(NotFound, match="no trial 999"):
        reports.build(driver.database, finished, candidate=999)
    with pytest.raises(NotFound, match="no study has the number 99"):
        reports.build(driver.database, 99)


def test_the_reference_changes_nothing(driver: Driver, finished: int) -> None:
    written = reports.build(driver.database, finished, candidate=0)
    assert written.title == "reported: keep now?"
    assert "deployed already: nothing changes" in texts(written, "verdict")
    assert "changes" not in [one.name for one in written.sections]
    assert ET.fromstring(html.page(written)) is not None


def test_nothing_feasible(driver: Driver) -> None:
    impossible = SPEC.replace("max: 0.9", "max: 0.9}, {metric: macro, min: 1.5, confidence: null")
    number = driver.submit(impossible)
    driver.run(number)
    with pytest.raises(NoFeasibleCandidate, match="--candidate N"):
        reports.build(driver.database, number)
    written = reports.build(driver.database, number, candidate=1)
    assert "it misses what was asked for: mean score at least 1.5" in texts(written, "verdict")


def test_text_suites_alone(driver: Driver) -> None:
    number = driver.submit(
        "name: prose\npool: tiny\nsuites: [read]\nsearch: {method: random}\n"
        "budget: {trials: 3, finalists: 2}\n"
    )
    driver.run(number)
    written = reports.build(driver.database, number, candidate=found_candidate(driver, number))
    assert "nats/token" in texts(written, "verdict")
    assert "changes" not in [one.name for one in written.sections]
    assert ET.fromstring(html.page(written)) is not None


def test_hostile_items_and_notes_are_shown_as_text(driver: Driver, tmp_path: Path) -> None:
    file = tmp_path / "rude.jsonl"
    lines = [
        {"id": f"{i} {RUDE}", "context": f"{RUDE} {i}", "choices": [f"a {RUDE}", "b"], "gold": 0}
        for i in range(80)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stored_suites.add_suite(driver.database, "rude", file)
    number = driver.submit(SPEC.replace("[pick, say, read]", "[rude]") + f"notes: |\n  {RUDE}\n")
    driver.run(number)
    found = read.candidates(driver.database, driver.study(number), "validation")
    worst = max(found, key=lambda c: c.metrics[""]["negative_flip_rate"].value or 0)
    written = reports.build(driver.database, number, candidate=worst.trial.number)
    page = html.page(written)
    root = ET.fromstring(page)
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert RUDE in "".join(root.itertext())
    examples = block(written, "changes", Answers)
    assert examples.answers
    text = markdown.page(written)
    rows = [line for line in text.split("\n") if line.startswith("|") and "rude" in line]
    assert rows
    assert all(re.search(r"(?<!\\)[<`*]", line.replace("**", "")) is None for line in rows)


def test_the_command(driver: Driver, finished: int, tmp_path: Path) -> None:
    out = tmp_path / "report"
    run = CliRunner().invoke(cli, ["report", str(finished), "--out", str(out), "--json"])
    assert run.exit_code == 0, run.output
    files = json.loads(run.output)["files"]
    assert str(out / "index.html") in files
    assert all(Path(one).stat().st_size for one in files)
    assert ET.parse(out / "index.html") is not None
    assert sealed.readings(driver.database, finished)[-1]["purpose"] == "remelt report"


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["report", "77", "--out", "x"], NotFound, "no study has the number 77"),
        (["report", "1", "--candidate", "999", "--out", "x"], NotFound, "no trial 999"),
        (["report", "1", "--out", "taken/x"], BadInput, "cannot be written"),
    ],
)
def test_the_command_explains_errors(
    driver: Driver,
    finished: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    run = CliRunner().invoke(cli, arguments)
    assert isinstance(run.exception, error)
    assert said in str(run.exception)
    assert run.exception.exit_code == 2  # type: ignore[attr-defined]
