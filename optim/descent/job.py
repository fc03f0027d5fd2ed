"""What one descent does, as data: written into the database, sent to an engine.

Names suites and parents, holds no items and no weights of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Grain = Literal["model", "layers", "kinds", "columns"]
GRAINS: tuple[Grain, ...] = get_args(Grain)
#: `supervised`: nats of the right answer; `entropy`: nats of indecision; `imitate`: divergence from
#: what a parent says
Loss = Literal["supervised", "entropy", "imitate"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A loss on the search split of one suite, and its share of the whole."""

    suite: str
    loss: Loss
    weight: float = 1.0
    #: the parent that is imitated, by its place
    teacher: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A descent; raises ValueError naming the field when its parts do not fit together."""

    #: manifest digests, in coefficient order
    parents: tuple[str, ...]
    #: of the recipe that comes out
    dtype: str
    tasks: tuple[Task, ...]
    grain: Grain = "model"
    #: smallest and largest weight of every parent; both None: coefficients are free, and need not
    #: sum to 1
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    #: one weight per parent: where every block starts
    start: tuple[float, ...] = ()
    #: None: as many as the longest task needs to show each item once
    steps: int | None = None
    #: items of each task in a step
    batch: int = 16
    #: of Adam, at the first step
    rate: float = 0.02
    seed: int = 0
    #: of imitation, and the weight of its squared differences of logits
    temperature: float = 1.0
    mse: float = 0.0
    #: weights of what the coefficients themselves cost: mean pairwise cosine, mean |c|, mean c²
    similarity: float = 0.0
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.parents)
        if n < 2:
            raise ValueError(f"job.parents: {n} leaves nothing to weigh")
        if not any(task.weight > 0 for task in self.tasks):
            raise ValueError("job.tasks: none has a weight above 0")
        for task in self.tasks:
            if task.loss not in LOSSES or not math.isfinite(task.weight) or task.weight < 0:
                raise ValueError(f"job.tasks: {task} has no loss of {LOSSES}, or a weight below 0")
            if (task.teacher is not None) != (task.loss == "imitate"):
                raise ValueError(f"job.tasks: {task}: a teacher is for imitation, which needs one")
            if task.teacher is not None and not 0 <= task.teacher < n:
                raise ValueError(f"job.tasks: teacher {task.teacher} is not one of 0 to {n - 1}")
        if self.grain not in GRAINS:
            raise ValueError(f"job.grain: {self.grain!r} is not one of {', '.join(GRAINS)}")
        if (self.low is None) != (self.high is None):
            raise ValueError("job.low: give both bounds or none")
        for name in ("low", "high", "start"):
            given = getattr(self, name)
            if given is not None and (len(given) != n or not all(map(math.isfinite, given))):
                raise ValueError(f"job.{name}: {given} are not {n} finite numbers")
        if self.batch < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(f"job.batch, job.steps: {self.batch}, {self.steps}, must be above 0")
        if not self.rate > 0 or not self.temperature > 0:
            raise ValueError(f"job.rate, job.temperature: {self.rate}, {self.temperature}, as well")

    @property
    def free(self) -> bool:
        """Whether the coefficients may be anything."""
        return self.low is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Inverse of `to_dict`; unknown keys raise ValueError."""
        if unknown := sorted(set(data) - {field.name for field in fields(cls)}):
            raise ValueError(f"job: unknown keys {unknown}")
        lists = {
            name: None if data[name] is None else tuple(data[name])
            for name in ("parents", "low", "high", "start")
            if name in data
        }
        tasks = tuple(Task(**task) for task in data["tasks"])
        return cls(**{**data, **lists, "tasks": tasks})
