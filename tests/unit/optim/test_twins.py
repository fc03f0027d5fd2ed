"""Twins among texts: by hand, against loops over words, and whatever the order."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from optim.twins import COMMON, GRAM, HEADED, twins, words

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
