"""Differences of two models on the same items, against straight computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.intervals import mcnemar, wilson
from optim.predictions import Predictions, items_digest
from services.report import paired
from services.report.blocks import Number
from services.studies.tell import compared
from services.suites import Item, Suite

SUITE = Suite(
    name="s",
    form="exact",
    items=(Item(id="0", prompt="p", target="t"),),
    fractions=(1 - 2e-9, 1e-9, 1e-9),
)


def predictions(right: list[bool]) -> Predictions:
    answer = np.array([1 if ok else 2 + i for i, ok in enumerate(right)], dtype=np.uint64)
    digest = items_digest([str(i) for i in range(len(right))])
    return Predictions(form="exact", items=digest, correct=np.array(right), answer=answer)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


def width(number: Number) -> float:
    assert number.low is not None
    assert number.high is not None
    return number.high - number.low


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_a_difference_is_positive_minus_negative_flips(items: list[tuple[bool, bool]]) -> None:
    old, new = (predictions([pair[side] for pair in items]) for side in (0, 1))
    found = paired.difference(old, new, None)
    flips = paired.flips([SUITE], {"s": old}, {"s": new}, {"s": None})[""]
    n = len(items)
    assert flips.counts.negative == sum(was and not now for was, now in items)
    assert flips.counts.positive == sum(now and not was for was, now in items)
    assert flips.p == mcnemar(flips.counts.negative, flips.counts.positive)
    assert found.value == pytest.approx((flips.counts.positive - flips.counts.negative) / n)
    assert found.n == n
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    back = paired.difference(new, old, None)
    assert back.value == pytest.approx((flips.counts.negative - flips.counts.positive) / n)
    if not flips.counts.negative and not flips.counts.positive:
        assert not found.settled
        assert found.high == wilson(0, n)[1]


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_broken_and_mended_are_shares_of_what_was_right_and_wrong(
    items: list[tuple[bool, bool]],
) -> None:
    old, new = (predictions([pair[side] for pair in items]) for side in (0, 1))
    flips = paired.flips([SUITE], {"s": old}, {"s": new}, {"s": None})["s"]
    for share, k, n in (
        (flips.broken, flips.counts.negative, flips.counts.right_before),
        (flips.mended, flips.counts.positive, flips.counts.wrong_before),
        (flips.negative, flips.counts.negative, len(items)),
    ):
        assert share.n == n
        if not n:
            assert share.value is None
            continue
        low, high = wilson(k, n)
        assert share.value == pytest.approx(k / n)
        assert share.low == pytest.approx(low)
        assert share.high == pytest.approx(high)


def test_items_of_a_cluster_are_drawn_together() -> None:
    right = [i % 10 < 3 for i in range(200)]  # ten clusters, each all right or all wrong
    old, new = predictions([False] * 200), predictions(right)
    labels = {k: np.arange(200) % k for k in (1, 2, 10)}
    alone = paired.difference(old, new, None)
    together = paired.difference(old, new, labels[10])
    assert alone.value == together.value == pytest.approx(0.3)
    assert width(together) > 3 * width(alone)
    one = paired.difference(old, new, labels[1])
    assert (one.low, one.high) == (-1, 1)  # a single cluster says nothing
    assert width(paired.difference(old, old, labels[1])) == 2
    # as the study's own metrics are, and so are the flips
    by_cluster = paired.flips([SUITE], {"s": old}, {"s": new}, {"s": labels[10]})[""]
    expected = compared([(old, new, labels[10])])["positive_flip_rate"]
    assert by_cluster.positive == paired.number_of(expected)
    assert by_cluster.p == mcnemar(0, 3)  # three clusters of ten are mended
    # where nothing differs, as many could have as there are clusters
    assert paired.difference(old, old, labels[10]).high == wilson(0, 10)[1]
    assert paired.difference(old, old, labels[2]).high == wilson(0, 2)[1]


def test_refusal_rates_are_compared_on_the_items_they_are_about() -> None:
    expect = np.array([False, False, False, True, True])  # refuse
    sides = [np.array([0, 0, 1, 1, 0]), np.array([1, 1, 0, 1, 1])]
    old, new = (
        Predictions(
            form="refusal", items=items_digest(list("abcde")), correct=refused == expect,
            answer=refused.astype(np.uint64), texts=("x",) * 5,
        )
        for refused in sides
    )  # fmt: skip
    over = paired.refusals("over_refusal", old, new, None)
    unsafe = paired.refusals("unsafe_compliance", old, new, None)
    assert (over.value, over.n) == (pytest.approx(1 / 3), 3)
    assert (unsafe.value, unsafe.n) == (pytest.approx(-1 / 2), 2)
    assert over.low is not None
    assert over.low <= 1 / 3
    safe_alone = np.array([True, True, True, False, False])
    nothing = paired.refusals("over_refusal", old, old, np.arange(5))
    assert nothing.high == wilson(0, int(safe_alone.sum()))[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=6
    )
)
def test_the_mean_of_differences(parts: list[tuple[float, float, float]]) -> None:
    numbers = [
        Number(value=v, low=v - below, high=v + above, n=10, unit="points")
        for v, below, above in parts
    ]
    found = paired.mean_difference(numbers)
    count = len(parts)
    assert found.value == pytest.approx(sum(p[0] for p in parts) / count)
    assert found.n == 10 * count
    assert found.value is not None
    assert found.low == pytest.approx(
        found.value - math.sqrt(sum(p[1] ** 2 for p in parts)) / count, abs=1e-12
    )
    assert found.high == pytest.approx(
        found.value + math.sqrt(sum(p[2] ** 2 for p in parts)) / count, abs=1e-12
    )


def test_without_an_interval_of_a_part_there_is_none_of_the_mean() -> None:
    known = Number(value=0.1, low=0.0, high=0.2, n=5, unit="points")
    found = paired.mean_difference([known, Number(value=0.3, n=1, unit="points")])
    assert found.value == pytest.approx(0.2)
    assert found.low is None
    assert not found.settled


def test_a_share_of_nothing_is_undefined() -> None:
    assert paired.share(0, 0) == Number(value=None, n=0)
    assert paired.share(1, 4).value == 0.25
