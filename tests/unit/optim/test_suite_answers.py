"""What several models' answers say of a suite: by hand, by simulation, and by invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from optim.suite_answers import (
    detectable_difference,
    discordance,
    leaning,
    signal,
    strong,
    suspects,
)

SHARES = st.floats(0.01, 1)


def test_the_detectable_difference_by_hand() -> None:
    assert detectable_difference(500, 0.2) == pytest.approx(0.0557, abs=2e-4)
    assert detectable_difference(0, 0.2) is None
    assert detectable_difference(100, 0.0) is None
    # ten items that disagree in one cannot show anything
    assert detectable_difference(10, 0.1) is None
    with pytest.raises(ValueError, match="discordant"):
        detectable_difference(10, 1.5)


@given(st.integers(1, 10**6), SHARES)
def test_the_detectable_difference_solves_its_formula(n: int, share: float) -> None:
    found = detectable_difference(n, share)
    if found is None:
        return
    assert 0 < found <= share
    root = np.sqrt(max(share - found**2, 0))
    assert (1.959964 * np.sqrt(share) + 0.841621 * root) ** 2 / found**2 == pytest.approx(
        n, rel=1e-4
    )


@given(st.integers(1, 10**5), st.integers(1, 10**5), SHARES)
def test_more_items_show_smaller_differences(n: int, more: int, share: float) -> None:
    few, many = detectable_difference(n, share), detectable_difference(n + more, share)
    assert few is None or (many is not None and many < few)


def test_the_detectable_difference_is_found_in_eight_of_ten_experiments() -> None:
    n, share = 800, 0.15
    difference = detectable_difference(n, share)
    assert difference is not None
    rng = np.random.default_rng(0)
    chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    drawn = rng.multinomial(n, chances, size=600)
    # the asymptotic test that the formula is of
    told = np.abs(drawn[:, 0] - drawn[:, 1]) / np.sqrt(drawn[:, 0] + drawn[:, 1]) > 1.96
    assert told.mean() == pytest.approx(0.8, abs=0.05)
    exact = np.mean([binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b, _ in drawn[:200]])
    assert exact == pytest.approx(0.78, abs=0.08)


def test_items_without_signal() -> None:
    found = signal(np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool))
    assert (found.saturated, found.hopeless, found.n) == ((0,), (2, 3), 4)
    assert signal(np.ones((1, 3), dtype=bool)).saturated == ()


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_another_model_only_adds_signal(models: int, n: int, seed: int) -> None:
    correct = np.random.default_rng(seed).random((models, n)) < 0.7
    few, all_ = signal(correct[:2]), signal(correct)
    assert set(all_.saturated) <= set(few.saturated)
    assert set(all_.hopeless) <= set(few.hopeless)
    assert not set(all_.saturated) & set(all_.hopeless)


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_discordance_is_that_of_loops(models: int, n: int, seed: int) -> None:
    correct = np.random.default_rng(seed).random((models, n)) < 0.6
    pairs = [np.mean(correct[a] != correct[b]) for a in range(models) for b in range(a)]
    assert discordance(correct) == pytest.approx(np.median(pairs))
    assert discordance(correct[:1]) is None


def test_the_surest_common_error_comes_first() -> None:
    correct = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=bool)
    answer = np.array([[0, 0, 1, 2, 1], [0, 0, 1, 2, 2], [1, 1, 0, 2, 2]])
    chance = np.full((3, 5, 3), 0.05)
    for model in range(3):
        for item in range(5):
            chance[model, item, answer[model, item]] = [0.9, 0.7, 0.9][model]
    found = suspects(correct, answer, np.log(chance))
    assert list(strong(correct)) == [0, 1]
    assert [s.item for s in found] == [2, 3, 4]
    assert [(s.answer, s.agree) for s in found] == [(1, 2), (2, 2), (1, 1)]
    assert [s.sure for s in found] == pytest.approx([0.8, 0.8, 0.475])
    without = suspects(correct, answer)
    assert [s.sure for s in without] == [1.0, 1.0, 0.5]
    assert suspects(correct[:1], answer[:1]) == []


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 10**6))
def test_suspects_are_missed_by_every_strong_model(models: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    answer = rng.integers(0, 3, (models, n))
    correct = answer == 0
    found = suspects(correct, answer)
    best = strong(correct)
    assert len(best) >= 2
    assert {s.item for s in found} == {i for i in range(n) if not correct[best, i].any()}
    assert all(s.answer != 0 and 0 < s.sure <= 1 for s in found)
    assert [s.sure for s in found] == sorted((s.sure for s in found), reverse=True)


def test_a_model_that_always_says_the_first() -> None:
    found = leaning([0] * 20, [0] * 10 + [1] * 10)
    assert (found.chosen, found.gold) == ((20, 0), (10, 10))
    assert found.p == pytest.approx(0.0015654, rel=1e-4)
    assert leaning([0, 1], [1, 0]).p is None
    assert leaning([], []).chosen == ()
    with pytest.raises(ValueError, match="items"):
        leaning([0], [0, 1])


def test_a_model_that_errs_evenly_does_not_lean() -> None:
    rng = np.random.default_rng(1)
    told = 0
    for _ in range(300):
        gold = rng.integers(0, 4, 200)
        said = np.where(rng.random(200) < 0.5, gold, rng.integers(0, 4, 200))
        p = leaning(said.tolist(), gold.tolist()).p
        assert p is not None
        told += p < 0.05
    assert told / 300 == pytest.approx(0.05, abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=12, max_size=60))
def test_with_two_positions_it_is_mcnemars_test(table: list[tuple[int, int]]) -> None:
    said, gold = zip(*table, strict=True)
    b, c = table.count((0, 1)), table.count((1, 0))
    p = leaning(said, gold).p
    if b + c < 10:
        assert p is None
    else:
        from scipy.stats import chi2

        assert p == pytest.approx(chi2.sf((b - c) ** 2 / (b + c), 1))
