"""What items in clusters are worth: known cases, invariants, and how often bounds are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.effective import (
    NOTHING,
    ClusterSums,
    best_difference,
    best_share,
    size_of,
    wilson_ends,
)
from optim.intervals import (
    clustered_share,
    paired_interval,
    share_bounds,
    upper_bound,
    wilson,
)

ROUNDS = 2000
#: (items, hits) of each cluster
CLUSTERS = st.lists(
    st.integers(1, 12).flatmap(lambda m: st.tuples(st.just(m), st.integers(0, m))),
    min_size=2,
    max_size=30,
)


def split(clusters: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    items, hits = np.array(clusters).T
    return hits, items


@given(CLUSTERS)
def test_items_are_worth_no_more_than_items_and_no_less_than_one_cluster_each(
    clusters: list[tuple[int, int]],
) -> None:
    hits, items = split(clusters)
    n, size = items.sum(), float(ClusterSums.of_shares(hits, items).shares())
    assert n / items.max() - 1e-9 <= size <= n + 1e-9
    low, high = clustered_share(hits, items)
    plain = wilson(int(hits.sum()), int(n))
    assert low <= plain[0] + 1e-9
    assert high >= plain[1] - 1e-9
    # what was missed is the mirror of what was hit
    assert clustered_share(items - hits, items) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.integers(2, 60), st.integers(1, 20), st.data())
def test_clusters_that_agree_are_worth_one_item_each(
    count: int, size: int, data: st.DataObject
) -> None:
    whole = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = clustered_share(whole * size, np.full(count, size))
    assert found == pytest.approx(wilson(int(whole.sum()), count))
    # shares of items and differences by flips one way are the same thing
    at, values = np.arange(count).repeat(size), whole.repeat(size).astype(float)
    assert ClusterSums.of_values(values, at).differences() == pytest.approx(count)


@given(CLUSTERS)
def test_clusters_of_one_item_are_items(clusters: list[tuple[int, int]]) -> None:
    hits, items = split(clusters)
    each = np.concatenate([np.arange(m) < k for m, k in zip(items, hits, strict=True)])
    ones = np.ones(len(each), dtype=int)
    assert clustered_share(each, ones) == pytest.approx(wilson(int(each.sum()), len(each)))


def test_one_cluster_says_nothing() -> None:
    assert clustered_share(np.array([3]), np.array([9])) == (0.0, 1.0)
    assert clustered_share(np.array([3, 0]), np.array([9, 0])) == (0.0, 1.0), "one is empty"
    assert ClusterSums.of_values(np.ones(5), np.zeros(5, int)).differences() == NOTHING
    assert wilson_ends(0.4, NOTHING, 2.0) == pytest.approx((0, 1), abs=1e-6)


@given(CLUSTERS, CLUSTERS)
def test_sums_of_suites_are_the_sums_of_their_clusters(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    one, two = (ClusterSums.of_shares(*split(c)) for c in (first, second))
    both = ClusterSums.of_shares(*split(first + second))
    assert (one + two).shares() == pytest.approx(float(both.shares()))


@given(st.integers(0, 300), st.integers(2, 300), st.floats(0.55, 0.995))
def test_bounds_are_those_of_the_items_that_an_interval_is_worth(
    k: int, n: int, confidence: float
) -> None:
    k = min(k, n)
    found = share_bounds(k / n, *wilson(k, n), n, confidence)
    assert found == wilson(k, n, 2 * confidence - 1), "independent items: bit for bit"
    # four copies of every item: the bounds of n items, from the interval alone
    low, high = wilson(k, n)
    copies = share_bounds(k / n, low, high, 4 * n, confidence)
    assert copies == pytest.approx(wilson(k, n, 2 * confidence - 1), abs=1e-6)
    assert size_of(k / n, low, high, 1.959963984540054) == pytest.approx(n, rel=1e-6)


@given(CLUSTERS, st.integers(0, 2**32 - 1))
def test_the_best_case_is_no_worse_than_any(clusters: list[tuple[int, int]], seed: int) -> None:
    (hits, items), rng = split(clusters), np.random.default_rng(seed)
    n, typical = int(items.sum()), float(items @ items / items.sum())
    best = best_share(hits.sum() / n, n, typical)
    assert float(ClusterSums.of_shares(hits, items).shares()) <= best + 1e-9
    at = np.arange(len(items)).repeat(items)
    each = np.concatenate([np.arange(m) < k for m, k in zip(items, hits, strict=True)]) * 1.0
    mine = float(ClusterSums.of_values(each, at).differences())
    assert mine <= float(best_difference(hits.sum(), 0, n, typical)) + 1e-9
    both = np.where(each > 0, rng.choice([-1.0, 1.0], n), 0.0)
    lost, won = (both > 0).sum(), (both < 0).sum()
    mine = float(ClusterSums.of_values(both, at).differences())
    assert mine <= float(best_difference(lost, won, n, typical)) + 1e-9


@settings(deadline=None)
@given(st.integers(3, 80), st.integers(2, 20), st.floats(0.6, 0.975))
def test_a_bound_rises_with_the_first_hits(count: int, size: int, confidence: float) -> None:
    """However few hits, and in clusters of their own: a candidate that breaks something is not
    judged better than one that breaks nothing."""
    items = np.full(count, size)
    found = []
    for k in range(count + 1):
        interval = clustered_share((np.arange(count) < k).astype(int), items)
        found.append(share_bounds(k / (count * size), *interval, count * size, confidence)[1])
    assert (np.diff(found) > -1e-9).all()


Draw = Callable[[np.random.Generator, int, float], np.ndarray]


def alike(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Clusters of 10 that are hit wholly or not at all."""
    return np.where(rng.random((ROUNDS, count)) < share, 10, 0)


def beta(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Clusters of 10 with a correlation of one half inside."""
    return rng.binomial(10, rng.beta(share, 1 - share, (ROUNDS, count)))


def mixed(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Half of the hits by themselves, the others in clusters that are hit wholly."""
    single = share / (2 - share)  # the rest follows: single + whole − both = share
    whole = (share - single) / (1 - single)
    return np.where(
        rng.random((ROUNDS, count)) < whole, 10, rng.binomial(10, single, (ROUNDS, count))
    )


@pytest.mark.parametrize("draw", [alike, beta, mixed])
@pytest.mark.parametrize("count", [15, 60])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
def test_bounds_of_rates_hold_as_often_as_they_say(draw: Draw, count: int, share: float) -> None:
    rng = np.random.default_rng([count, round(1000 * share)])
    hits = draw(rng, count, share)
    items, n = np.full(count, 10), 10 * count
    held = [
        share_bounds(h.sum() / n, *clustered_share(h, items), n, 0.95)[1] >= share for h in hits
    ]
    # Wilson's own bound holds for 92 to 98 % where few items are hit
    assert np.mean(held) > 0.92
    independent = [wilson(int(h.sum()), n, 0.9)[1] >= share for h in hits]
    # where next to nothing is hit, the bound of no hit at all holds too
    if share * count > 3:
        assert np.mean(independent) < 0.83


@pytest.mark.parametrize("count", [15, 60])
@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.05), (0.1, 0.03), (0.2, 0.2)])
def test_bounds_of_differences_hold_as_often_as_they_say(
    count: int, lost: float, won: float
) -> None:
    """Clusters of one to twenty items that flip together."""
    rng = np.random.default_rng([count, round(100 * lost), round(100 * won)])
    clustered, independent = [], []
    for _ in range(ROUNDS // 2):
        sizes = rng.choice([1, 5, 10, 20], count)
        flips = rng.choice([1.0, -1.0, 0.0], count, p=[lost, won, 1 - lost - won])
        at = np.arange(count).repeat(sizes)
        n, values = len(at), flips[at]
        counts = int((values > 0).sum()), int((values < 0).sum()), n
        for held, worth in (
            (clustered, ClusterSums.of_values(values, at).differences()),
            (independent, None),
        ):
            ends = paired_interval(*counts, worth=worth)
            held.append(upper_bound(values.mean(), *ends, 0.95) >= lost - won)
    # of as few independent items it holds for 93 %; sizes that differ take a little more
    assert np.mean(clustered) > 0.91
    assert np.mean(independent) < 0.83
