"""Multiplicity of a set of near-equal models: by hand, by loops, and its bounds."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binomtest

from optim.answers import differs, ranked_answers
from optim.membership import SuiteTable, resampled
from optim.multiplicity import (
    churn_bound,
    disagreement,
    mean_churn,
    near_best,
    pair_churn,
    viable_range,
)
from optim.optimism import optimism_bound, standard_errors
from optim.pairwise import pairwise
from optim.search.question import Axis, ItemSuite, Question
from optim.selective import fewest_members, selective

tables = st.tuples(st.integers(1, 8), st.integers(1, 10)).flatmap(
    lambda shape: arrays.arrays(np.uint64, shape, elements=st.integers(0, 4))
)


def test_an_example_by_hand() -> None:
    #                  item  0  1  2  3
    answer = np.array([[0, 0, 0, 1], [0, 1, 0, 2], [0, 2, 1, 2]], dtype=np.uint64)
    right = answer == 0
    changed = differs(right, answer, right[0], answer[0])
    found = disagreement(changed)
    assert (found.ambiguity, found.discrepancy, found.farthest) == (0.75, 0.75, 2)
    # churn: 0–1 on two of four, 0–2 on three, 1–2 on two
    assert pair_churn(right, answer) == pytest.approx([0, 1, 2 / 3, 2 / 3])
    assert mean_churn(pairwise(right, answer)) == pytest.approx([5 / 8, 4 / 8, 5 / 8])
    gold = np.array([[0.9, 0.5], [0.7, 0.5], [0.95, 0.5]])
    assert viable_range(gold) == pytest.approx([0.25, 0])
    assert near_best(np.array([0.3, 0.31, 0.4, np.nan]), 0.01).tolist() == [
        True, True, False, False,
    ]  # fmt: skip


@given(tables)
def test_ranked_answers_by_counting(answer: np.ndarray) -> None:
    right = answer <= 1
    codes = ranked_answers(right, answer)
    for column, good, code in zip(answer.T, right.T, codes.T, strict=True):
        names = ["right" if g else int(a) for a, g in zip(column, good, strict=True)]
        counts = Counter(names)
        by_code = dict(zip(code.tolist(), names, strict=True))
        assert len(by_code) == len(counts)
        assert all(by_code[c] == n for c, n in zip(code.tolist(), names, strict=True))
        sizes = [counts[by_code[c]] for c in range(len(by_code))]
        assert sizes == sorted(sizes, reverse=True)


@given(tables)
def test_disagreement_by_loops(answer: np.ndarray) -> None:
    right = answer == 0
    changed = differs(right, answer, right[0], answer[0])
    members, items = answer.shape
    each = [sum(a != b for a, b in zip(row, answer[0], strict=True)) / items for row in answer]
    some = [any(answer[m, i] != answer[0, i] for m in range(members)) for i in range(items)]
    found = disagreement(changed)
    assert found.discrepancy == pytest.approx(max(each))
    assert found.ambiguity == pytest.approx(np.mean(some))
    assert found.discrepancy <= found.ambiguity + 1e-12  # type: ignore[operator]
    assert found.ambiguity <= members * found.discrepancy + 1e-12  # type: ignore[operator]
    pairs = [
        float((a != b).mean()) for a, b in itertools.combinations(answer, 2)
    ]  # fmt: skip
    if not pairs:
        assert np.isnan(mean_churn(pairwise(right, answer))).all()
        with pytest.raises(ValueError, match="1 members have no pairs"):
            pair_churn(right, answer)
        return
    assert pair_churn(right, answer).mean() == pytest.approx(np.mean(pairs))
    assert mean_churn(pairwise(right, answer)).mean() == pytest.approx(np.mean(pairs))


@given(tables, st.floats(0, 0.5))
def test_churn_in_the_near_best_set_is_bounded(answer: np.ndarray, epsilon: float) -> None:
    """churn(r, c) <= 2 err_r + ε on 0/1 loss, for every r and c of the set."""
    right = answer == 0
    errors = 1 - right.mean(axis=1)
    inside = near_best(errors, epsilon)
    assert inside[errors.argmin()]
    churn = pairwise(right[inside], answer[inside]).rate("churn")
    for r, error in enumerate(errors[inside]):
        assert (churn[r] <= churn_bound(error, epsilon) + 1e-9).all()


@given(tables, st.sampled_from([0.01, 0.05, 0.2, 0.6]))
def test_selective_by_scipys_test(answer: np.ndarray, alpha: float) -> None:
    right = answer == 0
    found = selective(right, answer, alpha=alpha)
    for i, column in enumerate(answer.T):
        counts = Counter(column.tolist()).most_common()
        first, second = counts[0][1], counts[1][1] if len(counts) > 1 else 0
        p = binomtest(first, first + second, 0.5).pvalue
        assert found.abstains[i] == (p > alpha)
        if first > second:
            assert found.right[i] == (counts[0][0] == 0)
    assert found.abstention_rate == pytest.approx(found.abstains.mean())
    if len(answer) < fewest_members(alpha):
        assert found.abstention_rate == 1
        assert found.accuracy is None


@pytest.mark.parametrize(("members", "abstains"), [(5, 1.0), (6, 0.0)])
def test_five_that_agree_abstain_at_five_percent(members: int, abstains: float) -> None:
    answer = np.zeros((members, 3), np.uint64)
    found = selective(answer == 0, answer)
    assert found.abstention_rate == abstains
    assert fewest_members(0.05) == 6
    assert fewest_members(0.5) == 2


@given(st.integers(1, 300), st.floats(0.001, 10))
def test_equal_errors_give_the_known_formula(candidates: int, error: float) -> None:
    found = optimism_bound(np.full(candidates, error))
    assert found == pytest.approx(error * np.sqrt(2 * np.log(candidates)), rel=1e-4)


def test_the_bound_holds_and_is_not_far_off() -> None:
    rng = np.random.default_rng(0)
    loud = np.array([0.001] * 99 + [0.1])
    for errors in (np.full(100, 0.02), np.linspace(0.001, 0.03, 50), loud):
        best = rng.normal(0, errors, size=(4000, len(errors))).max(axis=1).mean()
        bound = optimism_bound(errors)
        assert bound is not None
        assert 0.2 * bound < best < bound
    # one noisy candidate is not taken for a hundred
    assert optimism_bound(loud) < 0.6 * 0.1 * np.sqrt(2 * np.log(100))  # type: ignore[operator]


def test_optimism_of_real_selection() -> None:
    """Equally good candidates: the winner's score on these items is above what all are worth."""
    rng = np.random.default_rng(1)
    flattered, bounds = [], []
    for _ in range(60):
        right = rng.random((40, 300)) < 0.7
        counts = rng.multinomial(300, np.full(300, 1 / 300), size=300)
        drawn = counts @ right.T / 300
        flattered.append(right.mean(axis=1).max() - 0.7)
        bounds.append(optimism_bound(standard_errors(drawn)))
    assert 0.7 < np.mean(flattered) / np.mean(bounds) < 0.95


def test_optimism_where_items_share_contexts() -> None:
    """The bound is one of clusters: of items alone, the winner's luck would be far above it."""
    rng, at = np.random.default_rng(2), np.arange(30).repeat(10)
    flattered, bounds, alone = [], [], []
    for _ in range(60):
        right = (rng.random((40, 30)) < 0.7).repeat(10, axis=1)
        tables = [SuiteTable(right=right, changed=right)]
        flattered.append(right.mean(axis=1).max() - 0.7)
        for found, clusters in ((bounds, at), (alone, None)):
            one = ItemSuite(name="a", form="choice", reference=right[0], clusters=clusters)
            question = Question(suites=(one,), axes=(Axis(metric="score", suite="a"),))
            scores = -resampled(question, tables, resamples=200)[0][:, :, 0]
            found.append(optimism_bound(standard_errors(scores)))
    assert 0.65 < np.mean(flattered) / np.mean(bounds) < 0.95
    assert np.mean(flattered) > 1.5 * np.mean(alone)


def test_edges() -> None:
    assert optimism_bound(np.zeros(0)) is None
    assert optimism_bound(np.array([0.3])) == 0
    assert optimism_bound(np.zeros(9)) == 0
    nothing = disagreement(np.zeros((0, 4), bool))
    assert nothing.ambiguity is nothing.discrepancy is nothing.farthest is None
    assert not near_best(np.array([np.nan]), 0.1).any()
    assert churn_bound(0.7, 0.1) == 1
    none = selective(np.zeros((3, 0), bool), np.zeros((3, 0), np.uint64))
    assert none.abstention_rate is none.accuracy is None
    with pytest.raises(ValueError, match="epsilon: -1"):
        near_best(np.zeros(2), -1)
    with pytest.raises(ValueError, match="alpha: 1"):
        selective(np.zeros((1, 1), bool), np.zeros((1, 1), np.uint64), alpha=1)
    with pytest.raises(ValueError, match="no members"):
        selective(np.zeros((0, 1), bool), np.zeros((0, 1), np.uint64))
    with pytest.raises(ValueError, match="errors"):
        optimism_bound(np.array([np.nan]))
    with pytest.raises(ValueError, match="resampled"):
        standard_errors(np.zeros((1, 3)))
