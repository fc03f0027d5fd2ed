"""Intervals of rates: by hand, against resampling, and how often they are right."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.compatibility import RATES, Compatibility, compare
from optim.intervals import wilson
from optim.predictions import Predictions
from optim.rate_intervals import (
    cluster_counts,
    clustered_rate_intervals,
    joined,
    rate_intervals,
)

answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def choice(answer: np.ndarray) -> Predictions:
    return Predictions(
        form="choice", items="i", correct=answer == 0, answer=answer.astype(np.uint64)
    )


def pair(found: list[tuple[int, int]]) -> tuple[Predictions, Predictions]:
    old, new = np.array(found).T
    return choice(old), choice(new)


def counts(negative: int, positive: int, right: int, alike: int, differently: int) -> Compatibility:
    return Compatibility(
        n=negative + positive + right + alike + differently, negative=negative, positive=positive,
        both_right=right, both_wrong_alike=alike, both_wrong_differently=differently,
    )  # fmt: skip


def test_each_has_its_own_denominator() -> None:
    found = rate_intervals(counts(2, 1, 4, 2, 1))
    assert found["churn"] == (*wilson(4, 10), 10)
    assert found["backward_trust"] == (*wilson(4, 6), 6)
    assert found["backward_error"] == (*wilson(3, 4), 4)
    assert found["negative_flip_impact"] == (*wilson(2, 5), 5)
    assert found["positive_flip_impact"] == (*wilson(1, 5), 5)
    low, high = wilson(1, 3)
    assert found["win_loss_ratio"] == (low / (1 - low), high / (1 - high), 3)
    nothing = rate_intervals(counts(0, 0, 3, 0, 0))
    assert nothing["backward_error"] == nothing["win_loss_ratio"] == (None, None, 0)
    assert set(rate_intervals(Compatibility()).values()) == {(None, None, 0)}


@given(answers)
def test_intervals_hold_their_values(found: list[tuple[int, int]]) -> None:
    old, new = pair(found)
    total = compare(old, new)
    labels = [i // 2 for i in range(len(found))]
    grouped = cluster_counts(old, new, labels)
    assert grouped.total() == total
    assert cluster_counts(old, new, None).total() == total
    for bounds in (rate_intervals(total), clustered_rate_intervals(grouped)):
        for name in RATES:
            value, (low, high, n) = total.rate(name), bounds[name]
            assert (value is None) == (n == 0)
            if value is None or low is None:
                continue
            assert low <= value + 1e-12
            assert high is None or value <= high + 1e-12
            assert low >= 0


def test_without_clusters_both_ways_agree() -> None:
    rng = np.random.default_rng(0)
    old = rng.choice(4, size=900, p=[0.6, 0.2, 0.1, 0.1])
    new = np.where(rng.random(900) < 0.8, old, rng.integers(0, 4, 900))
    single = cluster_counts(choice(old), choice(new), None)
    plain, drawn = rate_intervals(single.total()), clustered_rate_intervals(single)
    for name in RATES:
        value = single.total().rate(name)
        for one, other in zip(plain[name][:2], drawn[name][:2], strict=True):
            assert one is not None
            assert other is not None
            assert other - value == pytest.approx(one - value, rel=0.25), name


def test_copies_of_items_add_no_certainty() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    once = clustered_rate_intervals(cluster_counts(choice(old), choice(new), None))
    four = cluster_counts(
        choice(old.repeat(4)), choice(new.repeat(4)), list(np.arange(200).repeat(4))
    )
    for name, (low, high, n) in clustered_rate_intervals(four).items():
        assert (low, high) == pytest.approx(once[name][:2]), name
        assert n == 4 * once[name][2]
        assert rate_intervals(four.total())[name][0] > low, "copies taken for items say too much"


def test_no_flip_in_few_clusters_is_not_certain() -> None:
    same = np.zeros(100, int)
    few = cluster_counts(choice(same), choice(same), [i // 20 for i in range(100)])
    assert clustered_rate_intervals(few)["negative_flip_rate"] == (*wilson(0, 5), 100)
    one = cluster_counts(choice(same), choice(same), ["a"] * 100)
    assert clustered_rate_intervals(one)["churn"] == (0, 1, 100), "one cluster says nothing"
    flips = cluster_counts(choice(same), choice(np.arange(100) % 2), ["a"] * 100)
    assert clustered_rate_intervals(flips)["relative_negative_flip_rate"] == (0, None, 100)
    assert clustered_rate_intervals(flips)["win_loss_ratio"] == (0, None, 50)


def test_relative_rate_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    cells = np.array([0.05, 0.1, 0.6, 0.25])
    truth = cells[0] / ((cells[0] + cells[2]) * (cells[0] + cells[3]))
    held = 0
    for negative, positive, right, wrong in rng.multinomial(400, cells, size=2000):
        low, high, _ = rate_intervals(counts(negative, positive, right, wrong, 0))[
            "relative_negative_flip_rate"
        ]
        held += low <= truth <= high  # type: ignore[operator]
    assert 0.93 <= held / 2000 <= 0.97
    low, high, n = rate_intervals(counts(0, 5, 60, 35, 0))["relative_negative_flip_rate"]
    assert (low, n) == (0, 100)
    assert high is not None
    assert 0 < high < 2


def test_suites_side_by_side() -> None:
    first = cluster_counts(*pair([(0, 0), (0, 1)]), ["a", "a"])
    second = cluster_counts(*pair([(1, 0), (1, 1), (2, 1)]), ["a", "b", "b"])
    assert joined([first, second]).n.tolist() == [2, 1, 2]
    assert joined([first, second]).total() == counts(1, 1, 1, 1, 1)


def test_what_is_refused() -> None:
    old, new = pair([(0, 1), (1, 1)])
    with pytest.raises(ValueError, match="3 labels for 2 items"):
        cluster_counts(old, new, ["a"] * 3)
    text = Predictions(form="text", items="i", nll=np.ones(2), tokens=np.ones(2, int))
    with pytest.raises(ValueError, match="no flips"):
        cluster_counts(text, text, None)


def test_it_is_quick() -> None:
    total = counts(20, 30, 600, 200, 50)
    start = time.perf_counter()
    for _ in range(200):
        rate_intervals(total)
    assert time.perf_counter() - start < 0.4  # 0.02 s on a quiet machine
