"""Recipes as mergekit YAML and back, where mergekit's linear method can express them.

Same formula, not the same bytes: mergekit multiplies and sums in another order and rounds at other
places. Anything a recipe has no word for is refused by name rather than dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from optim.recipe import OUTPUT_DTYPES, Recipe
from services.errors import BadInput

_KEYS = {"merge_method", "models", "parameters", "dtype", "out_dtype"}
#: why a recipe cannot hold what a configuration says
_INEXPRESSIBLE = {
    "slices": "layers taken from different models",
    "modules": "several modules with merges of their own",
    "base_model": "a base model",
    "tokenizer_source": "a tokenizer made of several",
    "tokenizer": "a tokenizer made of several",
    "chat_template": "another chat template",
}


@dataclass(frozen=True, kw_only=True)
class MergekitLinear:
    """What a mergekit configuration of the linear method says."""

    #: as written: paths or hub ids, in the order of `weights`
    models: tuple[str, ...]
    #: already divided by their sum where the configuration normalises
    weights: tuple[float, ...]
    #: dtype of the output; None where the configuration leaves it to the models
    dtype: str | None


def to_mergekit(recipe: Recipe, models: Mapping[str, str]) -> str:
    """The recipe as mergekit YAML; `models` gives a path or hub id for each parent's digest.

    Parents of weight 0 are left out, as they are when the candidate is formed.
    """
    used = [(p, w) for p, w in zip(recipe.parents, recipe.weights, strict=True) if w]
    config = {
        "merge_method": "linear",
        "models": [
            {"model": models[parent], "parameters": {"weight": weight}} for parent, weight in used
        ],
        # mergekit would divide by the sum of the weights
        "parameters": {"normalize": False},
        # the arithmetic; without it mergekit computes in the models' own dtype
        "dtype": "float32",
        "out_dtype": recipe.dtype,
    }
    return yaml.safe_dump(config, sort_keys=False)


def from_mergekit(text: str, *, where: str) -> MergekitLinear:
    """Read a mergekit configuration; BadInput names what a recipe cannot express."""
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        _refuse(f"{where}:{mark.line + 1}" if mark else where, "is not YAML", "Correct it")
    if not isinstance(config, dict):
        _refuse(where, "is no mergekit configuration", "It holds merge_method and models")
    _check_keys(config, where)
    models = config.get("models")
    if not isinstance(models, list) or not models:
        _refuse(where, "names no models", "List them under models")
    common = _parameters(config.get("parameters"), {"normalize", "weight"}, where)
    names, weights = [], []
    for number, entry in enumerate(models):
        at = f"{where}: models[{number}]"
        if not isinstance(entry, dict) or set(entry) - {"model", "parameters"}:
            _refuse(at, "is more than a model with parameters", "Keep model and parameters only")
        own = _parameters(entry.get("parameters"), {"weight"}, at)
        names.append(_model(entry.get("model"), at))
        weights.append(_weight(own.get("weight", common.get("weight")), at))
    if len(set(names)) != len(names):
        _refuse(where, "names a model twice", "Add its weights up in one entry")
    return MergekitLinear(
        models=tuple(names),
        weights=_normalised(weights, common.get("normalize", True), where),
        dtype=_dtype(config, where),
    )


def _refuse(where: str, what: str, mend: str) -> NoReturn:
    raise BadInput(what, where=where, mend=mend)


def _check_keys(config: dict[Any, Any], where: str) -> None:
    method = config.get("merge_method")
    if method != "linear":
        _refuse(
            where,
            f"merge_method {str(method)[:60]!r} cannot be expressed as a recipe",
            "Only 'linear' can",
        )
    for key in config:
        if key in _INEXPRESSIBLE and config[key] is not None:
            _refuse(
                where,
                f"{key} cannot be expressed as a recipe: {_INEXPRESSIBLE[key]}",
                f"Remove {key}, if the merge does not need it",
            )
    if unknown := sorted(str(key) for key in set(config) - _KEYS - set(_INEXPRESSIBLE)):
        _refuse(where, f"unknown key {unknown[0][:60]!r}", f"Known: {', '.join(sorted(_KEYS))}")


def _parameters(data: Any, known: set[str], at: str) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        _refuse(at, "its parameters are no mapping", "Write parameters: {weight: 0.5}")
    if unknown := sorted(str(key) for key in set(data) - known):
        _refuse(
            at,
            f"parameter {unknown[0][:60]!r} cannot be expressed as a recipe",
            f"The linear method has {', '.join(sorted(known))}",
        )
    return data


def _model(name: Any, at: str) -> str:
    if not isinstance(name, str) or not name:
        _refuse(at, "its model is not a path or a hub id", "Write model: path/or/id")
    if "+" in name:
        _refuse(at, f"{name[:100]!r} adds a LoRA, which a recipe cannot", "Merge it in first")
    return name


def _weight(value: Any, at: str) -> float:
    if isinstance(value, list | dict):
        _refuse(
            at,
            "its weight changes with layer or tensor, which a recipe cannot express",
            "Give one number",
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(at, f"its weight is {str(value)[:60]}, not a number", "Write weight: 0.5")
    return float(value)


def _normalised(weights: list[float], normalize: Any, where: str) -> tuple[float, ...]:
    if not isinstance(normalize, bool):
        _refuse(where, f"normalize is {str(normalize)[:60]}", "Write true or false")
    if not normalize:
        return tuple(weights)
    total = math.fsum(weights)
    if abs(total) < 1e-8:
        _refuse(where, "its weights sum to 0 and are to be normalised", "Set normalize: false")
    return tuple(weight / total for weight in weights)


def _dtype(config: dict[Any, Any], where: str) -> str | None:
    dtype = config.get("out_dtype") or config.get("dtype")
    if dtype is not None and dtype not in OUTPUT_DTYPES:
        _refuse(where, f"dtype {str(dtype)[:60]!r} is not known", f"Use {', '.join(OUTPUT_DTYPES)}")
    return dtype
