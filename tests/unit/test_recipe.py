"""A recipe names a candidate: its digest must be stable, exact and complete."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.recipe import Group, Recipe
from optim.tensor_names import KINDS

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


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes with groups and columns."""
    count = draw(st.integers(1, 4))
    row = st.lists(finite, min_size=count, max_size=count).filter(any)
    bounds = st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted)
    words = st.lists(st.text(min_size=1), min_size=1, max_size=3)
    kinds = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)
    group = st.fixed_dictionaries({"weights": row}, optional={"names": words, "kinds": kinds})
    groups = [
        Group(layers=tuple(draw(bounds)), **part)  # type: ignore[arg-type]
        for part in draw(st.lists(group, max_size=3))
    ]
    column = st.integers(1, 3).flatmap(
        lambda size: st.lists(
            st.lists(finite, min_size=size, max_size=size), min_size=count, max_size=count
        )
    )
    return Recipe(
        parents=tuple(f"p{i}" for i in range(count)),
        weights=tuple(draw(row)),
        groups=tuple(groups),
        columns=draw(st.dictionaries(st.text(), column, max_size=2)),
    )


@given(recipes())
def test_groups_and_columns_come_back_through_json(recipe: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert (again.digest, hash(again)) == (recipe.digest, hash(recipe))


def test_the_first_group_that_covers_a_tensor_decides() -> None:
    recipe = Recipe(
        parents=("a", "b"),
        weights=(1, 0),
        groups=(
            Group(layers=(0, 1), kinds=("attention",), weights=(0, 1)),
            Group(layers=(1, 2), weights=(0.5, 0.5)),
            Group(names=("lm_head", "norm"), weights=(0.25, 0.75)),
        ),
        columns={"model.layers.0.mlp.up_proj.weight": [[1.0, 0.0], [0.0, 1.0]]},  # type: ignore[dict-item]
    )
    found = {
        "model.layers.0.self_attn.q_proj.weight": (0, 1),
        "model.layers.1.self_attn.q_proj.weight": (0, 1),
        "model.layers.1.input_layernorm.weight": (0.5, 0.5),
        "model.layers.0.input_layernorm.weight": (0.25, 0.75),
        "model.layers.3.mlp.up_proj.weight": (1, 0),
        "lm_head.weight": (0.25, 0.75),
    }
    assert {name: recipe.weights_of(name) for name in found} == found
    assert recipe.used(["model.layers.3.mlp.up_proj.weight"]) == (0, 1)
    assert Recipe(parents=("a", "b"), weights=(1, 0)).used(found) == (0,)


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"other": (2, 2)}, "has no such tensor|no such tensor"),
        ({"w": (2, 3)}, "2 coefficients, but its last axis has 3"),
    ],
)
def test_columns_must_fit_the_tensors(shapes: dict[str, tuple[int, ...]], word: str) -> None:
    recipe = Recipe(parents=("a",), weights=(1,), columns={"w": ((1.0, 2.0),)})
    recipe.check_tensors({"w": (5, 2), "other": ()})
    with pytest.raises(ValueError, match=word):
        recipe.check_tensors(shapes)


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
        ({"version": 1}, "recipe.version"),
        ({"groups": (Group(layers=(0, 1), weights=(1,)),)}, r"recipe.groups\[0\].weights"),
        ({"groups": (Group(layers=(0, 1), weights=(0, 0)),)}, r"groups\[0\].weights: all zero"),
        ({"groups": (Group(weights=(1, 0)),)}, r"groups\[0\]: covers every tensor"),
        ({"groups": (Group(layers=(2, 1), weights=(1, 0)),)}, r"groups\[0\].layers"),
        ({"groups": (Group(kinds=("atention",), weights=(1, 0)),)}, r"groups\[0\].kinds"),
        ({"groups": (Group(names=("",), weights=(1, 0)),)}, r"groups\[0\].names"),
        ({"columns": {"w": ((1.0,),)}}, r"recipe.columns\['w'\]: 1 rows for 2 parents"),
        ({"columns": {"w": ((1.0,), ())}}, r"recipe.columns\['w'\]"),
        ({"columns": {"w": ((1.0,), (float("inf"),))}}, r"recipe.columns\['w'\]: not finite"),
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
    with pytest.raises(ValueError, match=r"groups\[0\]: unknown keys \['layer'\]; known are"):
        Recipe.from_dict({**data, "groups": [{"layer": [0, 1], "weights": [1.0]}]})
    with pytest.raises(ValueError, match=r"groups\[0\]: has no weights"):
        Recipe.from_dict({**data, "groups": [{"layers": [0, 1]}]})


def test_one_hot() -> None:
    assert Recipe.one_hot(("a", "b", "c"), 1).weights == (0.0, 1.0, 0.0)
