"""The named baselines, and the greedy soup step by step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.search.base import FAILED
from optim.search.baselines import (
    Quality,
    Weights,
    greedy_next,
    greedy_order,
    greedy_soup,
    single_weights,
    softmax,
    uniform,
)


def test_weights_of_the_simple_baselines() -> None:
    assert single_weights(3, 1) == (0.0, 1.0, 0.0)
    assert uniform(4) == (0.25,) * 4
    assert uniform(4, [3, 0]) == (0.5, 0.0, 0.0, 0.5)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="parent"):
            single_weights(3, wrong)
    for members in ([], [4]):
        with pytest.raises(ValueError, match="members"):
            uniform(3, members)


def test_softmax_weights_follow_the_losses() -> None:
    assert softmax([1.0, 1.0], 0.1) == (0.5, 0.5)
    near, far = softmax([2.0, 2.5], 0.5)
    assert near / far == pytest.approx(2.718281828)
    assert softmax([1e6, 0.0], 1e-3) == (0.0, 1.0)
    with pytest.raises(ValueError, match="temperature"):
        softmax([1.0], 0.0)


def soup_of(qualities: list[Quality], results: dict[Weights, Quality]) -> list[Weights]:
    """What the greedy recipe asks for, one after the other, answered from `results`."""
    order = greedy_order(qualities)
    told = {single_weights(len(order), i): q for i, q in enumerate(qualities)}
    asked = []
    while (trial := greedy_next(order, told)) is not None:
        asked.append(trial)
        told[trial] = results[trial]
    return [*asked, greedy_soup(order, told)]


def test_a_greedy_soup_by_hand() -> None:
    qualities = [(0.0, 0.0, -0.5), (0.0, 0.0, -0.7), (0.0, 0.0, -0.6)]
    results = {uniform(3, [1, 2]): (0.0, 0.0, -0.65), uniform(3, [0, 1]): (0.0, 0.0, -0.7)}
    # parent 2 makes it worse and stays out; parent 0 does not, and joins
    assert soup_of(qualities, results) == [
        uniform(3, [1, 2]),
        uniform(3, [0, 1]),
        uniform(3, [0, 1]),
    ]


def test_a_failed_soup_is_worse_and_a_failed_parent_is_not_tried() -> None:
    qualities = [(0.0, 0.0, -0.5), (FAILED, 0.0, 0.0), (0.0, 0.0, -0.6)]
    results = {uniform(3, [2, 0]): (FAILED, 0.0, 0.0)}
    assert soup_of(qualities, results) == [uniform(3, [0, 2]), single_weights(3, 2)]


def test_an_infeasible_soup_does_not_replace_a_feasible_one() -> None:
    qualities = [(0.0, 0.0, -0.5), (0.0, 0.0, -0.4)]
    assert soup_of(qualities, {uniform(2): (1.0, 0.1, -0.9)})[-1] == single_weights(2, 0)


@settings(deadline=None)
@given(st.data())
def test_the_greedy_soup_is_never_worse_than_the_best_single(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    quality = st.tuples(st.just(0.0), st.just(0.0), st.integers(-5, 0).map(float))
    order = greedy_order(qualities := data.draw(st.lists(quality, min_size=n, max_size=n)))
    told = {single_weights(n, i): q for i, q in enumerate(qualities)}
    steps = 0
    while (trial := greedy_next(order, told)) is not None:
        assert trial not in told
        told[trial] = data.draw(quality)
        steps += 1
    assert steps <= n - 1
    assert told[greedy_soup(order, told)] <= min(qualities)


def test_results_without_the_best_single_are_refused() -> None:
    with pytest.raises(ValueError, match="results"):
        greedy_next((1, 0), {})
