"""A recipe: everything needed to rebuild a candidate from its parents.

Its digest names the candidate everywhere; two recipes with one digest give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

#: bumped whenever the arithmetic of forming a candidate changes its bytes
RECIPE_VERSION = 2
OUTPUT_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A linear combination Σ w_i θ_i of checkpoints of one pool.

    Raises ValueError when the parts do not fit together.
    """

    #: manifest digests of the parents (hex SHA-256), in coefficient order
    parents: tuple[str, ...]
    #: one coefficient per parent; used as float32 when the candidate is formed
    weights: tuple[float, ...]
    #: dtype that the candidate is rounded to, once, after accumulation in float32
    dtype: str = "float32"
    operator: str = "linear"
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if not self.parents or len(set(self.parents)) != len(self.parents):
            raise ValueError("recipe.parents: must name at least one checkpoint, none twice")
        if len(self.weights) != len(self.parents):
            raise ValueError(
                f"recipe.weights: {len(self.weights)} weights for {len(self.parents)} parents"
            )
        if not all(math.isfinite(w) for w in self.weights):
            raise ValueError(f"recipe.weights: not finite: {self.weights}")
        if not any(self.weights):
            raise ValueError("recipe.weights: all zero")
        if self.dtype not in OUTPUT_DTYPES:
            raise ValueError(f"recipe.dtype: {self.dtype!r} is not one of {OUTPUT_DTYPES}")
        if self.operator != "linear":
            raise ValueError(f"recipe.operator: {self.operator!r} is not known; use 'linear'")
        if self.version != RECIPE_VERSION:
            raise ValueError(
                f"recipe.version: {self.version} was made by another release; this one reads "
                f"{RECIPE_VERSION}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data; floats keep every bit through `json`."""
        data = asdict(self)
        data["parents"], data["weights"] = list(self.parents), list(self.weights)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Inverse of `to_dict`; unknown keys raise ValueError."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"recipe: unknown keys {sorted(unknown)}")
        return cls(**data)

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
