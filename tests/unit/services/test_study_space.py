"""Spaces of studies: which tensors share weights, and that a point becomes the recipe it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.recipe import Recipe
from services.errors import SpecRefused
from services.registry import Member, Pool, layers_of
from services.spec import Groups, Search
from services.studies.space import REST, cut, make_recipe, make_space, parts_of

POOL = Pool(
    id=1,
    name="p",
    reference="b",
    members=tuple(
        Member(name=n, uri="", digest=n * 64, parameters=1, dtype="bfloat16", files={})
        for n in "abc"
    ),
    layers=6,
)
TENSORS = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] + [
    f"model.layers.{layer}.{part}.weight"
    for layer in range(6)
    for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
]


def search(**more: Any) -> Search:
    return Search.model_validate(more)


@given(st.integers(1, 80), st.data())
def test_stretches_are_equal_and_hold_every_layer_once(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    parts = parts_of(Groups(layers=count), replace(POOL, layers=layers))
    spans = [part.layers or (0, 0) for part in parts]
    assert [i for first, last in spans for i in range(first, last + 1)] == list(range(layers))
    sizes = {last - first + 1 for first, last in spans}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        ("model", []),
        ("kinds", ["attention", "mlp"]),
        ({"layers": 2}, ["layers 0–2", "layers 3–5"]),
        ({"layers": 1}, ["layers 0–5"]),
        (
            {"layers": 2, "kinds": True},
            ["attention, layers 0–2", "mlp, layers 0–2", "attention, layers 3–5",
             "mlp, layers 3–5"],
        ),
        ({"layers": 6}, [f"layer {i}" for i in range(6)]),
    ],
)  # fmt: skip
def test_groups_and_their_recipe(groups: Any, labels: list[str]) -> None:
    spec = search(groups=groups)
    assert [part.label for part in parts_of(spec.groups, POOL)] == labels
    space = make_space(spec, POOL, "b")
    assert space.groups == len(labels) + 1
    # every row is another point, so that each tensor tells whose weights it has
    rows = [(i / 100, 1 - i / 50, i / 100) for i in range(space.groups)]
    recipe = make_recipe(spec, POOL, [w for row in rows for w in row])
    assert recipe.dtype == "bfloat16"
    for tensor in TENSORS:
        assert recipe.weights_of(tensor) == rows[expected(tensor, labels)]


def expected(tensor: str, labels: list[str]) -> int:
    """Which row a tensor's weights stand in, from the names of the groups alone."""
    layer = int(tensor.split(".")[2]) if ".layers." in tensor else None
    kind = "attention" if "attn" in tensor else "mlp" if "mlp" in tensor else None
    for row, label in enumerate(labels):
        *kinds, span = label.split(", ") if "layer" in label else [label, ""]
        numbers = [
            int(n) for n in span.replace("layers ", "").replace("layer ", "").split("–") if n
        ]
        if kinds and kinds[0] != kind:
            continue
        if numbers and (layer is None or not numbers[0] <= layer <= numbers[-1]):
            continue
        return row
    return len(labels)


def test_equal_rows_are_a_plain_recipe() -> None:
    spec = search(groups={"layers": 3, "kinds": True})
    space = make_space(spec, POOL, "b")
    recipe = make_recipe(spec, POOL, space.repeated((0.0, 1.0, 0.0)))
    assert recipe == Recipe.one_hot(POOL.digests, 1, "bfloat16")
    assert cut(space.repeated((0.2, 0.3, 0.5)), 3) == ((0.2, 0.3, 0.5),) * 7


def test_the_task_space_leaves_the_rest_to_the_base() -> None:
    space = make_space(search(space="task", groups="kinds"), POOL, "b")
    assert (space.n, space.groups) == (3, 3)
    assert list(space.low) == [0, -1, 0]
    assert list(space.high) == [1, 1, 1]
    other = make_space(search(space="task", base="c", bounds=(-0.2, 0.6)), POOL, "b")
    assert list(other.low) == pytest.approx([-0.2, -0.2, -0.2])
    assert list(other.high) == pytest.approx([0.6, 0.6, 1.4])


@pytest.mark.parametrize(
    ("more", "layers", "message"),
    [
        ({"groups": {"layers": 7}}, 6, "groups.layers: 7 stretches of layers, but the model has 6"),
        ({"groups": {"layers": 2}}, None, "does not say how many layers.*Leave layers out"),
        ({"space": "task", "base": "z"}, 6, "search.base: 'z' is not in pool 'p'.*a, b, c"),
        ({"bounds": (0.5, 0.9)}, 6, "search.bounds: .*cannot sum to 1"),
    ],
)
def test_refusals_name_the_field(more: dict[str, Any], layers: int | None, message: str) -> None:
    with pytest.raises(SpecRefused, match=message):
        make_space(search(**more), replace(POOL, layers=layers), "b")


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_hidden_layers": 30}, 30),
        ({"n_layer": 12}, 12),
        ({"text_config": {"num_hidden_layers": 8}}, 8),
        ({"model_type": "llama"}, None),
    ],
)
def test_layers_are_read_from_the_configuration(config: dict[str, Any], layers: int | None) -> None:
    assert layers_of(config) == layers


def test_the_rest_has_a_name_of_its_own() -> None:
    assert REST not in [part.label for part in parts_of(Groups(layers=2, kinds=True), POOL)]
