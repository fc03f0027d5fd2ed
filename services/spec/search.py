"""How a study searches: method, space of weights, groups, racing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from optim.descent import DESCENTS, DescentMethod
from optim.search import METHODS as SEARCHERS
from optim.search import Searcher
from optim.search.options import read_options
from services.spec.measures import Name, Strict

#: of spaces whose bounds can be set
BOUNDS = {"affine": (-0.5, 1.5), "task": (0.0, 1.0)}
#: what `search.method` may name: searchers, and searches that go down a gradient
METHODS: dict[str, type[Searcher] | DescentMethod] = {**SEARCHERS, **DESCENTS}


class Groups(Strict):
    """Which tensors of the model have weights of their own."""

    layers: int | None = Field(
        default=None, ge=1, le=1024, description="so many equal stretches of layers; null: one"
    )
    kinds: bool = Field(
        default=False, description="attention and mlp apart, in every stretch of layers"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """`model` (none) and `kinds` are short forms."""
        if isinstance(data, str):
            if data not in ("model", "kinds"):
                raise ValueError("write model, kinds, {layers: 4} or {layers: 4, kinds: true}")
            return {"kinds": data == "kinds"}
        return data


class Racing(Strict):
    """Stopping candidates early that are certainly no good."""

    alpha: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="probability, per candidate, of stopping one that should not be",
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="shares by which a candidate may be behind and is not stopped for it; null: "
        "one standard error of the difference between two models",
    )


def _known_method(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"unknown method; choose one of {', '.join(METHODS)}")
    return method


Method = Annotated[
    str,
    AfterValidator(_known_method),
    WithJsonSchema({"type": "string", "enum": list(METHODS)}),
]


class Search(Strict):
    """How candidates are proposed."""

    method: Method = Field(
        default="margin-surrogate",
        description="the searcher (remelt study methods lists them); margin-surrogate needs the "
        "fewest evaluations",
    )
    space: Literal["simplex", "affine", "task"] = Field(
        default="affine",
        description="weights sum to 1; simplex: none negative; affine: within bounds; "
        "task: those of all checkpoints but the base within bounds, the base takes the rest",
    )
    base: Name | None = Field(
        default=None,
        description="task space: the checkpoint that the others' differences are added to; "
        "left out: the reference",
    )
    bounds: tuple[float, float] | None = Field(
        default=None,
        description="smallest and largest weight, of the affine space (left out: -0.5 and 1.5) "
        "or the task space (0 and 1)",
    )
    groups: Groups = Field(
        default_factory=Groups,
        description="tensors with weights of their own: model (none), kinds, {layers: 4} or "
        "{layers: 4, kinds: true}; all other tensors (embeddings, head) share one more row",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="same seed, same suggestions")
    parallelism: int = Field(
        default=8, ge=1, le=1024, description="candidates handed out at a time"
    )
    reuse: bool = Field(
        default=False,
        description="the searcher also knows what earlier studies on the same pool, suites and "
        "reference found; the same spec then no longer makes the same suggestions",
    )
    warm_start: int = Field(
        default=0,
        ge=0,
        le=100,
        description="descents with gradients that come before the searcher, which starts from what "
        "they find; they come on top of the budget",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the method (see docs/searchers.md)"
    )
    racing: Racing | None = Field(
        default=None, description="stop bad candidates early; null: score every one whole"
    )

    @field_validator("bounds")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError("the first bound must be below the second")
        return bounds

    @model_validator(mode="after")
    def _options_known(self) -> Search:
        method = METHODS[self.method]
        read_options(self.method, method.options, self.options)
        if self.warm_start and self.method in DESCENTS:
            raise ValueError(f"warm_start is for other methods: {self.method} is made of descents")
        return self

    @model_validator(mode="after")
    def _base_of_tasks(self) -> Search:
        if self.base is not None and self.space != "task":
            raise ValueError("base belongs to the task space: leave it out, or write space: task")
        return self

    @property
    def box(self) -> tuple[float, float]:
        """Smallest and largest weight of the space; in the task space of all but the base."""
        if self.space == "simplex":
            return (0.0, 1.0)
        return self.bounds or BOUNDS[self.space]
