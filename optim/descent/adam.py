"""Adam (Kingma & Ba 1412.6980) on a vector of coefficients, and all that has to be kept of it.

A descent goes on from a stored `State` exactly as if it had never stopped: whatever else it needs
(which items come in which step) follows from its job and the number of the step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MAGIC = "remelt descent 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Where a descent stands after `step` steps."""

    step: int
    #: float64 [3, size]: coefficients, and Adam's first and second moments
    values: np.ndarray
    #: mean of the loss over the last steps, nats; None before the first
    loss: float | None = None
    #: items that went forwards and backwards, and those that a teacher only read
    items: int = 0
    taught: int = 0
    #: through the model, passes of teachers included
    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, x: np.ndarray) -> State:
        """Before the first step, at coefficients x [size]."""
        values = np.zeros((3, len(x)))
        values[0] = x
        return cls(step=0, values=values)

    @property
    def x(self) -> np.ndarray:
        """float64 [size]: the coefficients."""
        found: np.ndarray = self.values[0]
        return found

    @property
    def passes(self) -> int:
        """The cost in item evaluations: a pass forwards and backwards counts as three forwards."""
        return 3 * self.items + self.taught

    def about(self) -> dict[str, Any]:
        """Everything but the numbers, JSON-ready."""
        names = ("step", "loss", "items", "taught", "tokens", "seconds")
        return {name: getattr(self, name) for name in names}

    def to_bytes(self) -> bytes:
        """One line of JSON, then the values; the same on every machine."""
        head = {"magic": MAGIC, "size": self.values.shape[1], **self.about()}
        return json.dumps(head).encode() + b"\n" + self.values.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Inverse of `to_bytes`; ValueError for anything else."""
        line, _, body = bytes(data).partition(b"\n")
        try:
            head = json.loads(line)
            if head.pop("magic") != MAGIC or len(body) != 24 * head["size"]:
                raise ValueError("state: its head does not fit what follows")
            size = head.pop("size")
            return cls(values=np.frombuffer(body, dtype="<f8").reshape(3, size).copy(), **head)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"state: is not one of a descent ({error})") from error


def adam(state: State, gradient: np.ndarray, rate: float) -> State:
    """One step against `gradient` [size]; the coefficients that come out are not projected."""
    if not np.isfinite(gradient).all():
        raise ValueError("gradient: not finite")
    x, first, second = state.values
    step = state.step + 1
    first = BETA1 * first + (1 - BETA1) * gradient
    second = BETA2 * second + (1 - BETA2) * gradient**2
    scaled = np.sqrt(second / (1 - BETA2**step)) + EPSILON
    moved = x - rate * first / (1 - BETA1**step) / scaled
    return replace(state, step=step, values=np.stack([moved, first, second]))
