"""What the report says beyond its own study: parents, near-equal candidates, refusals, doubts about
the suites; against what those who know were asked directly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from optim.leakage import Compared
from optim.rates import REFUSAL_RATES
from services import leakage, stored_suites
from services import report as reports
from services.refusals import RefusalOptions, refusal_suite
from services.report import html, words
from services.report.blocks import Cards, Facts, Report, Section, Table, Text
from services.report.material import gather
from services.report.paired import number_of
from services.report.verdict import apart, better
from services.studies import attribution, certainty, coalitions, read, sealed
from services.studies.multiplicity import multiplicity
from services.studies.tell import compared

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: sections
pool: tiny
suites: [pick, say, read]
objectives: [macro, churn]
search: {method: random, space: simplex, parallelism: 4, seed: 1}
budget: {trials: 6, finalists: 3}
judging: {epsilon: 0.2}
"""
SAFE = """
name: safe
pool: tiny
suites: [pick, safe]
objectives: [macro, unsafe_compliance]
constraints:
  - {suite: safe, at_most_worse: 0.9}
  - {metric: over_refusal, suite: safe, at_most_worse: 0.9, confidence: null}
search: {method: random, parallelism: 4}
budget: {trials: 4, finalists: 2}
"""


def section(report: Report, name: str) -> Section:
    return next(one for one in report.sections if one.name == name)


def blocks(report: Report, name: str, kind: type) -> Sequence[Any]:
    return [one for one in section(report, name).blocks if isinstance(one, kind)]


def texts(report: Report, name: str) -> str:
    return "\n".join(one.text for one in blocks(report, name, Text))


def test_near_equal_candidates_and_what_parents_add(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    soup = next(t.number for t in driver.trials(number) if t.role == "uniform")
    readings = sealed.readings(driver.database, number)
    written = reports.build(driver.database, number, candidate=soup, test=False)
    # the near-best set
    found = multiplicity(driver.database, study, split="validation")
    assert len(found.members) > 1
    said = texts(written, "multiplicity")
    assert f"{len(found.members)} of {found.candidates} feasible candidates are within 0.2" in said
    cards = {card.title: card for card in blocks(written, "multiplicity", Cards)[0].cards}
    every = found.figures[-1]
    shown = cards["Items whose answer depends on the choice"].figure
    assert shown == words.figure(number_of(every.chosen.ambiguity))
    assert cards["Churn of two members, drawn at random"].figure == words.figure(
        number_of(every.expected_churn)
    )
    by_suite, unstable = blocks(written, "multiplicity", Table)
    assert [row[0] for row in by_suite.rows] == ["all together", "pick", "say"]
    listed = {str(row[0]) for row in unstable.rows}
    assert listed == {f"{one.suite} {one.item}" for one in found.unstable[:5]}
    closed = {f"{s.name} {i.id}" for s in gather(driver.database, number, test=False).suites
              for i in s.split("test")}  # fmt: skip
    assert not listed & closed
    # the optimism of the best
    best = certainty.optimism(driver.database, study, "validation")
    assert best is not None
    assert best.line in texts(written, "uncertainty")
    # nothing was asked for: the command is named, and fills it
    ask = f"remelt study attribute {number} --candidate {soup} --wait"
    assert ask in texts(written, "attribution")
    assert not driver.queued(number)
    plan = coalitions.plan(driver.database, study, soup)
    attribution.submit(driver.database, study, plan)
    driver.run(number)
    vectors = np.array([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.1], [4.0, -3.0, 0.0]])
    base, *others = study.pool.members
    assert base.name == study.reference
    order = sorted(range(3), key=lambda i: others[i].digest)
    stored = vectors[order]
    driver.database.rows(
        "kinship.insert", base=base.digest, digests=[others[i].digest for i in order], n=3,
        gram=(stored @ stored.T).ravel().tolist(), sums=stored.sum(axis=1).tolist(),
    )  # fmt: skip
    written = reports.build(driver.database, number, candidate=soup, test=False)
    table = blocks(written, "attribution", Table)[0]
    expected = attribution.result(driver.database, study, plan)
    assert [row[0] for row in table.rows] == [player.name for player in plan.players]
    for index, row in enumerate(table.rows):
        for axis, at in zip(expected.axes, (2, 4), strict=True):
            assert row[at].value == axis.shapley[index].value
            assert row[at + 1].low == axis.leave_one_out[index].low
    facts = dict(blocks(written, "attribution", Facts)[0].facts)
    assert list(facts) == ["Mean score", "Churn"]
    nearest = f"{others[0].name} and {others[2].name} 0.00"
    assert f"what was learnt since now: {nearest}" in texts(written, "attribution")
    costs = {str(row[0]): row for row in blocks(written, "cost", Table)[0].rows}
    assert "merges that explain the choice" in costs
    assert sealed.readings(driver.database, number) == readings


def test_one_candidate_alone_and_before_the_choice(driver: Driver) -> None:
    number = driver.submit(SPEC.replace("epsilon: 0.2", "epsilon: 0"))
    driver.run(number)
    written = reports.build(driver.database, number, test=False)
    assert "stands alone" in texts(written, "multiplicity")
    assert not blocks(written, "multiplicity", Cards)
    begun = driver.submit(SPEC + "notes: again\n")
    for _ in range(4):
        driver.run(begun, evaluations_at_most=2)
    found = [one.name for one in reports.build(driver.database, begun).sections]
    assert "attribution" not in found
    assert "safety" not in found


@pytest.fixture
def safe(driver: Driver) -> int:
    """A study with a suite of refusals in clusters, which has made its choice."""
    lines = [
        {"id": f"{i:03d}", "prompt": f"how {i}", "expect": "refuse" if i % 3 else "comply",
         "cluster": f"c{i // 4}"}
        for i in range(160)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    suite = refusal_suite("safe", text, RefusalOptions(answer_tokens=5), where="safe.jsonl")
    stored_suites.store_suite(driver.database, suite)
    number = driver.submit(SAFE)
    driver.run(number)
    return number


def test_refusals_and_bounds_against_the_reference(driver: Driver, safe: int) -> None:
    other = next(t for t in driver.trials(safe, "test") if t.told and t.role == "single")
    material = gather(driver.database, safe, candidate=other.number)
    assert material.split == "test"
    written = reports.write(material)
    rates, bounds = blocks(written, "safety", Table)
    old, new = (
        material.of(c)["safe"] for c in (material.reference, material.candidate)
    )  # fmt: skip
    refuse = old.refuse
    assert refuse is not None
    assert old.correct is not None
    assert new.correct is not None
    for row, name in zip(rates.rows, REFUSAL_RATES, strict=True):
        mine = refuse if name == "unsafe_compliance" else ~refuse
        assert row[0] == f"{words.TITLES[name]} of safe"
        assert row[1] == mine.sum()
        assert row[2].value == pytest.approx(np.mean(~old.correct[mine]))
        assert row[3].value == pytest.approx(np.mean(~new.correct[mine]))
        assert row[4].value == pytest.approx(row[3].value - row[2].value)
        assert row[4].low <= row[4].value <= row[4].high
        assert words.figure(row[3]) in texts(written, "verdict")
    assert [row[0] for row in bounds.rows] == [
        "score of safe at most 0.9 worse than the reference, with 95\u00a0% confidence",
        "over-refusal of safe at most 0.9 worse than the reference",
    ]
    lost = np.mean(old.correct) - np.mean(new.correct)
    assert bounds.rows[0][2].value == pytest.approx(lost)
    assert [row[3] for row in bounds.rows] == ["yes", "yes"]
    assert "it keeps the study's 2 constraints" in texts(written, "verdict")
    # clusters are counted, as when the study was told
    pair = (old, new, material.clusters["safe"])
    table = blocks(written, "changes", Table)[0]
    row = dict(zip(table.columns, next(r for r in table.rows if r[0] == "safe"), strict=True))
    assert row["negative flips"] == number_of(compared([pair])["negative_flip_rate"])
    stored = material.candidate.metrics["safe"]["churn"]
    assert (row["churn"].low, row["churn"].high) == (stored.low, stored.high)
    assert "safety" in html.page(written)


def test_a_missed_bound_is_said(driver: Driver, safe: int) -> None:
    found = {
        c.trial.number: c.metrics["safe"]["worse_score"].value or 0.0
        for c in read.candidates(driver.database, driver.study(safe), "validation")
        if c.trial.role == "single"
    }
    worst = max(found, key=lambda number: found[number])
    driver.sql(
        "UPDATE study SET spec = replace(spec::text, '\"at_most_worse\": 0.9', "
        "'\"at_most_worse\": 0.0')::jsonb"
    )
    driver.sql("UPDATE evaluation SET violation = 0.5")  # as if it had been told so
    written = reports.build(driver.database, safe, candidate=worst, test=False)
    bounds = blocks(written, "safety", Table)[1]
    assert str(bounds.rows[0][3]).startswith("no, beyond it by ")
    said = "it misses what was asked for: score of safe at most 0 worse than the reference"
    assert said in texts(written, "verdict")
    # what the mean hides stands in a card of its own
    material = gather(driver.database, safe, candidate=worst, test=False)
    worse = {name: change for name, change in apart(material) if not better(change)}
    assert worse
    cards = {card.title: card for card in blocks(written, "verdict", Cards)[0].cards}
    for name, change in worse.items():
        assert cards[f"{name} gets worse"].figure == words.figure(change)
        assert cards[f"{name} gets worse"].tone == "bad"


def test_what_a_parent_has_seen_is_said_in_the_verdict(driver: Driver, safe: int) -> None:
    study = driver.study(safe)
    parent = study.pool.members[1]
    suite = read.suite_of(driver.database, study, "pick")
    low = Compared(own=0.5, other=2.0, easier=1.5, low=1.2, high=1.8)
    high = Compared(own=0.9, other=0.1, easier=0.8, low=0.7, high=0.9)
    seen = leakage.Leakage(
        checkpoint=parent.digest, suite="pick", against="new.jsonl", n=10, others=10, paired=False,
        nats=low, grams=high, signs=("perplexity",),
    )  # fmt: skip
    leakage.save(driver.database, suite, seen, "0" * 64)
    trials = driver.trials(safe, "validation")
    having = next(t for t in trials if t.role == "single" and t.label == parent.name)
    written = reports.build(driver.database, safe, candidate=having.number, test=False)
    assert "may have seen pick: its score there may be memory" in texts(written, "verdict")
    table = blocks(written, "uncertainty", Table)[1]
    assert [row[:2] for row in table.rows] == [["pick", parent.name]]
    without = next(t for t in trials if t.role == "single" and t.label != parent.name)
    written = reports.build(driver.database, safe, candidate=without.number, test=False)
    assert "may have seen" not in texts(written, "verdict")
