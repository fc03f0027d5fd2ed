"""Weightings of the objectives: the simplex lattice and the spreads made of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.search.directions import directions, lattice


@given(st.integers(1, 6), st.integers(1, 6))
def test_the_lattice_has_every_weighting_in_equal_steps(axes: int, steps: int) -> None:
    points = lattice(axes, steps)
    assert points.shape == (math.comb(steps + axes - 1, axes - 1), axes)
    assert len(np.unique(points, axis=0)) == len(points)
    assert points.sum(axis=1) == pytest.approx(np.ones(len(points)))
    assert (points * steps) == pytest.approx(np.rint(points * steps))
    assert (points >= 0).all()


def test_lattices_by_hand() -> None:
    assert lattice(2, 2).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert lattice(3, 1).tolist() == np.eye(3).tolist()
    assert directions(2, 3).tolist() == [[0.5, 0.5], [1, 0], [0, 1]]
    assert directions(2, 2).tolist() == [[0.5, 0.5]]
    assert directions(1, 9).tolist() == [[1.0]]
    assert len(directions(3, 4)) == 4
    assert len(directions(3, 10)) == 10


@given(st.integers(1, 6), st.integers(1, 60))
def test_directions_fit_and_begin_with_equal_shares(axes: int, most: int) -> None:
    found = directions(axes, most)
    assert 1 <= len(found) <= most
    assert found[0] == pytest.approx(np.full(axes, 1 / axes))
    assert len(np.unique(found.round(9), axis=0)) == len(found)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)))
