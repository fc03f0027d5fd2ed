"""Small random moves of a point: inside the space, as long as asked for, the same again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.moves import length_of, small_moves
from optim.space import Space

SPACES = st.sampled_from(
    [
        Space.simplex(4),
        Space(3, 0.0, 1.0, groups=3),
        Space.affine(5),
        Space.task(4, base=1, upper=0.8),
    ]
)


@settings(deadline=None)
@given(SPACES, st.integers(0, 999), st.floats(0.001, 0.3), st.integers(1, 8))
def test_moves_stay_inside_and_within_a_step(
    space: Space, seed: int, step: float, count: int
) -> None:
    point = space.place(np.random.default_rng(seed).normal(size=space.size))
    found = small_moves(space, point, count, step=step, seed=seed)
    assert len(set(found)) == len(found) <= count
    assert found == small_moves(space, point, count + 3, step=step, seed=seed)[: len(found)]
    for moved in found:
        assert space.contains(moved, tolerance=1e-6)
        assert moved != point
        # the grid may add its own little
        assert length_of(space, point, moved) <= step + 2e-6 * space.n


@pytest.mark.parametrize("space", [Space.affine(5), Space(3, -0.5, 1.5, groups=2)])
def test_free_moves_are_as_long_as_the_step(space: Space) -> None:
    found = small_moves(space, space.centre, 20, step=0.05)
    assert len(found) == 20
    lengths = [length_of(space, space.centre, moved) for moved in found]
    assert lengths == pytest.approx([0.05] * 20, abs=1e-5)
    other = small_moves(space, space.centre, 20, step=0.05, seed=1)
    assert not set(found) & set(other)


def test_the_unit_is_the_way_from_one_checkpoint_to_another() -> None:
    space = Space(3, 0.0, 1.0, groups=2)
    assert length_of(space, (1, 0, 0) * 2, (0, 0, 1) * 2) == pytest.approx(1)
    assert length_of(space, (1, 0, 0) * 2, (0.5, 0.5, 0) * 2) == pytest.approx(0.5)


def test_what_cannot_be_moved() -> None:
    assert small_moves(Space.simplex(1), (1.0,), 3, step=0.1) == []
    with pytest.raises(ValueError, match="step"):
        small_moves(Space.simplex(2), (0.5, 0.5), 1, step=0)
    with pytest.raises(ValueError, match="point"):
        small_moves(Space.simplex(2), (0.7, 0.7), 1, step=0.1)
