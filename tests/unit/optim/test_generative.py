"""Flips of generated answers, against peers and by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from optim.compatibility import compare
from optim.generative import TEXT_SCORES, exact_match, gains, rouge_l, text_scores, token_f1
from optim.predictions import Predictions

words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "A", "mat.", "Mat", "12"]), max_size=9)
texts = words.map(" ".join)
scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def test_scores_by_hand() -> None:
    assert exact_match(" a  b", "a b\n") == 1
    assert exact_match("A b", "a b") == 0
    # cat, sat in common; 2 words said (the does not count), 3 wanted
    assert token_f1("The cat sat!", "cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1("the", "a") == 1, "both are empty without articles"
    assert token_f1("the", "cat") == 0
    # the longest common subsequence of the, cat, sat and cat, the, sat has two words
    assert rouge_l("the cat sat", "cat the sat") == pytest.approx(2 / 3)
    assert rouge_l("", "cat") == 0


@given(texts, texts)
def test_rouge_l_agrees_with_its_authors_rules(answer: str, target: str) -> None:
    expected = RougeScorer(["rougeL"]).score(target, answer)["rougeL"].fmeasure
    assert rouge_l(answer, target) == pytest.approx(expected)


@given(words, words)
def test_longest_common_subsequence_by_recursion(first: list[str], second: list[str]) -> None:
    a, b = [w.lower().strip(".") for w in first], [w.lower().strip(".") for w in second]

    @cache
    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return (
            longest(i + 1, j + 1) + 1 if a[i] == b[j] else max(longest(i + 1, j), longest(i, j + 1))
        )

    if a and b:
        assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(
            2 * longest(0, 0) / (len(a) + len(b))
        )


@given(texts, texts, st.sampled_from(sorted(TEXT_SCORES)))
def test_scores_are_symmetric_shares(one: str, other: str, score: str) -> None:
    function = TEXT_SCORES[score]
    assert 0 <= function(one, other) <= 1
    assert function(one, other) == pytest.approx(function(other, one))
    assert exact_match(one, one) == token_f1(one, one) == 1


def test_gains_by_hand() -> None:
    old, new = np.array([0.5, 0.5, 0.5, 1.0, 0.0]), np.array([0.9, 0.6, 0.5, 0.0, 0.1])
    found = gains(old, new)
    assert (found.n, found.positive, found.negative) == (5, 3, 1)
    assert found.positive_flip_rate == 0.6
    assert found.negative_flip_rate == 0.2
    assert found.mean_gain == pytest.approx((0.4 + 0.1 + 0.1) / 3)
    assert found.mean_regression == pytest.approx(-1)
    wide = gains(old, new, 0.2)
    assert (wide.positive, wide.negative, wide.mean_gain) == (1, 1, pytest.approx(0.4))
    none = gains(np.zeros(0), np.zeros(0))
    assert none.positive_flip_rate is none.negative_flip_rate is none.mean_gain is None


@given(scores, st.floats(0, 1))
def test_gains_by_loops(pairs: list[tuple[float, float]], tolerance: float) -> None:
    old, new = (np.array(part) for part in zip(*pairs, strict=True))
    found = gains(old, new, tolerance)
    better = [b - a for a, b in pairs if b - a > tolerance]
    worse = [b - a for a, b in pairs if b - a < -tolerance]
    assert (found.positive, found.negative) == (len(better), len(worse))
    assert found.mean_gain == (pytest.approx(np.mean(better)) if better else None)
    assert found.mean_regression == (pytest.approx(np.mean(worse)) if worse else None)
    back = gains(new, old, tolerance)
    assert (back.positive, back.negative) == (found.negative, found.positive)
    if tolerance == 0:
        total = sum(better) + sum(worse)
        assert total == pytest.approx(float((new - old).sum()), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_exact_match_gives_the_flips_of_compatibility(pairs: list[tuple[bool, bool]]) -> None:
    answers = [["yes" if right else "no" for right in side] for side in zip(*pairs, strict=True)]
    found = gains(*(text_scores("exact_match", side, ["yes"] * len(side)) for side in answers))
    old, new = (
        Predictions(
            form="exact",
            items="i",
            correct=np.array([a == "yes" for a in side]),
            answer=np.array([a == "yes" for a in side], np.uint64),
        )
        for side in answers
    )
    flips = compare(old, new)
    assert (found.positive, found.negative) == (flips.positive, flips.negative)


def test_what_is_refused() -> None:
    one = np.ones(2)
    with pytest.raises(ValueError, match="score: 'bleu' is not one of exact_match, f1, rouge_l"):
        text_scores("bleu", ["a"], ["a"])
    with pytest.raises(ValueError, match="1 for 2 targets"):
        text_scores("f1", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="scores"):
        gains(one, np.ones(3))
    with pytest.raises(ValueError, match="tolerance: -1"):
        gains(one, one, -1)
    with pytest.raises(ValueError, match="finite"):
        gains(one, np.array([1, np.nan]))
