"""Recipes as mergekit YAML and back; what cannot be expressed is named."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optim.recipe import Recipe
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
    assert list(zip(back.models, back.weights, strict=True)) == used
    assert back.dtype == dtype


@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=6))
def test_weights_are_normalised_unless_told_otherwise(weights: list[float]) -> None:
    models = [{"model": f"m{i}", "parameters": {"weight": w}} for i, w in enumerate(weights)]
    config = {"merge_method": "linear", "models": models}
    found = from_mergekit(yaml.safe_dump(config), where="x").weights
    assert math.isclose(sum(found), 1)
    assert all(math.isclose(f * sum(weights), w) for f, w in zip(found, weights, strict=True))
    config["parameters"] = {"normalize": False}
    assert from_mergekit(yaml.safe_dump(config), where="x").weights == tuple(weights)


def test_one_weight_for_all_and_dtypes() -> None:
    text = "{merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 2}}"
    found = from_mergekit(text, where="x")
    assert (found.models, found.weights, found.dtype) == (("a", "b"), (0.5, 0.5), None)
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
        (ONE.replace("1}", "[0, 1]}") + "\nmerge_method: linear", "changes with layer or tensor"),
        (ONE.replace("1}", "{filter: mlp, value: 1}}") + "\nmerge_method: linear", "changes with"),
        (ONE.replace("weight", "density") + "\nmerge_method: linear", "'density' cannot be"),
        (ONE.replace("model: a", "model: a+lora") + "\nmerge_method: linear", "adds a LoRA"),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, "
            "{model: a, parameters: {weight: 2}}]",
            "names a model twice",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, "
            "{model: b, parameters: {weight: -1}}]",
            "sum to 0",
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


def test_the_card_depends_on_its_arguments_only_and_shows_no_local_path() -> None:
    card = {"parents": {"a" * 64: {"name": "x|y", "uri": "file:///home/me/x"}}, "study": "s\n# h"}
    text = model_card(RECIPE, "f" * 64, card)
    assert text == model_card(RECIPE, "f" * 64, card)
    assert "/home/me" not in text
    assert r"| x\|y | 0.75 | `aaaaaaaaaaaaaaaa` |" in text
    assert "\n# h" not in text
    assert model_card(RECIPE, "f" * 64).count("| `bbbbbbbbbbbbbbbb` |") == 1
