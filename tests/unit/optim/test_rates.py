"""Rates: one definition, the same numbers as counted by hand, and denominators that no candidate
moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.compatibility import compare
from optim.predictions import Predictions
from optim.racing import item_values, most_possible
from optim.rates import (
    EVERY,
    RATES,
    SHARES,
    Among,
    among,
    expected,
    expected_kinds,
    needs_answers,
    of_kinds,
)

ANSWERS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 2), min_size=n, max_size=n) for _ in "abc"))
)


def choice(answers: np.ndarray) -> Predictions:
    """Gold is option 0."""
    return Predictions(
        form="choice", items="i", correct=answers == 0, answer=answers.astype(np.uint64)
    )


def test_backward_trust_and_error_by_hand() -> None:
    old = choice(np.array([0, 0, 0, 0, 1, 1, 2]))
    new = choice(np.array([0, 0, 0, 1, 0, 1, 1]))
    counts = compare(old, new)
    assert RATES["backward_trust"].of(counts) == (3, 4)
    assert RATES["backward_error"].of(counts) == (2, 3)
    assert RATES["churn"].of(counts) == (3, 7)
    assert RATES["inconsistency"].of(counts) == (2, 7)


@given(ANSWERS)
def test_every_way_to_count_counts_alike(answers: tuple[list[int], ...]) -> None:
    before, after, other = map(np.array, answers)
    was, now, changed = before == 0, after == 0, before != after
    refuse = other > 0
    groups: dict[Among, np.ndarray | None] = {"all": None, "comply": ~refuse, "refuse": refuse}
    certain = {
        which: expected_kinds(
            now[None].astype(float), changed[None].astype(float), was,
            among(which, len(was), refuse),
        )
        for which in groups
    }  # fmt: skip
    for name, rate in SHARES.items():
        k, n = rate.of(compare(choice(before), choice(after), groups[rate.among]))
        base = rate.base(was, refuse)
        assert n == base.sum()
        assert k == (rate.items(was, now, changed) & base).sum()
        assert k == pytest.approx(expected(rate, certain[rate.among])[0])
        values = item_values(name, was, before, now, after)  # type: ignore[arg-type]
        assert k == values[base].sum()
        assert (values <= most_possible(name, was)).all()  # type: ignore[arg-type]
        # another candidate is judged by a share of as many items
        assert n == rate.of(compare(choice(before), choice(other), groups[rate.among]))[1]


@given(ANSWERS)
def test_rates_are_those_of_the_tables(answers: tuple[list[int], ...]) -> None:
    before, after, _ = map(np.array, answers)
    counts = compare(choice(before), choice(after))
    for name, rate in RATES.items():
        if rate.among == "all":
            k, n = rate.of(counts)
            assert getattr(counts, name) == (k / n if n else None)


@given(ANSWERS)
def test_every_item_is_of_one_kind(answers: tuple[list[int], ...]) -> None:
    before, after, _ = map(np.array, answers)
    args = before == 0, after == 0, before != after
    assert (sum(of_kinds((kind,), *args).astype(int) for kind in EVERY) == 1).all()


def test_the_best_possible_candidate_has_what_stands_in_for_nothing() -> None:
    was = np.array([True, False, True, False])
    for rate in SHARES.values():
        if rate.counted in (("positive",),):
            continue  # bounded by what the reference gets wrong
        best = rate.items(was, np.ones(4, bool), ~was)[rate.base(was, None)]
        if rate.counted == ("negative", "positive", "both_wrong_differently"):
            best = rate.items(was, was, np.zeros(4, bool))
        assert best.size == 0 or best.mean() == rate.vacuous


def test_only_two_rates_ask_whether_wrong_answers_are_alike() -> None:
    assert [n for n, rate in RATES.items() if needs_answers(rate)] == ["churn", "inconsistency"]
    was = np.array([True, False])
    kinds = expected_kinds(np.array([[1.0, 0.0]]), None, was, np.ones(2, bool))
    assert expected(RATES["backward_error"], kinds)[0] == 1
    with pytest.raises(KeyError):
        expected(RATES["churn"], kinds)
