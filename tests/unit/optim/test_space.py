"""The space of weights: projection, coordinates, and the grid that suggestions lie on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.space import GRID, Space, check_weights

spaces = st.one_of(
    st.builds(Space.simplex, st.integers(1, 20)),
    st.builds(Space.affine, st.integers(1, 20)),
    st.sampled_from(
        [
            Space(5, 0.1, 0.3),
            Space(4, 0.25, 0.25),
            Space(4, -2.0, 0.250001),
            Space(3, 0, 0.4),
            Space(3, (0.1, -1.0, 0.0), (0.6, 0.5, 2.0)),
            Space(3, -0.5, 1.5, groups=4),
            Space.task(4, base=2, lower=-0.3),
        ]
    ),
)


@st.composite
def spaces_and_points(draw: st.DrawFn, points: int = 1) -> tuple[Space, list[np.ndarray]]:
    space = draw(spaces)
    value = st.floats(-1e3, 1e3, allow_nan=False)
    vector = st.lists(value, min_size=space.size, max_size=space.size).map(np.array)
    return space, [draw(vector) for _ in range(points)]


@settings(deadline=None)
@given(spaces_and_points(points=2))
def test_the_projection_is_the_nearest_point_of_the_space(
    case: tuple[Space, list[np.ndarray]],
) -> None:
    space, (x, y) = case
    near, other = space.project(x), space.project(y)
    assert space.contains(near)
    assert space.project(near) == pytest.approx(near, abs=1e-12)
    # the angle at a projection onto a convex set is never sharp
    assert (x - near) @ (other - near) <= 1e-8 * (1 + np.abs(x).max())


@pytest.mark.parametrize(
    ("space", "x", "expected"),
    [
        (Space.simplex(3), [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        (Space.simplex(3), [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        (Space.simplex(3), [1.0, 1.0, -3.0], [0.5, 0.5, 0.0]),
        (Space.simplex(2), [0.9, 0.5], [0.7, 0.3]),
        (Space(3, 0, 0.4), [1.0, 0.0, 0.0], [0.4, 0.3, 0.3]),
        (Space.affine(2), [3.0, -3.0], [1.5, -0.5]),
        (Space.simplex(4), [0.0, 0.0, 0.0, 0.0], [0.25] * 4),
    ],
)
def test_projections_computed_by_hand(space: Space, x: list[float], expected: list[float]) -> None:
    assert space.project(x).tolist() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(spaces_and_points())
def test_rounding_gives_the_grid_point_next_to_it_inside_the_space(
    case: tuple[Space, list[np.ndarray]],
) -> None:
    space, (x,) = case
    near = space.project(x)
    rounded = space.round(near)
    whole = [round(w * GRID) for w in rounded]
    assert (np.reshape(whole, (space.groups, space.n)).sum(axis=1) == GRID).all()
    assert [w / GRID for w in whole] == list(rounded)
    assert space.contains(rounded, tolerance=1e-12)
    assert np.abs(near - rounded).max() < 2 / GRID
    assert space.round(rounded) == rounded
    assert space.round(space.project(rounded)) == rounded


def test_task_arithmetic_is_a_box_whose_base_takes_the_rest() -> None:
    space = Space.task(3, base=0, upper=0.5)
    assert space.contains([0.0, 0.5, 0.5])
    assert space.contains([1.0, 0.0, 0.0])
    assert not space.contains([0.4, 0.6, 0.0])
    assert space.centre == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match=r"space\.base: 3"):
        Space.task(3, base=3)


def test_groups_have_rows_of_their_own() -> None:
    space = Space(2, 0, 1, groups=2)
    assert (space.size, space.dimension) == (4, 2)
    assert space.project([2.0, 0.0, 0.9, 0.5]) == pytest.approx([1.0, 0.0, 0.7, 0.3])
    assert space.repeated([0.25, 0.75]) == (0.25, 0.75, 0.25, 0.75)
    assert not space.contains([0.75, 0.75, 0.25, 0.25])


def test_one_parent_alone_is_a_grid_point() -> None:
    assert Space.simplex(3).round([0.0, 1.0, 0.0]) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("n", [2, 3, 12, 16])
def test_the_basis_is_orthonormal_and_spans_the_hyperplane(n: int) -> None:
    space = Space.affine(n)
    assert space.basis.shape == (n, n - 1)
    assert space.basis.T @ space.basis == pytest.approx(np.eye(n - 1), abs=1e-12)
    assert space.basis.sum(axis=0) == pytest.approx(np.zeros(n - 1), abs=1e-12)


@settings(deadline=None)
@given(spaces_and_points())
def test_coordinates_and_weights_are_two_names_of_a_point(
    case: tuple[Space, list[np.ndarray]],
) -> None:
    space, (x,) = case
    w = space.project(x)
    assert space.embed(space.coordinates(w)) == pytest.approx(w, abs=1e-10)
    z = space.coordinates(x)
    rows = space.embed(z).reshape(space.groups, space.n)
    assert rows.sum(axis=1) == pytest.approx(np.ones(space.groups), abs=1e-8)
    assert space.coordinates(space.embed(z)) == pytest.approx(z, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "lower", "upper", "message"),
    [
        (0, 0, 1, "space.n"),
        (3, 0.4, 1, "cannot sum to 1"),
        (3, 0, 0.3, "cannot sum to 1"),
        (3, 1, 0, "space.lower"),
        (3, -math.inf, 1, "space.lower"),
        (3, 0, math.nan, "space.upper"),
        (3, (0, 0), 1, "space.lower: 2 bounds for 3 parents"),
    ],
)
def test_impossible_bounds_are_refused(n: int, lower: float, upper: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space(n, lower, upper)


def test_what_lies_outside_is_told_apart() -> None:
    space = Space.simplex(3)
    assert space.contains([0.5, 0.5, 0.0])
    assert not space.contains([0.5, 0.6, -0.1])
    assert not space.contains([0.5, 0.4, 0.0])
    assert not space.contains([0.5, 0.5])
    assert not space.contains([math.nan, 0.5, 0.5])
    with pytest.raises(ValueError, match="trial 7: "):
        check_weights(space, [0.5, 0.4, 0.0], field="trial 7")


def test_a_point_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="3 finite numbers"):
        Space.simplex(3).project([0.0, math.inf, 0.0])
    with pytest.raises(ValueError, match="3 finite numbers"):
        Space.simplex(3).project([0.0, 1.0])
