"""What options and golds say of a suite: by hand, and against scipy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from optim.suite_health import (
    chance,
    gives_away,
    gold_spread,
    guessers,
)


def test_constant_guessers_by_hand() -> None:
    options = [["aa", "b"], ["b", "aa"], ["aa", "b"], ["b", "cc"], ["d", "ee"]]
    gold = [0, 0, 0, 0, 1]
    found = {g.kind: (g.right, g.n) for g in guessers(options, gold, [0, 1, 2], [3, 4])}
    # learnt: always number 1; always 'aa', which neither item has
    assert found["position"] == (1, 2)
    assert found["option"] == (0, 2)
    assert found["longest"] == (1, 2)
    assert found["shortest"] == (1, 2)
    assert guessers(options, gold, [], [1]) == []
    assert guessers(options, gold, [1], []) == []
    assert chance(options) == 0.5
    assert chance([]) is None


def leaky(n: int, how: str) -> tuple[list[list[str]], list[int]]:
    """Items whose options give the gold away, or do not; golds at random places."""
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 4, n).tolist()
    options = [[f"w{a} w{b}" for a, b in rng.integers(0, 30, (4, 2))] for _ in range(n)]
    for i, one in enumerate(options):
        if how == "word":
            one[gold[i]] += " always"
        elif how == "length":
            one[gold[i]] += " " + "x" * int(rng.integers(3, 9)) + str(i)
    return options, gold


@pytest.mark.parametrize(("how", "kinds"), [
    ("word", {"bayes", "longest"}), ("length", {"bayes", "longest"}), ("no", set()),
])  # fmt: skip
def test_options_that_give_the_answer_away(how: str, kinds: set[str]) -> None:
    options, gold = leaky(300, how)
    found = guessers(options, gold, range(200), range(200, 300))
    told = gives_away(found, 0.25)
    assert {told.kind} <= kinds if told else not kinds
    if told:
        assert told.share is not None
        assert told.share > 0.9


def test_the_commonest_class_is_no_leak() -> None:
    rng = np.random.default_rng(0)
    gold = (rng.random(400) < 0.2).astype(int).tolist()
    found = guessers([[" no", " yes"]] * 400, gold, range(200), range(200, 400))
    by_kind = {g.kind: g for g in found}
    assert by_kind["bayes"].right == by_kind["option"].right == by_kind["position"].right > 140
    assert gives_away(found, 0.5) is None


def test_the_spread_of_golds_by_hand() -> None:
    found = gold_spread([["a", "b"]] * 10, [0] * 10)
    assert found.counts == (10, 0)
    assert found.p == pytest.approx(0.0015654, rel=1e-4)
    assert found.fixed
    assert gold_spread([["a", "b"], ["b", "a"]], [0, 0]).p is None
    assert gold_spread([], []).counts == ()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_the_spread_is_that_of_scipy(size: int, seed: int) -> None:
    gold = np.random.default_rng(seed).integers(0, size, 60)
    options = [[str(k) for k in range(size)]] * 60
    counts = [Counter(gold.tolist())[k] for k in range(size)]
    assert gold_spread(options, gold.tolist()).p == pytest.approx(chisquare(counts).pvalue)
