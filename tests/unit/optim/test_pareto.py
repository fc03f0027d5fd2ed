"""Ranks, crowding, finalists and hypervolume, against brute force and by hand."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.pareto import crowding, finalists, hypervolume, hypervolumes, knee, ranks

Trial = tuple[tuple[float, ...] | None, float]


@st.composite
def trials(draw: st.DrawFn) -> list[Trial]:
    """Few distinct values, so that ties, duplicates and infeasible ones are common."""
    objectives = draw(st.integers(1, 4))
    values = st.tuples(*[st.integers(0, 4).map(float)] * objectives)
    return draw(
        st.lists(st.tuples(st.none() | values, st.sampled_from([-1.0, 0.0, 0.0, 0.5, 2.0])))
    )


def dominates(a: Trial, b: Trial) -> bool:
    """Constraint domination, word for word from Deb et al. 2002."""
    (va, ca), (vb, cb) = a, b
    assert va is not None
    assert vb is not None
    if ca > 0 or cb > 0:
        return max(ca, 0) < max(cb, 0)
    return va != vb and all(x <= y for x, y in zip(va, vb, strict=True))


@settings(deadline=None)
@given(trials())
def test_ranks_are_the_fronts_that_brute_force_peels_off(found: list[Trial]) -> None:
    left = [i for i, (values, _) in enumerate(found) if values is not None]
    expected: list[int | None] = [None] * len(found)
    rank = 0 if any(found[i][1] <= 0 for i in left) else 1
    while left:
        rank += 1
        front = [i for i in left if not any(dominates(found[j], found[i]) for j in left)]
        for i in front:
            expected[i] = rank
        left = [i for i in left if i not in front]
    assert ranks([v for v, _ in found], [c for _, c in found]) == expected


@settings(deadline=None)
@given(trials(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_the_rows(
    found: list[Trial], order: random.Random
) -> None:
    before = ranks([v for v, _ in found], [c for _, c in found])
    at = list(range(len(found)))
    order.shuffle(at)
    assert ranks([found[i][0] for i in at], [found[i][1] for i in at]) == [before[i] for i in at]


def test_rank_one_is_the_front_and_always_feasible() -> None:
    values = [(1.0, 4.0), (2.0, 2.0), (4.0, 1.0), (3.0, 3.0), (0.0, 0.0), (9.0, 9.0), None]
    violations = [0.0, -1.0, 0.0, 0.0, 0.3, 0.1, 0.0]
    assert ranks(values, violations) == [1, 1, 1, 2, 4, 3, None]
    assert ranks(values, [0.5] * 7) == [2, 2, 2, 2, 2, 2, None]
    assert ranks([], []) == []
    assert ranks([None], [0.0]) == [None]


def test_one_objective_is_ranked_by_value() -> None:
    assert ranks([(3.0,), (1.0,), (3.0,), (2.0,)], [0.0] * 4) == [3, 1, 3, 2]


def test_crowding_by_hand() -> None:
    # ranges 4 and 4; the middle ones' neighbours are 0 | 3 and 4 | 0, then 1 | 4 and 3 | 0
    points = [(0.0, 4.0), (1.0, 3.0), (3.0, 0.0), (4.0, 0.0)]
    assert crowding(points).tolist() == pytest.approx([math.inf, 3 / 4 + 4 / 4, math.inf, math.inf])
    assert crowding([(1.0, 1.0), (0.0, 2.0), (1.0, 1.0), (2.0, 0.0)]).tolist() == [
        2.0,
        math.inf,
        0.0,
        math.inf,
    ]
    assert crowding([(1.0, 2.0)]).tolist() == [0.0]
    assert crowding([]).tolist() == []


@settings(deadline=None)
@given(trials(), st.integers(0, 12))
def test_finalists_are_the_best_ranked(found: list[Trial], m: int) -> None:
    values, violations = [v for v, _ in found], [c for _, c in found]
    rank = ranks(values, violations)
    best = finalists(values, violations, m)
    assert len(best) == len(set(best)) == min(m, sum(r is not None for r in rank))
    chosen = [r for r in (rank[i] for i in best) if r is not None]
    assert chosen == sorted(r for r in rank if r is not None)[: len(best)]
    assert best == finalists(values, violations, len(found))[: len(best)]


def test_finalists_of_a_front_are_spread_and_do_not_repeat() -> None:
    front = [(0.0, 10.0), (5.0, 5.0), (5.0, 5.0), (9.0, 1.0), (9.1, 0.9), (10.0, 0.0)]
    assert finalists(front, [0.0] * 6, 3) == [0, 5, 1]
    assert finalists(front, [0.0] * 6, 6)[-1] == 2


def inclusion_exclusion(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    total = 0.0
    for k in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, k):
            corner = np.max(chosen, axis=0)
            total -= (-1) ** k * float(np.prod(np.maximum(np.array(reference) - corner, 0)))
    return total


@settings(deadline=None, max_examples=60)
@given(trials().filter(lambda t: 0 < len(t) <= 7))
def test_hypervolume_agrees_with_inclusion_and_exclusion(found: list[Trial]) -> None:
    known = [v for v, c in found if v is not None and c <= 0]
    objectives = next((len(v) for v, _ in found if v is not None), 2)
    reference = (3.5,) * objectives
    volume = hypervolume([v for v, _ in found], [c for _, c in found], reference)
    inside = [v for v in known if max(v) < 3.5]
    assert volume == pytest.approx(inclusion_exclusion(inside, reference))


@settings(deadline=None, max_examples=60)
@given(trials().filter(lambda t: any(v is not None for v, _ in t)), st.data())
def test_hypervolumes_of_beginnings_are_those_of_their_rows(
    found: list[Trial], data: st.DataObject
) -> None:
    objectives = next(len(v) for v, _ in found if v is not None)
    reference = (3.5,) * objectives
    known = [(v, c) for v, c in found if v is not None]
    counts = sorted(data.draw(st.sets(st.integers(0, len(known)), max_size=4)))
    points = np.array([v if c <= 0 else [math.inf] * objectives for v, c in known])
    expected = [
        hypervolume([v for v, _ in known[:n]], [c for _, c in known[:n]], reference) for n in counts
    ]
    assert hypervolumes(points, counts, reference) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=20))
def test_the_knee_is_farthest_from_the_line_through_both_ends(
    points: list[tuple[int, int]],
) -> None:
    array = np.array(points, np.float64)
    place = knee(array)
    assert place is not None
    low, width = array.min(axis=0), np.maximum(np.ptp(array, axis=0), 1e-12)
    distance = (1 - ((array - low) / width).sum(axis=1)) / math.sqrt(2)
    assert distance[place] == pytest.approx(distance.max())


def test_the_knee_by_hand() -> None:
    front = [(0.0, 10.0), (1.0, 2.0), (5.0, 1.0), (10.0, 0.0)]
    assert knee(front) == 1
    assert knee(front[:2]) is None


def test_hypervolume_by_hand() -> None:
    values = [(1.0, 3.0), (3.0, 1.0), (0.0, 0.0), (9.0, 0.0), None]
    assert hypervolume(values, [0.0, 0.0, 0.1, 0.0, 0.0], (4.0, 4.0)) == pytest.approx(5.0)
    assert hypervolume([], [], (1.0, 1.0)) == 0.0


@pytest.mark.parametrize(
    ("values", "violations", "message"),
    [
        ([(1.0, math.nan)], [0.0], r"values\[0\]"),
        ([None, (1.0, math.inf)], [0.0, 0.0], r"values\[1\]"),
        ([(1.0, 2.0), (1.0,)], [0.0, 0.0], r"values\[1\]"),
        ([()], [0.0], r"values\[0\]"),
        ([(1.0,)], [math.nan], r"violations\[0\]"),
        ([(1.0,)], [], "violations"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    values: list[tuple[float, ...] | None], violations: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ranks(values, violations)


def test_a_reference_point_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        hypervolume([(1.0, 2.0)], [0.0], (3.0,))
    with pytest.raises(ValueError, match="reference"):
        hypervolume([(1.0, 2.0)], [0.0], (3.0, math.inf))
