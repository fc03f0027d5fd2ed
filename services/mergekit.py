"""Recipes as mergekit YAML and back, where mergekit's linear method can express them.

Same formula, not the same bytes: mergekit multiplies and sums in another order and rounds at other
places. Anything a recipe has no word for is refused by name rather than dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from optim.recipe import OUTPUT_DTYPES, Group, Recipe, Row
from optim.tensor_names import kind_of, layer_of
from services.errors import BadInput

_KEYS = {"merge_method", "models", "parameters", "dtype", "out_dtype"}
#: output layers stand behind the layers, as mergekit counts
_HEAD = re.compile(r"lm_head|embed_out|(?:^|\.)output\.")
#: why a recipe cannot hold what a configuration says
_INEXPRESSIBLE = {
    "slices": "layers taken from different models",
    "modules": "several modules with merges of their own",
    "base_model": "a base model",
    "tokenizer_source": "a tokenizer made of several",
    "tokenizer": "a tokenizer made of several",
    "chat_template": "another chat template",
}


#: one way of setting a weight: the part of a tensor's name that it needs (None: any tensor), and
#: values that are spread over the layers, one for all of them
Setting = tuple[str | None, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class MergekitLinear:
    """What a mergekit configuration of the linear method says."""

    #: as written: paths or hub ids, in the order of the weights
    models: tuple[str, ...]
    #: for each model, the first that fits a tensor counts; the last one fits all
    settings: tuple[tuple[Setting, ...], ...]
    #: whether a tensor's weights are to be divided by their sum
    normalize: bool
    #: dtype of the output; None where the configuration leaves it to the models
    dtype: str | None
    #: the file, for messages
    where: str

    def weights(self, tensors: Iterable[str]) -> tuple[Row, tuple[Group, ...]]:
        """Weights and groups of a recipe for models with tensors of these names.

        Raises BadInput where the filters of the models cannot be put into one order, or a
        gradient has a filter that reaches tensors outside of the layers.
        """
        names = list(tensors)
        filters = [name for name, _ in max(self.settings, key=len)]
        for model, settings in zip(self.models, self.settings, strict=True):
            if len(settings) > 1 and [name for name, _ in settings] != filters:
                _refuse(
                    f"{self.where}: {model}",
                    "its filters are not those of the other models, in their order",
                    "Give every model the same filters in the same order, or one weight",
                )
        groups: list[Group] = []
        for number, name in enumerate(filters):
            values = [s[number if len(s) > 1 else 0][1] for s in self.settings]
            if name is None:
                return self._spread(values, names, groups)
            if all(len(value) == 1 for value in values):
                groups.append(Group(names=(name,), weights=self._row(values, 1.0)))
                continue
            if outside := [n for n in names if name in n and layer_of(n) is None]:
                _refuse(
                    f"{self.where}: filter {name!r}",
                    f"its values are spread over layers, but it fits {outside[0]!r} too",
                    "Give one value, or a narrower filter",
                )
            groups += [
                Group(layers=(layer, layer), names=(name,), weights=self._row(values, at))
                for layer, at in _places(names)
            ]
        raise AssertionError("the last setting fits all tensors")

    def _spread(
        self, values: list[tuple[float, ...]], names: list[str], groups: list[Group]
    ) -> tuple[Row, tuple[Group, ...]]:
        """The weights of what no filter names: along the layers, and before and after them."""
        if any(len(value) > 1 for value in values):
            groups = groups + [
                Group(layers=(layer, layer), weights=self._row(values, at))
                for layer, at in _places(names)
            ]
            outside = [n for n in names if layer_of(n) is None and kind_of(n) == "embedding"]
            before = tuple(name for name in outside if not _HEAD.search(name))
            if before:
                groups.append(Group(names=before, weights=self._row(values, 0.0)))
        return self._row(values, 1.0), tuple(groups)

    def _row(self, values: list[tuple[float, ...]], at: float) -> Row:
        row = [_between(value, at) for value in values]
        return _normalised(row, self.where) if self.normalize else tuple(row)


def _places(names: Iterable[str]) -> list[tuple[int, float]]:
    """(layer, where it lies between the first, 0, and the last, 1)."""
    last = max((layer for layer in map(layer_of, names) if layer is not None), default=0)
    return [(layer, layer / last if last else 1.0) for layer in range(last + 1)]


def _between(values: tuple[float, ...], at: float) -> float:
    """Piecewise linear through `values`, evenly spaced on [0, 1]."""
    place = at * (len(values) - 1)
    low = int(place)
    share = place - low
    return (1 - share) * values[low] + share * values[min(low + 1, len(values) - 1)]


def inexpressible(recipe: Recipe) -> str | None:
    """What of the recipe mergekit has no word for; None when it can be written as its YAML."""
    if recipe.columns:
        return "weights per column"
    if any(group.layers or group.kinds for group in recipe.groups):
        return "groups by layer or module kind"
    return None


def to_mergekit(recipe: Recipe, models: Mapping[str, str]) -> str:
    """The recipe as mergekit YAML; `models` gives a path or hub id for each parent's digest.

    Parents whose weights are all 0 are left out, as they are when the candidate is formed. Raises
    BadInput for what is `inexpressible`.
    """
    if what := inexpressible(recipe):
        raise BadInput(
            f"it has {what}, for which mergekit has no word",
            where=f"recipe {recipe.digest[:12]}…",
            mend="Keep it as a Remelt recipe, or cast it",
        )
    used = [i for i in range(len(recipe.parents)) if any(row[i] for row in recipe.rows)]
    config = {
        "merge_method": "linear",
        "models": [
            {"model": models[recipe.parents[i]], "parameters": {"weight": _setting(recipe, i)}}
            for i in used
        ],
        # mergekit would divide by the sum of the weights
        "parameters": {"normalize": False},
        # the arithmetic; without it mergekit computes in the models' own dtype
        "dtype": "float32",
        "out_dtype": recipe.dtype,
    }
    return yaml.safe_dump(config, sort_keys=False)


def _setting(recipe: Recipe, parent: int) -> float | list[dict[str, Any]]:
    if not recipe.groups:
        return recipe.weights[parent]
    conditional: list[dict[str, Any]] = [
        {"filter": name, "value": group.weights[parent]}
        for group in recipe.groups
        for name in group.names or ()
    ]
    return [*conditional, {"value": recipe.weights[parent]}]


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
    normalize = common.get("normalize", True)
    if not isinstance(normalize, bool):
        _refuse(where, f"normalize is {str(normalize)[:60]}", "Write true or false")
    names, settings = [], []
    for number, entry in enumerate(models):
        at = f"{where}: models[{number}]"
        if not isinstance(entry, dict) or set(entry) - {"model", "parameters"}:
            _refuse(at, "is more than a model with parameters", "Keep model and parameters only")
        own = _parameters(entry.get("parameters"), {"weight"}, at)
        names.append(_model(entry.get("model"), at))
        settings.append(_settings([own.get("weight"), common.get("weight")], at))
    if len(set(names)) != len(names):
        _refuse(where, "names a model twice", "Add its weights up in one entry")
    return MergekitLinear(
        models=tuple(names),
        settings=tuple(settings),
        normalize=normalize,
        dtype=_dtype(config, where),
        where=where,
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


def _settings(given: list[Any], at: str) -> tuple[Setting, ...]:
    """The settings of one model, from its own and then the common ones, up to one that fits all."""
    found: list[Setting] = []
    for value in given:
        entries = value if isinstance(value, list) else [value]
        if not any(isinstance(entry, dict) for entry in entries):
            entries = [{"value": value}] if value is not None else []
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) - {"filter", "value"}:
                _refuse(at, "its weight mixes numbers and filters", "Write {filter: …, value: …}")
            name = entry.get("filter")
            if name is not None and not isinstance(name, str):
                _refuse(at, f"filter {str(name)[:60]} is no text", "Write filter: mlp")
            numbers = entry.get("value")
            numbers = numbers if isinstance(numbers, list) and numbers else [numbers]
            every = name in (None, "", "*")
            found.append((None if every else name, tuple(_weight(n, at) for n in numbers)))
            if every:
                return tuple(found)
    if not found:
        _refuse(at, "its weight is None, not a number", "Write weight: 0.5")
    _refuse(at, "it has no weight for what no filter names", "Add {value: …} as the last one")


def _weight(value: Any, at: str) -> float:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-3 as text
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(at, f"its weight is {str(value)[:60]}, not a number", "Write weight: 0.5")
    return float(value)


def _normalised(weights: list[float], where: str) -> Row:
    total = math.fsum(weights)
    if abs(total) < 1e-8:
        _refuse(where, "its weights sum to 0 and are to be normalised", "Set normalize: false")
    return tuple(weight / total for weight in weights)


def _dtype(config: dict[Any, Any], where: str) -> str | None:
    dtype = config.get("out_dtype") or config.get("dtype")
    if dtype is not None and dtype not in OUTPUT_DTYPES:
        _refuse(where, f"dtype {str(dtype)[:60]!r} is not known", f"Use {', '.join(OUTPUT_DTYPES)}")
    return dtype
