"""A recipe names a candidate: its digest must be stable, exact and complete."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.recipe import Recipe

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=8).filter(any))
def test_json_round_trip_keeps_every_bit(weights: list[float]) -> None:
    recipe = Recipe(parents=tuple(f"p{i}" for i in range(len(weights))), weights=tuple(weights))
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize(
    "change",
    [{"weights": (0.25, 0.75)}, {"parents": ("b", "a")}, {"dtype": "bfloat16"}],
)
def test_digest_depends_on_every_part(change: dict[str, object]) -> None:
    base: dict[str, object] = {"parents": ("a", "b"), "weights": (0.5, 0.5), "dtype": "float32"}
    assert Recipe(**base).digest != Recipe(**{**base, **change}).digest  # type: ignore[arg-type]


def test_digest_is_pinned() -> None:
    # stored recipes of old studies must keep their names
    recipe = Recipe(parents=("a", "b"), weights=(0.5, 0.5))
    assert recipe.digest == ("f3507fb863bf79698f808f37493c0accd05e52d79b9a6c379e11c1791d48fc83")


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"parents": ()}, "recipe.parents"),
        ({"parents": ("a", "a")}, "recipe.parents"),
        ({"weights": (1.0,)}, "recipe.weights"),
        ({"weights": (float("nan"), 1.0)}, "recipe.weights"),
        ({"weights": (float("inf"), 1.0)}, "recipe.weights"),
        ({"weights": (0.0, 0.0)}, "recipe.weights"),
        ({"dtype": "int8"}, "recipe.dtype"),
        ({"operator": "ties"}, "recipe.operator"),
        ({"version": 99}, "recipe.version"),
    ],
)
def test_broken_recipes_name_the_field(broken: dict[str, object], field: str) -> None:
    base: dict[str, object] = {"parents": ("a", "b"), "weights": (0.5, 0.5)}
    with pytest.raises(ValueError, match=field):
        Recipe(**{**base, **broken})  # type: ignore[arg-type]


def test_unknown_keys_are_errors() -> None:
    data = Recipe(parents=("a",), weights=(1.0,)).to_dict()
    with pytest.raises(ValueError, match="colour"):
        Recipe.from_dict({**data, "colour": "red"})


def test_one_hot() -> None:
    assert Recipe.one_hot(("a", "b", "c"), 1).weights == (0.0, 1.0, 0.0)
