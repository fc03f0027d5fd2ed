"""Differences of two models on the same items, against straight computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.intervals import wilson
from optim.predictions import Predictions, items_digest
from services.report import paired
from services.report.blocks import Number
from services.suites import Item, Suite

EVERYTHING = (1e-9, 1e-9, 1 - 2e-9)


def suite_of(n: int, clusters: int = 0) -> Suite:
    """n items, all of them in the test split."""
    items = tuple(
        Item(id=str(i), prompt="p", target="t", cluster=f"c{i % clusters}" if clusters else None)
        for i in range(n)
    )
    return Suite(name="s", form="exact", items=items, fractions=EVERYTHING)


def predictions(right: list[bool]) -> Predictions:
    answer = np.array([1 if ok else 2 + i for i, ok in enumerate(right)], dtype=np.uint64)
    digest = items_digest([str(i) for i in range(len(right))])
    return Predictions(form="exact", items=digest, correct=np.array(right), answer=answer)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_a_difference_is_positive_minus_negative_flips(items: list[tuple[bool, bool]]) -> None:
    old, new = (predictions([pair[side] for pair in items]) for side in (0, 1))
    suite = suite_of(len(items))
    found = paired.difference(suite, "test", old, new)
    counts = paired.together(paired.counts([suite], {"s": old}, {"s": new}))
    n = len(items)
    assert found.value == pytest.approx((counts.positive - counts.negative) / n)
    assert found.n == n
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    back = paired.difference(suite, "test", new, old)
    assert back.value == pytest.approx(-found.value)
    if not counts.negative and not counts.positive:
        assert not found.settled
        assert found.high == wilson(0, n)[1]


def test_items_of_a_cluster_are_resampled_together() -> None:
    right = [i % 10 < 3 for i in range(200)]  # ten clusters, each all right or all wrong
    old, new = predictions([False] * 200), predictions(right)
    alone = paired.difference(suite_of(200), "test", old, new)
    together = paired.difference(suite_of(200, clusters=10), "test", old, new)
    few = paired.difference(suite_of(200, clusters=2), "test", old, new)
    assert alone.value == together.value == pytest.approx(0.3)

    def width(number: Number) -> float:
        assert number.low is not None
        assert number.high is not None
        return number.high - number.low

    assert width(together) > 3 * width(alone)
    assert width(few) == width(alone)  # two clusters say nothing


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
