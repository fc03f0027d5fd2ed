"""Betting against a candidate: what is certain, what is guaranteed, whom it is tested against."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optim.racing import (
    Bets,
    item_values,
    most_dominating,
    most_possible,
    paired_error,
    total_interval,
)

ALPHA = 0.05
RUNS = 2000
#: three standard errors of a share of ALPHA in RUNS
SLACK = 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def population(
    rng: np.random.Generator, items: int, discordance: float, deficit: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Totals and floors [C] of clusters of `size` items on which two models differ by so much:
    the one that is ahead has `deficit` more right."""
    differ = round(items * discordance)
    behind = (differ + deficit) // 2
    x = np.zeros(items)
    x[:behind], x[behind:differ] = 1, -1
    # where the incumbent is wrong, the candidate may win: among those it did, and half of the rest
    floor = np.where(x < 0, -1.0, np.where((x == 0) & (rng.random(items) < 0.5), -1.0, 0.0))
    order = rng.permutation(items)
    starts = np.arange(0, items, size)
    return np.add.reduceat(x[order], starts), np.add.reduceat(floor[order], starts)


def stopped(
    totals: np.ndarray, floors: np.ndarray, limit: float, rng: np.random.Generator, alpha: float
) -> np.ndarray:
    """Whether each of RUNS orders of the clusters refutes "the total is at most `limit`" before the
    last cluster came."""
    orders = np.array([rng.permutation(len(totals)) for _ in range(RUNS)])
    bets = Bets(np.full(RUNS, limit), floors[orders])
    bets.feed(totals[orders][:, :-1])
    return bets.log_wealth >= math.log(1 / alpha)


@pytest.mark.parametrize("size", [1, 8, 25])
@pytest.mark.parametrize("discordance", [0.06, 0.2, 0.6])
@pytest.mark.parametrize("margin", [0, 12])
def test_good_candidates_are_stopped_with_the_stated_probability_at_most(
    size: int, discordance: float, margin: int
) -> None:
    """The hardest case: exactly as far behind as is allowed."""
    rng = np.random.default_rng([size, round(100 * discordance), margin])
    totals, floors = population(rng, 400, discordance, margin, size)
    wrong = stopped(totals, floors, float(totals.sum()), rng, ALPHA)
    assert wrong.mean() <= ALPHA + SLACK


@pytest.mark.parametrize("size", [1, 8, 25])
def test_bad_candidates_are_stopped(size: int) -> None:
    rng = np.random.default_rng(0)
    totals, floors = population(rng, 400, 0.3, 80, size)
    assert stopped(totals, floors, 8.0, rng, ALPHA).mean() > 0.95


@given(
    arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)),
    st.integers(-40, 40),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_what_is_certain_is_refuted_and_never_what_is_true_for_certain(
    totals: np.ndarray, limit: int, seed: int
) -> None:
    floors = totals - np.random.default_rng(seed).integers(0, 3, len(totals))
    bets = Bets(np.array([limit]), floors[None].astype(float))
    for number, x in enumerate(totals):
        bets.feed(np.array([[x]]))
        assert bets.left == len(totals) - number - 1
        least = totals[: number + 1].sum() + floors[number + 1 :].sum()
        assert np.isinf(bets.log_wealth[0]) == (least > limit)
        assert not np.isnan(bets.log_wealth[0])
    assert np.isinf(bets.log_wealth[0]) or totals.sum() <= limit


@given(
    arrays(np.float64, (3, 9), elements=st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])),
    st.lists(st.booleans(), min_size=9, max_size=9),
)
@settings(max_examples=100, deadline=None)
def test_claims_do_not_disturb_each_other_and_chunks_do_not_matter(
    totals: np.ndarray, other: list[bool]
) -> None:
    mine = np.array([[True] * 9, other, [not o for o in other]])
    totals = np.where(mine, totals, 0.0)
    floors = np.where(mine, -1.0, 0.0)
    limits = np.array([0.5, 1.0, -0.5])
    together = Bets(limits, floors, mine)
    together.feed(totals[:, :4])
    together.feed(totals[:, 4:])
    for h in range(3):
        alone = Bets(limits[h : h + 1], floors[h : h + 1, mine[h]])
        alone.feed(totals[h : h + 1, mine[h]])
        np.testing.assert_allclose(together.log_wealth[h], alone.log_wealth[0], atol=1e-9)


@given(arrays(np.float64, st.integers(2, 20), elements=st.floats(-1, 1)), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_an_interval_lies_within_what_is_certain_and_closes(x: np.ndarray, count: int) -> None:
    seen = min(count, len(x))
    floors, ceilings = np.full(len(x), -1.0), np.ones(len(x))
    low, high = total_interval(x[:seen], floors, ceilings)
    sure, left = x[:seen].sum(), len(x) - seen
    assert sure - left - 1e-9 <= low <= high <= sure + left + 1e-9
    if not left:
        assert low == pytest.approx(high) == pytest.approx(x.sum())


def test_intervals_cover_whatever_the_rule_of_stopping() -> None:
    """Stopped where the estimate looks worst, which would mislead any interval for a fixed n."""
    rng, misses, runs = np.random.default_rng(4), 0, 300
    for _ in range(runs):
        x = rng.permutation(np.repeat([0.0, 1.0], [60, 60]))
        means = np.cumsum(x)[9:-1] / np.arange(10, len(x))
        at = 10 + int(np.argmin(means))
        low, high = total_interval(x[:at], np.zeros(120), np.ones(120), confidence=0.9)
        misses += not low <= 60 <= high
    assert misses / runs <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / runs)


def test_values_are_what_the_rates_are_means_of() -> None:
    was, now = np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 0, 0], bool)
    before, after = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2])
    found = {
        "score": [1, 0, 1, 0, 0],
        "macro": [1, 0, 1, 0, 0],
        "negative_flip_rate": [0, 1, 0, 0, 0],
        "positive_flip_rate": [0, 0, 1, 0, 0],
        "churn": [0, 1, 1, 0, 1],
        "inconsistency": [0, 1, 0, 0, 1],
    }
    for metric, values in found.items():
        mine = item_values(metric, was, before, now, after)  # type: ignore[arg-type]
        assert mine.tolist() == values
        assert (mine <= most_possible(metric, was)).all()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metric"):
        most_possible("nats", was)  # type: ignore[arg-type]


def test_the_paired_error_is_the_standard_error_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 500)) < 0.6
    values, weights = np.array([a, b], float), np.full(500, 1 / 500)
    difference = values[0] - values[1]
    assert paired_error(values, weights) == pytest.approx(difference.std() / math.sqrt(500))
    assert paired_error(values[:1], weights) == 0.0
    assert paired_error(np.array([a, a], float), weights) == 0.0


def test_the_error_of_clusters_is_that_of_their_sums() -> None:
    rng = np.random.default_rng(1)
    few, at = (rng.random((2, 50)) < 0.6).astype(float), np.arange(50).repeat(10)
    values, weights = few.repeat(10, axis=1), np.full(500, 1 / 500)
    expected = paired_error(few, np.full(50, 1 / 50))
    assert paired_error(values, weights, at) == pytest.approx(expected)
    assert paired_error(values, weights) == pytest.approx(expected / math.sqrt(10))
    # one item each, in any order: items; a single cluster has nothing to be compared with
    order = rng.permutation(500)
    assert paired_error(values, weights, order) == pytest.approx(paired_error(values, weights))
    alone = np.zeros(500, int)
    assert paired_error(values, weights, alone) == paired_error(values, weights)


@pytest.mark.parametrize("size", [5, 20])
def test_an_equal_candidate_is_seldom_stopped_by_the_items_it_was_given(size: int) -> None:
    """Clusters are answered alike, so on these 40 of them a candidate that is as good may be far
    behind. It is stopped where it is behind by more than one standard error, which happens to 16 %,
    and to the others with ALPHA at most; an error of independent items stops many more."""
    rng, at = np.random.default_rng(size), np.arange(40).repeat(10)
    weights, stops = np.full(400, 1 / 400), {True: 0, False: 0}
    for _ in range(300):
        draw = rng.random(40).repeat(10)
        ahead, behind = (draw < 0.8).astype(float), ((draw < 0.6) | (draw > 0.8)).astype(float)
        blocks = rng.permutation(400).reshape(-1, size)
        for clustered in stops:
            margin = paired_error(np.array([ahead, behind]), weights, at if clustered else None)
            totals, floors = (
                (weights * x)[blocks].sum(axis=1) for x in (ahead - behind, ahead - 1)
            )
            bets = Bets(np.array([margin]), floors[None])
            bets.feed(totals[None, :-1])
            stops[clustered] += bool(bets.log_wealth[0] >= math.log(1 / ALPHA))
    assert stops[True] / 300 < 0.16 + ALPHA
    assert stops[False] / 300 > 0.3


def test_members_are_chosen_until_everything_is_dominated() -> None:
    front = [(0.0, 5.0), (2.0, 2.0), (5.0, 0.0)]
    others = [(3.0, 3.0), (2.5, 4.0), (6.0, 0.5), (9.0, 9.0)]
    assert most_dominating(front, others, 4) == [1, 2]
    assert most_dominating(front, others, 1) == [1]
    assert most_dominating(front, [], 2) == [0, 1]
    assert most_dominating([], others, 2) == []
