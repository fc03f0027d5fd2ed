"""Recipes as mergekit YAML and back; what cannot be expressed is named."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optim.recipe import Group, Recipe
from services.errors import BadInput
from services.mergekit import from_mergekit, to_mergekit
from services.model_card import model_card

RECIPE = Recipe(parents=("a" * 64, "b" * 64, "c" * 64), weights=(0.75, 0.0, -0.5), dtype="bfloat16")
NAMES = {"a" * 64: "org/first", "b" * 64: "second", "c" * 64: "/models/third"}


def test_what_mergekit_reads() -> None:
    assert yaml.safe_load(to_mergekit(RECIPE, NAMES)) == {
        "merge_method": "linear",
        "models": [
            {"model": "org/first", "parameters": {"weight": 0.75}},
            {"model": "/models/third", "parameters": {"weight": -0.5}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


WEIGHTS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6).filter(any)


@given(weights=WEIGHTS, dtype=st.sampled_from(["float32", "bfloat16", "float16"]))
def test_there_and_back(weights: list[float], dtype: str) -> None:
    parents = tuple(f"{i:064x}" for i in range(len(weights)))
    recipe = Recipe(parents=parents, weights=tuple(weights), dtype=dtype)
    text = to_mergekit(recipe, {parent: f"m{parent}" for parent in parents})
    back = from_mergekit(text, where="x")
    used = [(f"m{p}", w) for p, w in zip(parents, recipe.weights, strict=True) if w]
    assert list(zip(back.models, back.weights([])[0], strict=True)) == used
    assert back.dtype == dtype


@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=6))
def test_weights_are_normalised_unless_told_otherwise(weights: list[float]) -> None:
    models = [{"model": f"m{i}", "parameters": {"weight": w}} for i, w in enumerate(weights)]
    config = {"merge_method": "linear", "models": models}
    found, groups = from_mergekit(yaml.safe_dump(config), where="x").weights([])
    assert groups == ()
    assert math.isclose(sum(found), 1)
    assert all(math.isclose(f * sum(weights), w) for f, w in zip(found, weights, strict=True))
    config["parameters"] = {"normalize": False}
    assert from_mergekit(yaml.safe_dump(config), where="x").weights([])[0] == tuple(weights)


def test_one_weight_for_all_and_dtypes() -> None:
    text = "{merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 2}}"
    found = from_mergekit(text, where="x")
    assert (found.models, found.dtype) == (("a", "b"), None)
    assert found.weights([]) == ((0.5, 0.5), ())
    for line, dtype in (
        ("dtype: float16", "float16"),
        ("dtype: float32\nout_dtype: bfloat16", "bfloat16"),
    ):
        config = (
            f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}]\n{line}\n"
        )
        assert from_mergekit(config, where="x").dtype == dtype


ONE = "models: [{model: a, parameters: {weight: 1}}]"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", r"m\.yaml:\d: is not YAML"),
        ("- 1", "is no mergekit configuration"),
        ("", "is no mergekit configuration"),
        (f"merge_method: ties\n{ONE}", "merge_method 'ties' cannot be expressed"),
        (ONE, "merge_method 'None' cannot"),
        (f"merge_method: linear\nbase_model: b\n{ONE}", "base_model cannot be expressed"),
        (f"merge_method: linear\ntokenizer_source: union\n{ONE}", "tokenizer_source cannot"),
        (f"merge_method: linear\nchat_template: auto\n{ONE}", "another chat template"),
        ("merge_method: linear\nslices: [{sources: []}]", "layers taken from different models"),
        (f"merge_method: linear\nsurprise: 1\n{ONE}", "unknown key 'surprise'"),
        ("merge_method: linear", "names no models"),
        ("merge_method: linear\nmodels: [a]", r"models\[0\]: is more than a model"),
        ("merge_method: linear\nmodels: [{model: a, layer_range: [0, 4]}]", "is more than a model"),
        ("merge_method: linear\nmodels: [{model: a}]", "weight is None, not a number"),
        ("merge_method: linear\nmodels: [{parameters: {weight: 1}}]", "not a path or a hub id"),
        (ONE.replace("1}", ".nan}") + "\nmerge_method: linear", "weight is nan"),
        (ONE.replace("1}", "[0, {filter: a}]}") + "\nmerge_method: linear", "mixes numbers and"),
        (ONE.replace("1}", "{filter: mlp, value: 1}}") + "\nmerge_method: linear", "no weight for"),
        (ONE.replace("1}", "{filter: 3, value: 1}}") + "\nmerge_method: linear", "is no text"),
        (ONE.replace("1}", "{value: many}}") + "\nmerge_method: linear", "weight is many"),
        (ONE.replace("weight", "density") + "\nmerge_method: linear", "'density' cannot be"),
        (ONE.replace("model: a", "model: a+lora") + "\nmerge_method: linear", "adds a LoRA"),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, "
            "{model: a, parameters: {weight: 2}}]",
            "names a model twice",
        ),
        (f"merge_method: linear\ndtype: int8\n{ONE}", "dtype 'int8' is not known"),
        (f"merge_method: linear\nparameters: {{normalize: 3}}\n{ONE}", "normalize is 3"),
        (f"merge_method: linear\nparameters: [1]\n{ONE}", "parameters are no mapping"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_what_cannot_be_expressed(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        from_mergekit(text, where="m.yaml")
    assert caught.value.mend


TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(3) for part in ("self_attn.q_proj", "mlp")),
    "model.norm.weight",
    "lm_head.weight",
]


def resolved(weight_a: str, weight_b: str, *, normalize: bool = False) -> dict[str, tuple]:
    """The weights of every tensor of `TENSORS`."""
    text = (
        f"merge_method: linear\nparameters: {{normalize: {str(normalize).lower()}}}\nmodels:\n"
        f"- {{model: a, parameters: {{weight: {weight_a}}}}}\n"
        f"- {{model: b, parameters: {{weight: {weight_b}}}}}\n"
    )
    weights, groups = from_mergekit(text, where="m.yaml").weights(TENSORS)
    recipe = Recipe(parents=("a", "b"), weights=weights, groups=groups)
    return {name: recipe.weights_of(name) for name in TENSORS}


def test_gradients_run_from_the_embedding_to_the_output() -> None:
    found = resolved("[0, 1, 0.5]", "1")
    assert [found[name][0] for name in TENSORS] == [0, 0, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert all(row[1] == 1 for row in found.values())
    # two values over three layers: the middle one is between them; normalised tensor by tensor
    middle = resolved("[1, 2]", "0.5", normalize=True)["model.layers.1.mlp.weight"]
    assert middle == (0.75, 0.25)


def test_filters_become_groups() -> None:
    found = resolved("[{filter: mlp, value: [0, 1]}, {filter: lm_head, value: 3}, {value: 1}]", "2")
    assert [found[f"model.layers.{i}.mlp.weight"] for i in range(3)] == [(0, 2), (0.5, 2), (1, 2)]
    assert found["lm_head.weight"] == (3, 2)
    assert found["model.norm.weight"] == found["model.layers.0.self_attn.q_proj.weight"] == (1, 2)


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        (
            "[{filter: mlp, value: 1}, {value: 0}]",
            "[{filter: attn, value: 1}, {value: 0}]",
            "not those of the other models",
        ),
        ("[{filter: weight, value: [0, 1]}, {value: 0}]", "1", "fits 'model.embed_tokens.weight'"),
    ],
)
def test_filters_that_cannot_be_groups(a: str, b: str, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        resolved(a, b)


def test_weights_that_cannot_be_normalised() -> None:
    with pytest.raises(BadInput, match="sum to 0"):
        resolved("1", "-1", normalize=True)


def test_groups_by_name_there_and_back() -> None:
    groups = (
        Group(names=("mlp", "attn"), weights=(0.25, 0.75)),
        Group(names=("norm",), weights=(1, 0)),
    )
    recipe = Recipe(parents=("a", "b"), weights=(0.5, 0.5), groups=groups)
    back = from_mergekit(to_mergekit(recipe, {"a": "x", "b": "y"}), where="x")
    weights, found = back.weights(TENSORS)
    again = Recipe(parents=("a", "b"), weights=weights, groups=found)
    assert [again.weights_of(n) for n in TENSORS] == [recipe.weights_of(n) for n in TENSORS]


@pytest.mark.parametrize(
    ("more", "what", "said"),
    [
        (
            {"groups": (Group(layers=(0, 1), weights=(1, 0)),)},
            "groups by layer or module kind",
            "| parent | layers 0–1 | other tensors | digest |",
        ),
        (
            {"groups": tuple(Group(layers=(i, i), weights=(1, 0)) for i in range(13))},
            "groups by layer or module kind",
            "These are the weights of most tensors; 13 groups",
        ),
        (
            {"columns": {"w": ((1.0,), (0.0,))}},
            "weights per column",
            "These are the weights of most tensors; 1 tensors",
        ),
    ],
)
def test_what_mergekit_has_no_word_for(more: dict, what: str, said: str) -> None:
    recipe = Recipe(parents=("a", "b"), weights=(0.5, 0.5), **more)
    with pytest.raises(BadInput, match=what):
        to_mergekit(recipe, {"a": "x", "b": "y"})
    card = model_card(recipe, "f" * 64)
    assert f"no word for {what}" in card
    assert said in card


def test_the_card_depends_on_its_arguments_only_and_shows_no_local_path() -> None:
    card = {"parents": {"a" * 64: {"name": "x|y", "uri": "file:///home/me/x"}}, "study": "s\n# h"}
    text = model_card(RECIPE, "f" * 64, card)
    assert text == model_card(RECIPE, "f" * 64, card)
    assert "/home/me" not in text
    assert r"| x\|y | 0.75 | `aaaaaaaaaaaaaaaa` |" in text
    assert "\n# h" not in text
    assert model_card(RECIPE, "f" * 64).count("| `bbbbbbbbbbbbbbbb` |") == 1
