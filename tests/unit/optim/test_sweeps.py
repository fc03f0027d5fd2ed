"""Softmax, interpolation and growing soups: their recipes by hand, and when they end."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest

from optim.search import Observation, Searcher, make_searcher, quality
from optim.space import Space

Weights = tuple[float, ...]
Judge = Callable[[np.ndarray], tuple[tuple[float, ...], float]]


def observed(slot: str, weights: Weights, judge: Judge) -> Observation:
    values, violation = judge(np.array(weights))
    return Observation(slot, weights, values, violation, "complete")


def singles(space: Space, judge: Judge) -> list[Observation]:
    corners = [space.repeated(row) for row in np.eye(space.n).tolist()]
    return [observed(f"single.{i}", w, judge) for i, w in enumerate(corners)]


def swept(searcher: Searcher, judge: Judge) -> list[list[Observation]]:
    """Generations until the sweep is over."""
    rows: list[Observation] = []
    generations = []
    while asked := searcher.ask(rows, 1000):
        generations.append([observed(one.slot, one.weights, judge) for one in asked])
        rows += generations[-1]
    return generations


def sweep(method: str, judge: Judge, space: Space, objectives: int = 1, **options: object):  # type: ignore[no-untyped-def]
    searcher = make_searcher(
        method,
        space=space,
        objectives=objectives,
        seed=0,
        options=options,
        known=singles(space, judge),
    )
    return searcher, swept(searcher, judge)


def bowl(*target: float) -> Judge:
    return lambda w: ((float(((w - np.array(target)) ** 2).sum()),), 0.0)


def test_softmax_by_hand() -> None:
    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        return (float(w @ [2.0, 3.0, 6.0]),), 0.0

    _, generations = sweep("softmax", judge, Space.simplex(3), temperatures=[0.5, 1.0])
    # losses 2, 3, 6 are 0, 1/4 and 1 of their range
    for row, tau in zip(generations[0], (0.5, 1.0), strict=True):
        mass = [math.exp(-loss / tau) for loss in (0, 0.25, 1)]
        assert row.weights == pytest.approx([m / sum(mass) for m in mass], abs=2e-6)
    # the cooler the better here: it goes on at √(0.5 · 1), the only neighbour of the best
    (middle,) = generations[1]
    mass = [math.exp(-loss / math.sqrt(0.5)) for loss in (0, 0.25, 1)]
    assert middle.weights == pytest.approx([m / sum(mass) for m in mass], abs=2e-6)


def test_softmax_has_a_line_for_every_weighting_of_the_objectives() -> None:
    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        return (-float(w[0]), -float(w[1])), 0.0

    _, (first, *_) = sweep("softmax", judge, Space.simplex(3), 2, temperatures=[0.1], weightings=3)
    both, left, right = (row.weights for row in first)
    assert both[0] == both[1] > 0.49
    assert left[0] > 0.99
    assert right[1] > 0.99


@pytest.mark.parametrize("method", ["softmax", "greedy", "bcwi"])
def test_a_sweep_begins_with_the_checkpoints_if_nothing_is_known(method: str) -> None:
    space, judge = Space.simplex(4), bowl(0.4, 0.3, 0.2, 0.1)
    searcher = make_searcher(method, space=space, objectives=1, seed=0)
    alone, *later = swept(searcher, judge)
    assert [row.weights for row in alone] == [tuple(row) for row in np.eye(4).tolist()]
    # and then does what it would have done had they been known
    _, known = sweep(method, judge, space)
    assert [[r.weights for r in g] for g in later] == [[r.weights for r in g] for g in known]


def test_a_sweep_repeats_its_weights_in_every_group() -> None:
    space, judge = Space(2, 0.0, 1.0, groups=3), bowl(0.6, 0.4, 0.6, 0.4, 0.6, 0.4)
    for method in ("softmax", "greedy", "bcwi"):
        for row in chain(*sweep(method, judge, space)[1]):
            assert row.weights[:2] * 3 == row.weights


def test_bcwi_by_hand() -> None:
    """The best α is found between the reference and the candidate, ever more finely."""
    space, judge = Space.simplex(3), bowl(0.7, 0.3, 0.0)
    _, generations = sweep(
        "bcwi", judge, space, reference=[1, 0, 0], targets=1, alphas=[0.25, 0.5, 0.75]
    )
    alphas = [sorted(row.weights[1] for row in rows) for rows in generations]
    assert all(row.weights[2] == 0 for rows in generations for row in rows)
    assert alphas[0] == [0.25, 0.5, 0.75]
    assert alphas[1] == [0.125, 0.375]
    assert alphas[2] == [0.1875, 0.3125]
    best = min(chain(*generations), key=quality)
    assert best.weights[1] == pytest.approx(0.3, abs=1 / 64)
    assert alphas[3] == [0.28125, 0.34375]
    assert len(generations) == 4


def test_bcwi_stays_where_the_constraint_holds() -> None:
    """Better the nearer to the candidate, but only two fifths of the way are allowed."""

    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        return (-float(w[1]),), float(w[1]) - 0.4

    _, generations = sweep("bcwi", judge, Space.simplex(2), reference=[1, 0])
    best = min(chain(*generations), key=quality)
    assert 0.4 - 1 / 32 <= best.weights[1] <= 0.4


def test_bcwi_takes_the_front_of_what_is_known_for_targets() -> None:
    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        # parent 2 is the worst in both
        return (-float(w[1]), -float(w[3])), 0.0

    _, generations = sweep("bcwi", judge, Space.simplex(4), 2, reference=[1, 0, 0, 0], targets=2)
    assert all(row.weights[2] == 0 for rows in generations for row in rows)
    assert {np.flatnonzero(row.weights)[1] for row in generations[0]} == {1, 3}


def test_bcwi_refuses_a_reference_of_another_pool() -> None:
    with pytest.raises(ValueError, match=r"search\.options\.reference: 2 weights for 3"):
        make_searcher(
            "bcwi", space=Space.simplex(3), objectives=1, seed=0, options={"reference": [1, 0]}
        )


def test_greedy_by_hand() -> None:
    """Towards (2/3, 1/3, 0): parent 0 is the best alone, then 1 joins, then 0 again."""
    space, judge = Space.simplex(3), bowl(2 / 3, 1 / 3, 0.0)
    _, generations = sweep("greedy", judge, space, members=4)
    seen = [{tuple(np.round(row.weights, 3)) for row in rows} for rows in generations]
    # a second parent 0 would change nothing: its result is known
    assert seen[0] == {(0.5, 0.5, 0.0), (0.5, 0.0, 0.5)}
    assert seen[1] == {(0.667, 0.333, 0.0), (0.333, 0.667, 0.0), (0.333, 0.333, 0.333)}
    best = min(chain(*generations), key=quality)
    assert best.weights == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-6)
    assert seen[2] == {(0.75, 0.25, 0.0), (0.5, 0.25, 0.25)}
    assert len(generations) == 3


def test_greedy_takes_finer_steps_where_none_of_its_size_helps() -> None:
    """Half a step is too long: only with parent 0 counted twice may parent 1 join."""
    space, judge = Space.simplex(2), bowl(0.8, 0.2)
    _, generations = sweep("greedy", judge, space, members=8)
    best = min(chain(*generations), key=quality)
    assert best.weights == pytest.approx([0.8, 0.2], abs=1e-6)


def test_greedy_grows_a_soup_for_every_weighting() -> None:
    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        return (abs(float(w[0]) - 0.75), abs(float(w[1]) - 0.75)), 0.0

    _, generations = sweep("greedy", judge, Space.simplex(3), 2, weightings=3, members=8)
    rows = list(chain(*generations))
    assert min(row.values[0] for row in rows) == pytest.approx(0, abs=1e-6)
    assert min(row.values[1] for row in rows) == pytest.approx(0, abs=1e-6)


def test_greedy_keeps_to_the_best_parents_and_to_feasible_soups() -> None:
    def judge(w: np.ndarray) -> tuple[tuple[float, ...], float]:
        return (-float(w @ [1.0, 2.0, 3.0, 4.0]),), float(w[3]) - 0.5

    _, generations = sweep("greedy", judge, Space.simplex(4), parents=2, members=8)
    rows = list(chain(*generations))
    # parents 2 and 1 are the best feasible ones
    assert all(row.weights[0] == row.weights[3] == 0 for row in rows)


@pytest.mark.parametrize("method", ["softmax", "greedy", "bcwi"])
def test_a_checkpoint_that_cannot_be_evaluated_is_left_out(method: str) -> None:
    searcher = make_searcher(method, space=Space.simplex(3), objectives=1, seed=0)
    judge = bowl(0.6, 0.4, 0.0)
    rows = [observed(one.slot, one.weights, judge) for one in searcher.ask([], 9)]
    rows[2] = Observation(rows[2].slot, rows[2].weights, state="failed")
    while asked := searcher.ask(rows, 99):
        assert all(one.weights[2] == 0 for one in asked)
        rows += [observed(one.slot, one.weights, judge) for one in asked]
    assert len(rows) > 5
