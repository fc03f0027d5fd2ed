"""Intervals against published numbers, against each other, and for how often they are right."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optim.intervals import (
    difference_interval,
    macro_interval,
    mcnemar,
    mover,
    paired_interval,
    ratio_interval,
    rescaled,
    score_interval,
    upper_bound,
    wilson,
    wilson_bound,
)
from optim.predictions import Predictions, items_digest


def choice(correct: np.ndarray) -> Predictions:
    n = len(correct)
    return Predictions(
        form="choice",
        items=items_digest([str(i) for i in range(n)]),
        correct=correct.astype(bool),
        answer=np.zeros(n, dtype=np.uint64),
    )


def text(nll: np.ndarray, tokens: np.ndarray) -> Predictions:
    return Predictions(
        form="text",
        items=items_digest([str(i) for i in range(len(nll))]),
        nll=nll.astype(np.float32),
        tokens=tokens.astype(np.int32),
    )


counts = st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_wilson_agrees_with_scipy_and_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for k, n, confidence in [(0, 30, 0.95), (30, 30, 0.95), (15, 263, 0.9), (81, 263, 0.99)]:
        expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts, st.floats(0.5, 0.999))
def test_wilson_keeps_the_share_inside_and_mirrors(
    counted: tuple[int, int], confidence: float
) -> None:
    k, n = counted
    low, high = wilson(k, n, confidence)
    assert 0 <= low <= high <= 1
    assert wilson(n - k, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    if n:
        assert low - 1e-9 <= k / n <= high + 1e-9
    else:
        assert (low, high) == (0.0, 1.0)


@given(st.lists(counts, min_size=1, max_size=5), st.floats(0.51, 0.999))
def test_one_sided_wilson_bounds_are_ends_of_two_sided_ones(
    counted: list[tuple[int, int]], confidence: float
) -> None:
    k, n = np.array(counted).T
    ends = [wilson(*one, 2 * confidence - 1) for one in counted]
    both = [wilson_bound(k, n, sign, confidence) for sign in (-1.0, 1.0)]
    assert np.stack(both, axis=1) == pytest.approx(np.array(ends), abs=1e-9)
    # expected counts go on between whole ones
    more = wilson_bound(np.minimum(k + 0.5, n), n, 1.0, confidence)
    assert (more >= both[1]).all()
    assert (more <= wilson_bound(np.minimum(k + 1, n), n, 1.0, confidence)).all()
    assert (wilson_bound(n + 1e-9, n, 1.0, confidence) == 1).all()


def test_a_flip_rate_meets_its_limit_only_with_enough_items() -> None:
    upper = wilson_bound([0, 2, 2], [400, 400, 100], 1.0, 0.95)
    assert upper[0] == pytest.approx(stats.norm.ppf(0.95) ** 2 / (400 + 2.7055), 1e-3)
    assert upper[1] <= 0.02 < upper[2]


def test_confidence_and_counts_are_checked() -> None:
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="confidence"):
            wilson(1, 2, confidence)
        with pytest.raises(ValueError, match="confidence"):
            wilson_bound(1, 2, 1.0, confidence)
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="k: "):
            wilson(k, n)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(negative: int, positive: int) -> None:
    if negative + positive == 0:
        assert mcnemar(0, 0) == 1.0
        return
    expected = stats.binomtest(negative, negative + positive, 0.5).pvalue
    assert mcnemar(negative, positive) == pytest.approx(expected)
    assert mcnemar(negative, positive) == mcnemar(positive, negative)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    with pytest.raises(ValueError, match="flips"):
        mcnemar(-1, 3)


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeatable() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, size=300)
    low, high = ratio_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(300)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert ratio_interval(values) == (low, high)
    assert ratio_interval(values, seed=1) != (low, high)
    wide = ratio_interval(values, confidence=0.99)
    assert wide[0] < low < high < wide[1]


def test_bootstrap_and_linearised_interval_agree_where_one_replaces_the_other() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.integers(5, 80, size=1024)
    nll = tokens * rng.normal(2.0, 0.4, size=1024)
    resampled = ratio_interval(nll, tokens, resamples=4000)
    # one empty item more: the same ratio, on the other side of the limit
    linear = ratio_interval(np.append(nll, 0.0), np.append(tokens, 0))
    assert linear == pytest.approx(resampled, abs=0.002)


@pytest.mark.parametrize("clustered", [False, True])
def test_ratio_intervals_cover_as_often_as_they_say(clustered: bool) -> None:
    rng, hits, rounds = np.random.default_rng(3), 0, 400
    for _ in range(rounds):
        tokens = rng.integers(5, 60, size=160)
        shared = np.repeat(rng.normal(0, 0.4, size=40), 4) if clustered else 0.0
        nll = tokens * (2.0 + shared + rng.normal(0, 0.3, size=160))
        labels = [f"context {i // 4}" for i in range(160)] if clustered else None
        low, high = ratio_interval(nll, tokens, clusters=labels)
        hits += low <= 2.0 <= high
    # 3 standard errors of the share around what percentile intervals reach at this size
    assert 0.90 <= hits / rounds <= 0.98


def test_clusters_that_agree_are_worth_one_item_each() -> None:
    each = np.random.default_rng(4).random(50) < 0.5
    repeated = np.repeat(each, 6).astype(float)
    labels = np.repeat(np.arange(50), 6).tolist()
    assert ratio_interval(repeated, clusters=labels) == pytest.approx(ratio_interval(each * 1.0))
    narrow = ratio_interval(repeated)
    wide = ratio_interval(repeated, clusters=labels)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_one_cluster_says_nothing_of_the_spread() -> None:
    assert ratio_interval([1.0]) == (None, None)
    assert ratio_interval([1.0, 2.0], clusters=["a", "a"]) == (None, None)
    assert score_interval(text(np.array([3.0]), np.array([2]))) == (None, None)
    assert macro_interval([text(np.array([3.0]), np.array([2]))]) == (1.5, None, None)


@pytest.mark.parametrize(
    ("numerators", "denominators", "clusters", "message"),
    [
        ([], None, None, "items"),
        ([1.0, math.nan], None, None, "not finite"),
        ([1.0, 2.0], [1.0], None, "items"),
        ([1.0, 2.0], [0.0, 0.0], None, "denominators"),
        ([1.0, 2.0], [2.0, -1.0], None, "denominators"),
        ([1.0, 2.0], None, ["a"], "clusters"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    numerators: list[float],
    denominators: list[float] | None,
    clusters: list[str] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_interval(numerators, denominators, clusters=clusters)


def test_scores_get_the_interval_of_their_form() -> None:
    correct = np.arange(60) < 45
    assert score_interval(choice(correct)) == wilson(45, 60)
    nll, tokens = np.linspace(5, 40, 60), np.arange(4, 64)
    one = text(nll, tokens)
    low, high = score_interval(one)
    assert low is not None
    assert high is not None
    assert low < one.score() < high
    # clusters of one item each are items
    alone = score_interval(choice(correct), clusters=list(range(60)))
    assert alone == pytest.approx(wilson(45, 60))
    with pytest.raises(ValueError, match="predictions"):
        score_interval(Predictions(form="choice", items="x"))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_paired_differences_are_narrower_than_unpaired_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.random(300) < 0.6
    new = np.where(rng.random(300) < 0.1, ~old, old)
    low, high = difference_interval(choice(old), choice(new))
    assert low is not None
    assert high is not None
    assert low - 1e-9 <= new.mean() - old.mean() <= high + 1e-9
    assert high - low < 2 * 1.96 * math.sqrt(0.48 / 300)


def test_differences_of_texts_are_per_token_and_of_the_same_texts() -> None:
    tokens = np.arange(5, 65)
    old, new = text(tokens * 2.0, tokens), text(tokens * 2.0 - 0.5 * tokens, tokens)
    assert difference_interval(old, new) == pytest.approx((-0.5, -0.5))
    with pytest.raises(ValueError, match="tokens"):
        difference_interval(old, text(tokens * 2.0, tokens + 1))
    with pytest.raises(ValueError, match="items"):
        difference_interval(old, text(np.ones(3), np.ones(3)))


def test_a_macro_average_of_one_suite_is_that_suite() -> None:
    one = choice(np.arange(40) < 25)
    value, low, high = macro_interval([one])
    assert (value, low, high) == pytest.approx((25 / 40, *wilson(25, 40)))
    with pytest.raises(ValueError, match="suites"):
        macro_interval([])


def test_a_macro_average_weighs_suites_alike_and_covers_as_often_as_it_says() -> None:
    rng, hits, rounds = np.random.default_rng(5), 0, 1000
    truth, sizes = np.array([0.55, 0.76, 0.42, 0.97]), (300, 60, 150, 40)
    for _ in range(rounds):
        suites = [choice(rng.random(n) < p) for p, n in zip(truth, sizes, strict=True)]
        value, low, high = macro_interval(suites)
        assert low is not None
        assert high is not None
        assert value == pytest.approx(np.mean([suite.score() for suite in suites]))
        assert 0 <= low <= value <= high <= 1
        hits += low <= truth.mean() <= high
    assert 0.93 <= hits / rounds <= 0.98


def test_all_right_is_not_certain() -> None:
    value, low, high = macro_interval([choice(np.ones(50)), choice(np.ones(50))])
    assert value == high == 1.0
    assert low is not None
    assert 0.9 < low < 1.0


def test_rescaling_to_the_same_confidence_changes_nothing() -> None:
    assert rescaled(0.5, 0.4, 0.7, 0.95) == pytest.approx((0.4, 0.7))
    low, high = rescaled(0.5, 0.4, 0.7, 0.9)
    assert (0.5 - low, high - 0.5) == pytest.approx(
        (0.1 * 1.6449 / 1.96, 0.2 * 1.6449 / 1.96), 1e-4
    )


def test_intervals_are_quick_enough_for_every_trial() -> None:
    rng = np.random.default_rng(6)
    suites = [choice(rng.random(300) < 0.6) for _ in range(5)]
    one = text(rng.random(300) * 50, rng.integers(5, 60, size=300))
    score_interval(one)
    started = time.process_time()
    for _ in range(20):
        macro_interval(suites)
        score_interval(one)
    assert (time.process_time() - started) / 20 < 0.005


def test_the_paired_interval_by_hand_and_its_bounds() -> None:
    # Agresti & Min 2005: half an item more in each cell
    low, high = paired_interval(10, 2, 50)
    middle, half = 8 / 52, 1.959964 * math.sqrt(13 - 64 / 52) / 52
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert upper_bound(8 / 50, low, high, 0.975) == pytest.approx(high)
    # the other way round, and nothing at all
    assert paired_interval(2, 10, 50) == pytest.approx((-high, -low))
    assert paired_interval(0, 0, 0) == (0, 0)
    assert paired_interval([0, 3], 0, [5, 5])[0].shape == (2,)


@given(st.integers(1, 300), st.data())
def test_a_bound_is_never_below_the_estimate_and_grows_with_confidence(
    n: int, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    value, ends = (lost - won) / n, paired_interval(lost, won, n)
    assert ends[0] <= value <= ends[1]
    bounds = [upper_bound(value, *ends, c) for c in (0.51, 0.8, 0.95, 0.99)]
    assert bounds == sorted(bounds)
    assert bounds[0] >= value


@pytest.mark.parametrize(("lost", "won", "n"), [(0.02, 0.02, 60), (0.1, 0.05, 120), (0.3, 0.2, 40)])
def test_the_paired_bound_is_as_often_right_as_it_says(lost: float, won: float, n: int) -> None:
    rng = np.random.default_rng(5)
    flips = rng.multinomial(n, [lost, won, 1 - lost - won], size=20_000)
    value = (flips[:, 0] - flips[:, 1]) / n
    ends = paired_interval(flips[:, 0], flips[:, 1], n)
    covered = (upper_bound(value, *ends, 0.95) >= lost - won).mean()
    assert 0.93 <= covered <= 1.0


def test_the_mean_of_independent_quantities_adds_distances_in_squares() -> None:
    value, low, high = mover([0.1, 0.3], [0.0, 0.3], [0.4, 0.7])
    assert (value, low) == pytest.approx((0.2, 0.2 - 0.05))
    assert high == pytest.approx(0.2 + 0.25)
    assert mover([0.1], [0.0], [0.4]) == pytest.approx((0.1, 0.0, 0.4))
