"""A recipe: everything needed to rebuild a candidate from its parents.

Its digest names the candidate everywhere; two recipes with one digest give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optim.tensor_names import KINDS, kind_of, layer_of

#: bumped whenever the arithmetic of forming a candidate changes its bytes
RECIPE_VERSION = 2
OUTPUT_DTYPES = ("float32", "bfloat16", "float16")

#: one coefficient per parent
Row = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Weights of their own for the tensors that meet every condition which is given."""

    #: one coefficient per parent
    weights: Row
    #: first and last layer, both included
    layers: tuple[int, int] | None = None
    #: of `optim.tensor_names.KINDS`
    kinds: tuple[str, ...] | None = None
    #: one of these stands somewhere in the tensor's name
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        for name in ("layers", "kinds", "names"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"group.{name}: {value!r} is one text; give a list")
            object.__setattr__(self, name, None if value is None else tuple(value))

    def covers(self, tensor: str) -> bool:
        """Whether the tensor of that name meets the conditions."""
        layer = layer_of(tensor)
        return (
            (
                self.layers is None
                or (layer is not None and self.layers[0] <= layer <= self.layers[1])
            )
            and (self.kinds is None or kind_of(tensor) in self.kinds)
            and (self.names is None or any(name in tensor for name in self.names))
        )

    @property
    def label(self) -> str:
        """Which tensors it has, for people: `attention, layers 0–5`."""
        return group_label(self.layers, self.kinds, self.names)

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON-ready data, without the conditions that are not given."""
        found = {name: getattr(self, name) for name in ("layers", "kinds", "names", "weights")}
        return {name: list(value) for name, value in found.items() if value is not None}


def group_label(
    layers: tuple[int, int] | None,
    kinds: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The conditions of a group for people: `layer 3`, `attention, layers 0–5`."""
    parts = [*(kinds or ()), *(names or ())]
    if layers is not None:
        first, last = layers
        parts.append(f"layer {first}" if first == last else f"layers {first}–{last}")
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A linear combination Σ w_i θ_i of checkpoints of one pool.

    Raises ValueError when the parts do not fit together.
    """

    #: manifest digests of the parents (hex SHA-256), in coefficient order
    parents: tuple[str, ...]
    #: one coefficient per parent; used as float32 when the candidate is formed
    weights: Row
    #: the first group that covers a tensor decides its weights instead
    groups: tuple[Group, ...] = ()
    #: by tensor name, before all groups: for each parent one coefficient per column, which is an
    #: input of a linear layer (DAM, 2410.08371), or an element of a tensor of one axis
    columns: Mapping[str, tuple[Row, ...]] = field(default_factory=dict, hash=False)
    #: dtype that the candidate is rounded to, once, after accumulation in float32
    dtype: str = "float32"
    operator: str = "linear"
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        object.__setattr__(self, "groups", tuple(self.groups))
        columns = {
            name: tuple(tuple(map(float, row)) for row in self.columns[name])
            for name in sorted(self.columns)
        }
        object.__setattr__(self, "columns", columns)
        if not self.parents or len(set(self.parents)) != len(self.parents):
            raise ValueError("recipe.parents: must name at least one checkpoint, none twice")
        _check_row(self.weights, len(self.parents), "recipe.weights")
        for number, group in enumerate(self.groups):
            _check_group(group, len(self.parents), f"recipe.groups[{number}]")
        for name, rows in self.columns.items():
            _check_columns(rows, len(self.parents), f"recipe.columns[{name!r}]")
        if self.dtype not in OUTPUT_DTYPES:
            raise ValueError(f"recipe.dtype: {self.dtype!r} is not one of {OUTPUT_DTYPES}")
        if self.operator != "linear":
            raise ValueError(f"recipe.operator: {self.operator!r} is not known; use 'linear'")
        if self.version != RECIPE_VERSION:
            raise ValueError(
                f"recipe.version: {self.version} was made by another release; this one reads "
                f"{RECIPE_VERSION}"
            )

    def weights_of(self, tensor: str) -> Row:
        """One coefficient per parent for the tensor of that name, unless `columns` has it."""
        return next((g.weights for g in self.groups if g.covers(tensor)), self.weights)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row of one coefficient per parent."""
        return (*(group.weights for group in self.groups), self.weights)

    def used(self, tensors: Iterable[str]) -> tuple[int, ...]:
        """Which parents have a coefficient other than 0 in any of these tensors."""
        rows = {self.weights_of(name) for name in tensors if name not in self.columns}
        return tuple(
            i
            for i in range(len(self.parents))
            if any(row[i] for row in rows) or any(any(r[i]) for r in self.columns.values())
        )

    def check_tensors(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """ValueError where `columns` does not fit the tensors (shapes by name) of the parents."""
        for name, rows in self.columns.items():
            where = f"recipe.columns[{name!r}]"
            if name not in shapes:
                raise ValueError(f"{where}: the parents have no such tensor; remove it")
            length = shapes[name][-1] if shapes[name] else 1
            if len(rows[0]) != length:
                raise ValueError(
                    f"{where}: {len(rows[0])} coefficients, but its last axis has {length}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data; floats keep every bit through `json`."""
        data: dict[str, Any] = {"parents": list(self.parents), "weights": list(self.weights)}
        if self.groups:
            data["groups"] = [group.to_dict() for group in self.groups]
        if self.columns:
            data["columns"] = {n: [list(row) for row in rows] for n, rows in self.columns.items()}
        return data | {"dtype": self.dtype, "operator": self.operator, "version": self.version}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`; unknown keys raise ValueError."""
        _check_keys(data, cls, "recipe")
        groups = []
        for number, group in enumerate(data.get("groups", ())):
            if not isinstance(group, Mapping) or "weights" not in group:
                raise ValueError(f"recipe.groups[{number}]: has no weights")
            _check_keys(group, Group, f"recipe.groups[{number}]")
            groups.append(Group(**group))
        return cls(**{**data, "groups": tuple(groups)})

    @property
    def digest(self) -> str:
        """SHA-256 hex of the canonical JSON form."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def one_hot(cls, parents: tuple[str, ...], index: int, dtype: str = "float32") -> Recipe:
        """The recipe that returns parent `index` bit for bit."""
        return cls(
            parents=parents,
            weights=tuple(float(i == index) for i in range(len(parents))),
            dtype=dtype,
        )


def _check_keys(data: Mapping[str, Any], kind: Any, where: str) -> None:
    known = list(kind.__dataclass_fields__)
    if unknown := sorted(set(data) - set(known)):
        raise ValueError(f"{where}: unknown keys {unknown}; known are {', '.join(known)}")


def _check_row(row: Row, count: int, where: str) -> None:
    if len(row) != count:
        raise ValueError(f"{where}: {len(row)} weights for {count} parents")
    if not all(map(math.isfinite, row)):
        raise ValueError(f"{where}: not finite: {row}")
    if not any(row):
        raise ValueError(f"{where}: all zero")


def _check_group(group: Group, count: int, where: str) -> None:
    _check_row(group.weights, count, f"{where}.weights")
    if group.layers is None and group.kinds is None and group.names is None:
        raise ValueError(f"{where}: covers every tensor; give layers, kinds or names")
    if group.layers is not None:
        whole = len(group.layers) == 2 and all(type(layer) is int for layer in group.layers)
        if not whole or not 0 <= group.layers[0] <= group.layers[1]:
            raise ValueError(
                f"{where}.layers: {list(group.layers)} is not a first and a last layer, from 0"
            )
    if group.kinds is not None and (not group.kinds or not set(group.kinds) <= set(KINDS)):
        raise ValueError(f"{where}.kinds: {list(group.kinds)} are not all of {', '.join(KINDS)}")
    if group.names is not None and not all(isinstance(n, str) and n for n in group.names or ("",)):
        raise ValueError(f"{where}.names: {list(group.names)} are not parts of tensor names")


def _check_columns(rows: tuple[Row, ...], count: int, where: str) -> None:
    if len(rows) != count:
        raise ValueError(f"{where}: {len(rows)} rows for {count} parents")
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(f"{where}: its rows are empty or of different lengths")
    if not all(map(math.isfinite, (value for row in rows for value in row))):
        raise ValueError(f"{where}: not finite")
