"""All pairs at once give what one pair after the other gives."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import hamming_loss

from optim.compatibility import RATES, compare
from optim.pairwise import MOST_OPTIONS, Pairwise, pairwise
from optim.predictions import Predictions

tables = st.tuples(st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda shape: arrays.arrays(np.uint64, shape, elements=st.integers(0, 3))
)


def one(answer: np.ndarray, right: np.ndarray) -> Predictions:
    return Predictions(form="choice", items="i", correct=right, answer=answer)


def check(found: Pairwise, answer: np.ndarray, right: np.ndarray) -> None:
    """Against `compare`, pair by pair."""
    rates = found.rates()
    for i in range(len(answer)):
        for j in range(len(answer)):
            pair = compare(one(answer[i], right[i]), one(answer[j], right[j]))
            for name in ("negative", "positive", "both_right", "both_wrong_alike",
                         "both_wrong_differently"):  # fmt: skip
                assert getattr(found, name)[i, j] == getattr(pair, name), name
            for name in RATES:
                value = pair.rate(name)
                assert rates[name][i, j] == pytest.approx(
                    math.nan if value is None else value, nan_ok=True
                )


@given(tables)
def test_options_pair_by_pair(answer: np.ndarray) -> None:
    check(pairwise(answer == 0, answer), answer, answer == 0)


@given(tables)
def test_hashed_answers_pair_by_pair(answer: np.ndarray) -> None:
    # hashes are large, and two right answers may be spelled differently: 0 and 1 are both right
    hashed = answer * np.uint64(2**61) + np.uint64(MOST_OPTIONS)
    check(pairwise(answer <= 1, hashed), hashed, answer <= 1)


def test_an_example_counted_by_hand() -> None:
    answer = np.array([[0, 0, 1, 2], [0, 1, 0, 2], [1, 1, 1, 1]], dtype=np.uint64)
    found = pairwise(answer == 0, answer)
    assert found.negative.tolist() == [[0, 1, 2], [1, 0, 2], [0, 0, 0]]
    assert found.both_wrong_alike.tolist() == [[2, 1, 1], [1, 2, 1], [1, 1, 4]]
    assert found.rate("churn").tolist() == [[0, 0.5, 0.75], [0.5, 0, 0.75], [0.75, 0.75, 0]]
    assert np.isnan(found.rate("backward_trust")[2]).all(), "the third is never right"


@given(tables)
def test_churn_is_a_distance(answer: np.ndarray) -> None:
    found = pairwise(answer == 0, answer)
    churn = found.rate("churn")
    assert np.array_equal(churn, churn.T)
    assert not churn.diagonal().any()
    # triangle: what changes from i to k changes on the way over j
    assert (churn[:, None, :] <= churn[:, :, None] + churn[None, :, :] + 1e-12).all()
    first, last = answer[0].astype(int), answer[-1].astype(int)
    assert churn[0, -1] == pytest.approx(hamming_loss(first, last))
    delta = found.rate("positive_flip_rate") - found.rate("negative_flip_rate")
    assert delta == pytest.approx(found.rate("accuracy_after") - found.rate("accuracy_before"))


@given(tables, tables)
def test_suites_add_up(first: np.ndarray, second: np.ndarray) -> None:
    members = min(len(first), len(second))
    first, second = first[:members], second[:members]
    both = np.concatenate([first, second], axis=1)
    total = pairwise(first == 0, first) + pairwise(second == 0, second)
    check(total, both, both == 0)


def test_no_items_and_wrong_shapes() -> None:
    none = pairwise(np.zeros((2, 0), bool), np.zeros((2, 0), np.uint64))
    assert none.n == 0
    assert np.isnan(none.rate("churn")).all()
    with pytest.raises(ValueError, match="answers"):
        pairwise(np.zeros((2, 3), bool), np.zeros((2, 4), np.uint64))


@pytest.mark.parametrize("answers", [4, 10**6])
def test_it_is_quick(answers: int) -> None:
    rng = np.random.default_rng(0)
    answer = rng.integers(0, answers, size=(200, 5000)).astype(np.uint64)
    if answers > MOST_OPTIONS:
        answer = np.where(rng.random(answer.shape) < 0.7, answer[0], answer)
    right = answer == answer[0]
    start = time.perf_counter()
    pairwise(right, answer).rates()
    assert time.perf_counter() - start < 3  # 0.15 and 0.6 s on a quiet machine
