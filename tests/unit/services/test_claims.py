"""What a race bets against means what the study is told: claims, `measure`, `violation` agree."""

from __future__ import annotations

import numpy as np
import pytest

from optim.predictions import Form, Predictions
from services import registry
from services.spec import spec_from_dict
from services.studies import claims
from services.studies.propose import minimised
from services.studies.racing import LATEST, Race
from services.studies.record import Study, StudySuite
from services.studies.tell import measure, objective_values, violation

SIZES = {"a": 40, "b": 25, "prose": 30, "safe": 32}
FORMS: dict[str, Form] = {"a": "choice", "b": "choice", "prose": "text", "safe": "refusal"}
METRICS = ["macro", "a", "prose", "negative_flip_rate", "positive_flip_rate:b", "churn"]
METRICS += ["inconsistency:a", "safe", "backward_trust", "backward_error:b", "over_refusal"]
METRICS += ["unsafe_compliance:safe"]
CONSTRAINTS = [
    {"metric": "negative_flip_rate", "max": 0.3},
    {"metric": "churn", "suite": "each", "max": 0.6, "confidence": None},
    {"metric": "score", "suite": "b", "min": 0.4, "confidence": 0.8},
    {"metric": "positive_flip_rate", "suite": "a", "min": 0.1, "confidence": None},
    {"metric": "macro", "min": 0.5, "confidence": None},
    {"metric": "score", "suite": "prose", "max": 2.0, "confidence": None},
    {"metric": "backward_trust", "suite": "each", "min": 0.3, "confidence": 0.7},
    {"metric": "backward_error", "max": 0.9, "confidence": None},
    {"metric": "unsafe_compliance", "max": 0.9},
    {"suite": "each", "at_most_worse": 0.2, "confidence": None},
    {"metric": "over_refusal", "suite": "safe", "at_most_worse": 0.3, "confidence": None},
    {"at_most_worse": 0.2, "confidence": None},
]


def make_study(objectives: list[str], constraints: list[dict[str, object]] = CONSTRAINTS) -> Study:
    """Two suites of choices and a text."""
    return Study(
        id=1, name="s", state="running", phase="search",
        spec=spec_from_dict(
            {
                "name": "s", "pool": "p", "suites": list(SIZES), "objectives": objectives,
                "constraints": constraints, "search": {"racing": {"alpha": 0.1}},
            }
        ),
        pool=registry.Pool(id=1, name="p", reference="now", members=()),
        reference="now",
        suites=tuple(
            StudySuite(
                id=i, name=name, form=FORMS[name], digest="",
                search_items=size, validation_items=0, test_items=0,
            )
            for i, (name, size) in enumerate(SIZES.items())
        ),
        chosen_trial_id=None,
        failure=None,
    )  # fmt: skip


def answers(rng: np.random.Generator, accuracy: float) -> dict[str, Predictions]:
    """Made-up predictions; gold is 0, right ones answer it."""
    found = {}
    for name, size in SIZES.items():
        if name == "prose":
            nll = (rng.random(size) * 40 * (1.6 - accuracy)).astype(np.float32)
            tokens = np.full(size, 10, dtype=np.int32)
            found[name] = Predictions(form="text", items=name, nll=nll, tokens=tokens)
            continue
        right = rng.random(size) < accuracy
        if FORMS[name] == "refusal":
            refused = right == (np.arange(size) % 2 == 0)
            found[name] = Predictions(
                form="refusal", items=name, correct=right, answer=refused.astype(np.uint64)
            )
            continue
        answer = np.where(right, 0, rng.integers(1, 4, size)).astype(np.uint64)
        margin = np.where(right, 1, -1).astype(np.float16)
        found[name] = Predictions(
            form="choice", items=name, correct=right, answer=answer, margin=margin
        )
    return found


def total(claim: claims.Claim, items: claims.Items, found: dict[str, Predictions]) -> float:
    """The claim's sum over all items of a candidate that is known whole."""
    terms = claim.sign * items.values(claim.metric, found) - claim.base
    assert (claim.weights * terms >= claim.floors - 1e-12).all()
    return float(claim.weights @ terms)


@pytest.mark.parametrize("seed", range(30))
def test_claims_say_what_the_study_is_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    study = make_study(METRICS)
    reference, member, candidate = (answers(rng, rng.uniform(0.3, 0.95)) for _ in range(3))
    items = claims.Items.of(study, reference)
    told = [
        minimised(study, objective_values(study, measure(study, reference, one)))
        for one in (candidate, member)
    ]
    (found,) = claims.members(study, items, {4: member}, 0.02)
    behind = [a - b for a, b in zip(*told, strict=True)]
    text = behind.pop(METRICS.index("prose"))
    for claim, deficit in zip(found.claims, behind, strict=True):
        assert total(claim, items, candidate) == pytest.approx(deficit)
        assert claim.limit == 0.02
    score, sign = found.texts["prose"]
    assert sign * (candidate["prose"].score() - score) == pytest.approx(text)
    missed = {
        one.label: claims.text_missed(one, candidate["prose"], reference["prose"])
        for one in claims.constraints(study, items)
        if one.claim is None
    }
    assert len(missed) == 2
    # all constraints are kept if and only if the study is told that none is missed
    kept = [
        claims.text_missed(one, candidate["prose"], reference["prose"]) <= 0
        if one.claim is None
        else total(one.claim, items, candidate) <= one.claim.limit + 1e-9
        for one in claims.constraints(study, items)
    ]
    assert all(kept) == (violation(study, measure(study, reference, candidate)) <= 0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("confidence", [0.6, 0.95])
@pytest.mark.parametrize(
    "bound",
    [
        {"suite": "a", "at_most_worse": 0.1},
        {"suite": "safe", "at_most_worse": 0.2},
        {"metric": "unsafe_compliance", "suite": "safe", "at_most_worse": 0.3},
        {"metric": "over_refusal", "at_most_worse": 0.1},
        {"at_most_worse": 0.05},
    ],
)
def test_who_keeps_a_bound_against_the_reference_keeps_its_claim(
    seed: int, confidence: float, bound: dict[str, object]
) -> None:
    rng = np.random.default_rng(seed)
    study = make_study(["a"], [{**bound, "confidence": confidence}])
    reference = answers(rng, 0.7)
    items = claims.Items.of(study, reference)
    (kept,) = claims.constraints(study, items)
    assert "at most" in kept.label
    assert kept.claim is not None
    for accuracy in (0.2, 0.6, 0.8, 1.0):
        candidate = answers(rng, accuracy)
        missed = violation(study, measure(study, reference, candidate))
        if missed <= 0:
            assert total(kept.claim, items, candidate) <= kept.claim.limit + 1e-9
        # all of a candidate's flips go one way: the claim is the constraint
        if accuracy == 1.0 and kept.constraint.metric != "macro":
            assert missed <= 0


def test_a_race_judges_a_bound_against_the_reference() -> None:
    rng = np.random.default_rng(3)
    bound: dict[str, object] = {"suite": "safe", "at_most_worse": 0.05, "confidence": None}
    study, reference = make_study(["a"], [bound]), answers(rng, 0.9)
    for accuracy, stops in ((0.05, True), (0.95, False)):
        race = Race(study, reference=reference, archive={}, seed=1)
        candidate = answers(rng, accuracy)
        order = rng.permutation(SIZES["safe"])
        race.order([("safe", np.array([i])) for i in order])
        for number, i in enumerate(order):
            arrays = {
                name: np.asarray(getattr(candidate["safe"], name))[[i]]
                for name in ("correct", "answer")
            }
            if not race.block(number, arrays):
                break
        assert (race.by is not None) == stops
        if stops:
            label = "score:safe at most 0.05 worse than the reference"
            assert race.by == {"constraint": label}
            assert race.report()["violation"] > 0.3


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("confidence", [0.6, 0.95])
def test_who_keeps_a_constraint_of_clusters_keeps_its_claim(seed: int, confidence: float) -> None:
    """What is bet against is no more than what the study is told, whatever clusters there are."""
    rng = np.random.default_rng(seed)
    clusters = {name: np.arange(size) // rng.integers(1, 6) for name, size in SIZES.items()}
    constraints = [{**one, "confidence": confidence} for one in CONSTRAINTS]
    kept = 0
    for constraint in constraints:
        study = make_study(["a"], [constraint])
        reference = answers(rng, rng.uniform(0.5, 0.95))
        candidate = answers(rng, rng.uniform(0.5, 1))
        if seed % 2:  # mostly the reference's answers
            candidate = {
                name: (candidate if rng.random() < 0.3 else reference)[name] for name in SIZES
            }
        items = claims.Items.of(study, reference, clusters)
        if violation(study, measure(study, reference, candidate, clusters)) > 0:
            continue
        for one in claims.constraints(study, items):
            kept += 1
            if one.claim is None:
                at = clusters[one.suite]
                assert claims.text_missed(one, candidate["prose"], reference["prose"], at) <= 0
            else:
                assert total(one.claim, items, candidate) <= one.claim.limit + 1e-9
    assert kept or confidence > 0.6


def test_few_clusters_leave_a_race_nothing_to_bet_on() -> None:
    """Nobody can keep 5 % with confidence in eight clusters; in forty items one can."""
    rng = np.random.default_rng(0)
    bound: dict[str, object] = {"metric": "negative_flip_rate", "suite": "a", "max": 0.07}
    study, reference = make_study(["a"], [bound]), answers(rng, 0.7)
    assert len(claims.constraints(study, claims.Items.of(study, reference))) == 1
    few = claims.Items.of(study, reference, {"a": np.arange(40) // 5})
    assert claims.constraints(study, few) == []
    assert few.typical(few.weights("score", "a")) == 5


def test_the_margin_is_one_error_of_clusters() -> None:
    rng = np.random.default_rng(2)
    study, reference, member = make_study(["a"], []), answers(rng, 0.7), answers(rng, 0.8)
    wide, narrow = (
        claims.members(study, claims.Items.of(study, reference, at), {1: member}, None)
        for at in ({"a": np.arange(40) // 20}, {})
    )
    a = np.asarray(member["a"].correct).astype(float) - np.asarray(reference["a"].correct)
    spread = (a - a.mean()).reshape(2, 20).sum(axis=1)
    assert wide[0].claims[0].limit == pytest.approx(np.sqrt((spread**2).sum()) / 40)
    assert narrow[0].claims[0].limit == pytest.approx(a.std() / np.sqrt(40))


def test_a_constraint_that_nobody_can_keep_stops_nobody() -> None:
    rng = np.random.default_rng(0)
    bound: dict[str, object] = {"metric": "negative_flip_rate", "suite": "b", "max": 0.01}
    study, reference = make_study(["a"], [bound]), answers(rng, 0.7)
    assert claims.constraints(study, claims.Items.of(study, reference)) == []


@pytest.mark.parametrize("seed", range(12))
def test_a_race_stops_the_worse_and_says_what_was_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    study = make_study(["a", "b", "prose"], [])
    reference, member = answers(rng, 0.6), answers(rng, 0.98)
    candidate = answers(rng, 0.05 if seed % 2 else 0.98)
    race = Race(study, reference=reference, archive={0: reference, 7: member}, seed=seed)
    assert race.suites == {"a", "b"}
    places = [(name, [i]) for name in ("a", "b") for i in range(SIZES[name])]
    drawn = [(n, np.array(i)) for n, i in (places[at] for at in rng.permutation(len(places)))]
    goes_on = race.suite("prose", candidate["prose"])
    race.order(drawn)
    for number, (name, at) in enumerate(drawn):
        if not goes_on:
            break
        one = candidate[name]
        arrays = {k: np.asarray(getattr(one, k))[at] for k in ("correct", "answer", "margin")}
        goes_on = race.block(number, arrays)
    report = race.report()
    if not seed % 2:
        assert goes_on
        assert "by" not in report
        return
    assert report["by"] in ({"trial": 7}, {"trial": 0})
    assert report["seen"]["prose"] == SIZES["prose"]
    assert race.scored == sum(report["seen"].values()) <= LATEST * sum(SIZES.values())
    truth = objective_values(study, measure(study, reference, candidate))
    for part, value in zip(report["objectives"], truth, strict=True):
        assert part["low"] - 1e-9 <= part["estimate"] <= part["high"] + 1e-9
        assert part["low"] - 1e-9 <= value <= part["high"] + 1e-9
    unfinished = dict(race.unfinished())
    for name in ("a", "b"):
        part = unfinished[name]
        assert part.seen.sum() == report["seen"][name]
        right = np.asarray(candidate[name].correct)[part.seen]
        assert np.array_equal(np.asarray(part.predictions.correct)[part.seen], right)
