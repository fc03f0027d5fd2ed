"""What a study is told of a candidate: metrics, objectives and constraints, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optim import intervals
from optim.compatibility import RATES
from optim.intervals import wilson
from optim.predictions import Form, Predictions
from services.registry import Member, Pool
from services.spec import parse_spec
from services.studies.record import Study, StudySuite
from services.studies.tell import ALL, Value, measure, objective_values, violation

#: gold is option 0 of every item
OLD = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]  # six right
NEW = [0, 0, 0, 0, 1, 2, 0, 1, 1, 2]  # two broken, one mended, one wrong in another way


def choice(answers: list[int]) -> Predictions:
    """Predictions of a suite whose gold is always option 0."""
    array = np.array(answers, dtype=np.uint64)
    return Predictions(form="choice", items="i", correct=array == 0, answer=array)


def text(nll: list[float]) -> Predictions:
    """Predictions of a text suite of ten tokens an item."""
    return Predictions(
        form="text",
        items="t",
        nll=np.array(nll, np.float32),
        tokens=np.full(len(nll), 10, np.int32),
    )


def study(extra: str = "", *, with_text: bool = False) -> Study:
    """A study on suites a and b, and a text suite t when asked for."""
    names: list[tuple[str, Form]] = [("a", "choice"), ("b", "choice")]
    names += [("t", "text")] if with_text else []
    spec = parse_spec(f"name: s\npool: p\nsuites: [{', '.join(n for n, _ in names)}]\n{extra}")
    members = tuple(
        Member(name=n, uri="", digest=n * 64, parameters=1, dtype="float32", files={}) for n in "xy"
    )
    suites = tuple(
        StudySuite(
            id=i, name=n, form=f, digest="", search_items=10, validation_items=5, test_items=5
        )
        for i, (n, f) in enumerate(names)
    )
    return Study(
        id=1, name="s", state="running", phase="search", spec=spec, reference="x", suites=suites,
        pool=Pool(id=1, name="p", reference="x", members=members),
        chosen_trial_id=None, failure=None,
    )  # fmt: skip


def test_rates_per_suite_and_over_all_suites() -> None:
    found = measure(
        study(), {"a": choice(OLD), "b": choice(OLD)}, {"a": choice(NEW), "b": choice(OLD)}
    )
    per_suite = {
        name: found["a", name].value
        for name in ("score", "negative_flip_rate", "positive_flip_rate", "churn", "inconsistency")
    }
    assert per_suite == {
        "score": 0.5,
        "negative_flip_rate": 0.2,
        "positive_flip_rate": 0.1,
        "churn": 0.4,
        "inconsistency": 0.3,
    }
    assert found["a", "score"].n == 10
    assert found[ALL, "negative_flip_rate"].value == pytest.approx(2 / 20)
    assert found[ALL, "churn"].n == 20
    assert found[ALL, "macro"].value == pytest.approx((0.5 + 0.6) / 2)
    assert set(RATES) < {name for suite, name in found if suite == "a"}
    assert found["a", "backward_trust"] == Value(4 / 6, *wilson(4, 6), n=6)
    assert found["b", "win_loss_ratio"] == Value(None, None, None, n=0), "no flips there"
    for value in found.values():
        if value.value is None:
            continue
        assert value.low is not None
        assert value.high is not None
        assert value.low <= value.value <= value.high


def test_a_text_suite_has_a_score_and_no_flips() -> None:
    old = {"a": choice(OLD), "b": choice(OLD), "t": text([20, 30])}
    new = {"a": choice(NEW), "b": choice(OLD), "t": text([10, 30])}
    one = study("objectives: [t, macro]\n", with_text=True)
    found = measure(one, old, new)
    assert found["t", "score"].value == pytest.approx(2.0)
    assert ("t", "churn") not in found
    assert found[ALL, "macro"].value == pytest.approx(0.55)
    assert objective_values(one, found) == pytest.approx((2.0, 0.55))
    assert one.signs == (1.0, -1.0)


def test_clusters_widen_the_intervals_and_move_no_value() -> None:
    old = {"a": choice(OLD * 20), "b": choice(OLD * 20)}
    new = {"a": choice(NEW * 20), "b": choice(NEW * 20)}
    plain = measure(study(), old, new)
    # twenty copies of ten items are worth ten items
    found = measure(study(), old, new, {"a": np.tile(np.arange(10), 20), "b": None})
    for key, value in found.items():
        assert value.value == plain[key].value
        assert value.n == plain[key].n
        if key[0] == "b":
            assert value == plain[key]
        elif key[0] == "a" and value.low is not None and value.high is not None:
            assert value.high - value.low > plain[key].high - plain[key].low, key  # type: ignore[operator]
    for name in ("macro", "negative_flip_rate", "churn"):
        both = found[ALL, name]
        assert both.high - both.low > plain[ALL, name].high - plain[ALL, name].low  # type: ignore[operator]


def test_a_single_cluster_says_nothing_and_breaks_nothing() -> None:
    one = study(
        "constraints: [{metric: score, suite: each, min: 0.1}, {metric: macro, min: 0.1}]\n",
        with_text=True,
    )
    old = {"a": choice(OLD), "b": choice(OLD), "t": text([20, 30])}
    alone = dict.fromkeys("ab", np.zeros(10, int)) | {"t": np.zeros(2, int)}
    found = measure(one, old, old, alone)
    assert (found["a", "score"].low, found["a", "score"].high) == (0, 1)
    assert violation(one, found) > violation(one, measure(one, old, old))


def test_directions_can_be_turned() -> None:
    one = study("objectives: [{metric: score, suite: a, direction: minimize}, churn]\n")
    assert one.signs == (1.0, 1.0)


@pytest.mark.parametrize(
    ("constraint", "missed"),
    [
        # the estimate alone: .2 against .15 on a; b has none
        ("{metric: negative_flip_rate, suite: each, max: 0.15, confidence: null}", 0.05),
        ("{metric: negative_flip_rate, suite: b, max: 0.15, confidence: null}", 0.0),
        ("{metric: negative_flip_rate, max: 0.1, confidence: null}", 0.0),
        ("{metric: score, suite: each, min: 0.55, confidence: null}", 0.05),
        ("{metric: macro, min: 0.6, confidence: null}", 0.05),
        # one-sided 95 % Wilson bound of 0 in 10: z² / (n + z²) = 2.7055 / 12.7055
        ("{metric: negative_flip_rate, suite: b, max: 0.1}", 0.21294 - 0.1),
        ("{metric: negative_flip_rate, suite: b, max: 0.22}", 0.0),
    ],
)
def test_constraints_are_missed_by(constraint: str, missed: float) -> None:
    one = study(f"constraints: [{constraint}]\n")
    old = {"a": choice(OLD), "b": choice(OLD)}
    found = measure(one, old, {"a": choice(NEW), "b": choice(OLD)})
    assert violation(one, found) == pytest.approx(missed, abs=1e-4)


def refusing(refused: list[bool], expected: list[bool]) -> Predictions:
    """Predictions of a refusal suite."""
    said, right = np.array(refused), np.array(refused) == np.array(expected)
    return Predictions(form="refusal", items="r", correct=right, answer=said.astype(np.uint64))


EXPECTED = [True, True, True, False, False]


def test_refusals_are_counted_where_they_are_expected_and_where_they_are_not() -> None:
    one = replace(study(), suites=(StudySuite(
        id=0, name="a", form="refusal", digest="", search_items=5, validation_items=5,
        test_items=5,
    ),))  # fmt: skip
    old = {"a": refusing([True, True, False, False, False], EXPECTED)}
    new = {"a": refusing([True, False, True, True, False], EXPECTED)}
    found = measure(one, old, new)
    assert found["a", "score"].value == pytest.approx(3 / 5)
    assert (found["a", "over_refusal"].value, found["a", "over_refusal"].n) == (1 / 2, 2)
    unsafe = found[ALL, "unsafe_compliance"]
    assert (unsafe.value, unsafe.n) == (pytest.approx(1 / 3), 3)
    assert (unsafe.low, unsafe.high) == pytest.approx(intervals.wilson(1, 3))
    assert found["a", "negative_flip_rate"].value == pytest.approx(2 / 5)
    assert found["a", "churn"].value == pytest.approx(3 / 5)
    # nobody expects an answer: nothing is undefined for one candidate and defined for another
    never = measure(one, {"a": refusing([True], [True])}, {"a": refusing([False], [True])})
    assert (never["a", "over_refusal"].value, never["a", "over_refusal"].n) == (None, 0)


def test_a_rate_that_the_items_leave_undefined_is_the_best_possible_one() -> None:
    extra = "objectives: [backward_error:a, backward_trust:a]\n"
    one = study(f"{extra}constraints: [{{metric: backward_error, suite: a, max: 0.1}}]\n")
    old = {"a": choice([0, 0, 0]), "b": choice(OLD)}
    found = measure(one, old, {"a": choice([0, 1, 1]), "b": choice(OLD)})
    assert found["a", "backward_error"].value is None
    assert objective_values(one, found) == pytest.approx((0.0, 1 / 3))
    assert violation(one, found) == 0


@pytest.mark.parametrize(
    ("constraint", "missed"),
    [
        # two broken and one mended of ten: worse by .1
        ("{suite: a, at_most_worse: 0.02, confidence: null}", 0.08),
        ("{suite: a, at_most_worse: 0.1, confidence: null}", 0.0),
        # of both suites' means, half of it
        ("{at_most_worse: 0.02, confidence: null}", 0.03),
        # 2.5 against 1.5 of 12: 1/12 + 1.6449 sqrt(4 - 1/12) / 12
        ("{suite: a, at_most_worse: 0.02}", 1 / 12 + 1.6449 * (4 - 1 / 12) ** 0.5 / 12 - 0.02),
        # the reference itself: 1.6449 / 12
        ("{suite: b, at_most_worse: 0.1}", 1.6449 / 12 - 0.1),
        ("{suite: each, at_most_worse: 0.02, confidence: null}", 0.08),
        # two texts, 2.5 nats per token before, 3.5 now
        ("{suite: t, at_most_worse: 0.25, confidence: null}", 0.75),
    ],
)
def test_bounds_against_the_reference_are_missed_by(constraint: str, missed: float) -> None:
    one = study(f"constraints: [{constraint}]\n", with_text=True)
    old = {"a": choice(OLD), "b": choice(OLD), "t": text([20, 30])}
    new = {"a": choice(NEW), "b": choice(OLD), "t": text([30, 40])}
    if "each" in constraint:
        new["t"] = old["t"]
    assert violation(one, measure(one, old, new)) == pytest.approx(missed, abs=1e-4)


@pytest.mark.parametrize(
    "constraint",
    [
        "{metric: negative_flip_rate, suite: a, max: 0.1}",
        "{metric: negative_flip_rate, max: 0.1}",
        "{metric: backward_trust, suite: a, min: 0.9, confidence: 0.8}",
        "{suite: a, at_most_worse: 0.05}",
        "{at_most_worse: 0.02}",
    ],
)
def test_copies_of_items_keep_a_constraint_no_better(constraint: str) -> None:
    """Twenty copies of ten items are judged as the ten; taken for 200 they keep far more."""
    one = study(f"constraints: [{constraint}]\n")
    few = violation(
        one,
        measure(one, {"a": choice(OLD), "b": choice(OLD)}, {"a": choice(NEW), "b": choice(OLD)}),
    )
    old = {"a": choice(OLD * 20), "b": choice(OLD * 20)}
    new = {"a": choice(NEW * 20), "b": choice(OLD * 20)}
    copies = np.tile(np.arange(10), 20)
    missed = violation(one, measure(one, old, new, {"a": copies, "b": copies}))
    assert missed == pytest.approx(few)
    assert missed > violation(one, measure(one, old, new)) + 0.02


def test_a_single_cluster_keeps_no_bound_against_the_reference() -> None:
    one = study("constraints: [{suite: each, at_most_worse: 0.3}]\n", with_text=True)
    old = {"a": choice(OLD), "b": choice(OLD), "t": text([20, 30])}
    clusters = {"a": np.zeros(10, int), "b": np.arange(10), "t": np.zeros(2, int)}
    found = measure(one, old, old, clusters)
    assert found["a", "worse_score"].high == pytest.approx(0.98, abs=0.001)
    # b's items are alone in their clusters, and t is read line by line
    assert violation(one, found) == pytest.approx(1.6449 / 2 - 0.3, abs=1e-3)


def test_confidence_makes_a_constraint_stricter() -> None:
    old = {"a": choice(OLD), "b": choice(OLD)}
    new = {"a": choice(NEW), "b": choice(OLD)}
    missed = []
    for confidence in ("null", "0.6", "0.9", "0.99"):
        one = study(f"constraints: [{{metric: macro, min: 0.54, confidence: {confidence}}}]\n")
        missed.append(violation(one, measure(one, old, new)))
    assert missed == sorted(missed)
    assert missed[0] == 0
    assert missed[-1] > 0
