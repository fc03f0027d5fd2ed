"""What each parent of a merge is worth: axioms, a game solved by hand, intervals, recipes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.attribution import Design, Figures, Part, attribute, exact, sampled, values_of
from optim.coalition import can_renormalise, coalition
from optim.recipe import Group, Recipe

A, B, C = "a" * 64, "b" * 64, "c" * 64
DESIGNS = st.one_of(
    st.integers(1, 6).map(exact),
    st.builds(
        lambda k, p, seed: sampled(k, permutations=p, seed=seed),
        st.integers(2, 8),
        st.integers(1, 40),
        st.integers(0, 9),
    ),
)


def one_item(design: Design, value: dict[int, float] | np.ndarray) -> tuple[Figures, Figures]:
    """Figures of a game whose coalitions have one number each."""
    values = value if isinstance(value, np.ndarray) else [value[c] for c in design.coalitions]
    return attribute(design, [Part(values=np.array(values)[:, None])], resamples=2)


def by_permutations(k: int, value: dict[int, float]) -> np.ndarray:
    """Shapley values by their first definition: the mean over all orders of joining."""
    found = np.zeros(k)
    for order in itertools.permutations(range(k)):
        there = 0
        for i in order:
            found[i] += value[there | 1 << i] - value[there]
            there |= 1 << i
    return found / math.factorial(k)


def test_gloves_by_hand() -> None:
    """One left glove and two right ones, a pair is worth 1: 2/3, 1/6, 1/6. The right ones are
    redundant: leaving one of them out costs nothing, and yet each is worth something."""
    value = {c: float(c & 1 and c & 6 != 0) for c in range(8)}
    without, shapley = one_item(exact(3), value)
    assert without.estimate.tolist() == [1, 0, 0]
    assert shapley.estimate == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000))
def test_all_coalitions_give_the_mean_over_all_orders(k: int, seed: int) -> None:
    value = dict(enumerate(np.random.default_rng(seed).normal(size=1 << k).tolist()))
    _, shapley = one_item(exact(k), value)
    assert shapley.estimate == pytest.approx(by_permutations(k, value), abs=1e-12)


@settings(deadline=None)
@given(DESIGNS, st.integers(0, 10_000))
def test_what_is_shared_out_is_what_was_gained(design: Design, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=len(design.coalitions))
    _, shapley = one_item(design, values)
    assert design.coalitions[0] == 0
    assert design.coalitions[-1] == (1 << design.players) - 1
    assert shapley.estimate.sum() == pytest.approx(values[-1] - values[0], abs=1e-12)


@settings(deadline=None)
@given(DESIGNS, st.integers(0, 10_000))
def test_who_adds_the_same_to_everyone_is_worth_that(design: Design, seed: int) -> None:
    """Dummy: in a game that is a sum of the players' own worths, both figures are these."""
    own = np.random.default_rng(seed).normal(size=design.players)
    own[0] = 0.0
    value = {c: sum(own[i] for i in range(len(own)) if c >> i & 1) for c in design.coalitions}
    for figures in one_item(design, value):
        assert figures.estimate == pytest.approx(own, abs=1e-12)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_whoever_can_take_the_others_place_is_worth_the_same(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # players 0 and 1 count alike
    table = rng.normal(size=(3, 1 << (k - 2)))
    value = {c: float(table[(c & 1) + (c >> 1 & 1), c >> 2]) for c in range(1 << k)}
    without, shapley = one_item(exact(k), value)
    assert shapley.estimate[0] == pytest.approx(shapley.estimate[1], abs=1e-12)
    assert without.estimate[0] == pytest.approx(without.estimate[1], abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 60), st.integers(0, 99))
def test_each_circle_puts_everyone_everywhere_twice(k: int, permutations: int, seed: int) -> None:
    """Counted by games that pay for the place at which a player joins."""
    design = sampled(k, permutations=permutations, seed=seed)
    assert design.permutations is not None
    assert design.circles is not None
    assert permutations <= design.permutations < permutations + 2 * k
    for place in range(k):
        value = {c: float(c.bit_count() > place) for c in design.coalitions}
        assert one_item(design, value)[1].estimate == pytest.approx(np.full(k, 1 / k))
    most = 2 + k * (k - 1) + (len(design.circles) - 1) * k * max(k - 3, 0)
    assert len(design.coalitions) <= most


def test_a_sample_is_right_on_average_and_says_how_sure_it_is() -> None:
    k, rng = 6, np.random.default_rng(1)
    covers = rng.random((k, 60)) < 0.25
    value = {
        c: float(covers[[i for i in range(k) if c >> i & 1]].any(axis=0).mean()) if c else 0.0
        for c in range(1 << k)
    }
    truth = by_permutations(k, value)
    inside, found = 0, []
    for seed in range(60):
        figures = one_item(sampled(k, permutations=36, seed=seed), value)[1]
        inside += int(((figures.low <= truth) & (truth <= figures.high)).sum())
        found.append(figures.estimate)
    assert np.mean(found, axis=0) == pytest.approx(truth, abs=5e-4)
    assert inside / (60 * k) > 0.9
    one = one_item(sampled(k, permutations=1), value)[1]
    assert np.isinf(one.low).all()
    assert np.isinf(one.high).all()


def test_intervals_are_paired_over_items() -> None:
    """Two coalitions that differ in few of many items differ surely, however uncertain each is."""
    rng = np.random.default_rng(0)
    empty = (rng.random(500) < 0.5).astype(float)
    whole = empty.copy()
    whole[:40] = 1.0
    part = Part(values=np.stack([empty, whole]))
    without, shapley = attribute(exact(1), [part])
    assert without.estimate[0] == pytest.approx((whole - empty).mean())
    assert 0 < without.low[0] < without.estimate[0] < without.high[0] < 0.08
    assert without.low == pytest.approx(shapley.low)
    assert without.high == pytest.approx(shapley.high)
    same, _ = attribute(exact(1), [Part(values=np.stack([whole, whole]))])
    assert (same.low[0], same.high[0]) == (0, 0)
    # items of one cluster are no independent evidence
    clustered = Part(values=part.values, clusters=np.arange(500) // 50)
    wide, _ = attribute(exact(1), [clustered])
    assert wide.estimate == pytest.approx(without.estimate)
    assert wide.high[0] - wide.low[0] > without.high[0] - without.low[0]


def test_texts_weigh_by_their_tokens_and_suites_by_their_weight() -> None:
    nll, tokens = np.array([[6.0, 4.0], [3.0, 2.0]]), np.array([4.0, 1.0])
    right = np.array([[0.0, 0, 0, 0], [1, 0, 1, 0]])
    parts = [Part(values=nll, sizes=tokens, weight=0.5), Part(values=right, weight=0.5)]
    assert values_of(parts).tolist() == [1.0, 0.75]
    assert attribute(exact(1), parts)[0].estimate[0] == pytest.approx(-0.25)


def test_a_coalition_that_is_not_valued_yet_leaves_a_gap_where_it_counts() -> None:
    values = np.array([[0.0], [1.0], [2.0], [np.nan], [4.0], [5.0], [6.0], [7.0]])
    without, shapley = attribute(exact(3), [Part(values=values)])
    # coalition 3 is all without player 2
    assert np.isnan(without.estimate).tolist() == [False, False, True]
    assert np.isnan(shapley.low).all()


def test_figures_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="values: shape"):
        attribute(exact(2), [Part(values=np.zeros((3, 1)))])
    for wrong in (lambda: exact(0), lambda: exact(17), lambda: sampled(1), lambda: sampled(63)):
        with pytest.raises(ValueError, match="players"):
            wrong()
    with pytest.raises(ValueError, match="permutations"):
        sampled(4, permutations=0)
    with pytest.raises(ValueError, match="use at most 1800"):
        sampled(12, permutations=1801)
    assert sampled(12, permutations=1800).permutations == 1800


SHARES = st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(sum)


@given(SHARES, SHARES, st.sets(st.integers(0, 2), min_size=1))
def test_shares_are_renormalised_in_every_group(
    first: list[int], second: list[int], inside: set[int]
) -> None:
    rows = [np.array(row) / sum(row) for row in (first, second)]
    recipe = Recipe(
        parents=(A, B, C),
        weights=tuple(rows[1]),
        groups=(Group(weights=tuple(rows[0]), kinds=("mlp",)),),
    )
    assert can_renormalise(recipe)
    if not any(row[i] for row in rows for i in inside):
        with pytest.raises(ValueError, match="have no weight"):
            coalition(recipe, inside)
        return
    found = coalition(recipe, inside)
    for row in found.rows:
        assert sum(row) == pytest.approx(1, abs=1e-9)
        assert all(not w for i, w in enumerate(row) if i not in inside)
    for row, old in zip(found.rows[::-1], rows[::-1], strict=False):
        part = sum(old[i] for i in inside)
        if part > 0.01:
            assert all(abs(row[i] - old[i] / part) < 2e-6 for i in inside)


@given(st.integers(0, 2))
def test_one_parent_alone_is_that_checkpoint(index: int) -> None:
    """The same recipe as the baseline's, so it is never evaluated again."""
    rows = ((0.2, 0.3, 0.5), (0.6, 0.3, 0.1))
    recipe = Recipe(
        parents=(A, B, C), weights=rows[0], groups=(Group(weights=rows[1], layers=(0, 1)),)
    )
    alone = Recipe.one_hot((A, B, C), index).digest
    assert coalition(recipe, {index}).digest == alone
    assert coalition(recipe, {index}, base=index).digest == alone
    negative = Recipe(parents=(A, B, C), weights=(0.8, 0.7, -0.5))
    assert coalition(negative, (), base=index).digest == Recipe.one_hot((A, B, C), index).digest


def test_a_base_takes_what_the_absent_weighed() -> None:
    recipe = Recipe(parents=(A, B, C), weights=(0.8, 0.7, -0.5))
    assert coalition(recipe, {1}, base=0).weights == (0.3, 0.7, 0.0)
    assert coalition(recipe, {2}, base=0).weights == (1.5, 0.0, -0.5)
    with pytest.raises(ValueError, match="give a base"):
        coalition(recipe, {1})


def test_a_base_takes_columns_too() -> None:
    columns = {"w": ((0.5, 1.0), (0.25, -0.5), (0.5, 0.25))}
    recipe = Recipe(parents=(A, B, C), weights=(0.2, 0.3, 0.5), columns=columns)
    found = coalition(recipe, {1}, base=0)
    assert found.columns["w"] == ((1.0, 1.25), (0.25, -0.5), (0.0, 0.0))
    assert found.weights == (0.7, 0.3, 0.0)
    with pytest.raises(ValueError, match="columns"):
        coalition(recipe, {1})
