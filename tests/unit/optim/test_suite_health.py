"""What the items of a suite say of themselves: by hand, against loops, and by invariants."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from optim.suite_health import (
    COMMON,
    GRAM,
    HEADED,
    chance,
    gives_away,
    gold_spread,
    guessers,
    twins,
    words,
)

WORDS = st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join)


def pairs(texts: list[str], **how: int) -> list[tuple[int, int]]:
    return [(i, j) for i, j in twins(texts, **how).pairs.tolist()]


def straight(texts: list[str], gram: int, common: int) -> set[tuple[int, int]]:
    """The same by loops over words."""
    split = [words(text) for text in texts]
    one_of = {tuple(w): i for i, w in reversed(list(enumerate(split)))}
    runs: dict[tuple[str, ...], set[int]] = {}
    places: dict[tuple[tuple[str, ...], int], set[int]] = {}
    for w, i in one_of.items():
        for place in range(len(w) - gram + 1):
            runs.setdefault(w[place : place + gram], set()).add(i)
            places.setdefault((w[place : place + gram], place), set()).add(i)

    def template(w: tuple[str, ...], place: int) -> bool:
        run = w[place : place + gram]
        return len(runs[run]) > common or len(places[run, place]) >= HEADED

    free: dict[int, set[tuple[str, ...]]] = {}
    for w, i in one_of.items():
        starts = range(len(w) - gram + 1)
        bad = {k for p in starts if template(w, p) for k in range(p, p + gram)}
        free[i] = {w[p : p + gram] for p in starts if not bad & set(range(p, p + gram))}
    alike = [one_of[tuple(w)] for w in split]
    found = set()
    for i, j in combinations(range(len(texts)), 2):
        same = bool(split[i]) and alike[i] == alike[j]
        if same or (alike[i] != alike[j] and free[alike[i]] & free[alike[j]]):
            found.add((i, j))
    return found


def test_words_are_compared_without_case_marks_and_width() -> None:
    assert words("The „Film“, HE said: ﬁne!") == ["the", "film", "he", "said", "fine"]
    assert words(" . =\n") == []


def test_a_run_of_thirteen_words_makes_twins_and_twelve_do_not() -> None:
    run = [f"w{i}" for i in range(GRAM)]
    texts = [" ".join(["x", *run]), " ".join([*run, "y", "z"]), " ".join([*run[:-1], "q", "r"])]
    found = twins(texts)
    assert found.pairs.tolist() == [[0, 1]]
    assert found.whole.tolist() == [False]


def test_short_texts_are_compared_whole() -> None:
    found = twins(["Good film!", "a good film", "good  FILM", "", "?"])
    assert found.pairs.tolist() == [[0, 2]]
    assert found.whole.tolist() == [True]
    assert twins([]).pairs.shape == (0, 2)


def test_the_same_text_many_times_is_no_template() -> None:
    text = " ".join(f"w{i}" for i in range(20))
    assert len(pairs([text] * (COMMON + 2))) == (COMMON + 2) * (COMMON + 1) // 2


def test_few_shot_heads_and_templates_make_no_twins() -> None:
    head = " ".join(f"h{i}" for i in range(40))
    texts = [f"{head} question {i} is it so" for i in range(HEADED)]
    assert pairs(texts) == []
    frame = " ".join(f"t{i}" for i in range(GRAM))
    texts = [" ".join(["x"] * i) + f" a{i} {frame} b{i}" for i in range(COMMON + 1)]
    assert pairs(texts) == []
    assert pairs(texts[:COMMON]) != []


def test_twins_are_told_by_split() -> None:
    found = twins(["a b", "c", "a b", "a b"])
    labels = ["test", "search", "search", "test"]
    assert found.between(labels, "search", "test") == [(2, 0), (2, 3)]
    assert found.between(labels, "test", "search") == [(0, 2), (3, 2)]
    assert found.between(labels, "test", "test") == [(0, 3)]


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=7), st.integers(1, 3), st.integers(1, 4))
def test_twins_are_those_of_straight_loops(texts: list[str], gram: int, common: int) -> None:
    assert set(pairs(texts, gram=gram, common=common)) == straight(texts, gram, common)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=7), st.randoms())
def test_twins_do_not_depend_on_the_order(texts: list[str], random: object) -> None:
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = {tuple(sorted((order[i], order[j]))) for i, j in pairs([texts[k] for k in order])}
    assert moved == set(pairs(texts))


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
