"""What an evaluation reports: progress, each suite's results, and the cost of the whole.

Shared by everybody who waits for an engine; imports neither torch nor the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from optim.descent import State
from optim.predictions import MARGIN_MAX, Predictions, items_digest
from optim.recipe import Recipe
from services.errors import EngineFailed
from services.suites import Suite
from workers.engine.channel import Message


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the running request stands."""

    #: start, load, build, compile, form, score, digest or descend
    phase: str
    suite: str | None = None
    #: tokens while scoring, bytes while loading, steps while descending
    done: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """Done part of the phase, 0 to 1."""
        return self.done / self.total if self.total else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteResult:
    """One finished suite."""

    suite: str
    digest: str
    predictions: Predictions
    #: like `predictions.margin`, but float32; None unless the form is `choice`
    margins: np.ndarray | None
    #: int32 [N]: tokens scored (`choice`: over all options) or generated for each item
    item_tokens: np.ndarray
    seconds: float
    #: tokens that went through the model
    tokens: int


class Race(Protocol):
    """Who watches an evaluation and may end it: told of everything in the order in which it is
    scored. Suites that are not raced are scored whole where they stand among the others."""

    @property
    def seed(self) -> int:
        """Of the order of the blocks."""
        ...

    @property
    def suites(self) -> Collection[str]:
        """Names of the suites whose items come in blocks, in an order common to all of them."""
        ...

    def order(self, drawn: Sequence[tuple[str, np.ndarray]]) -> None:
        """The blocks to come: (suite, places of its items in the split)."""

    def block(self, number: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """One is scored: `correct`, `answer`, and for choices `margin`, of its items. False: stop
        here."""
        ...

    def suite(self, name: str, found: Predictions) -> bool:
        """One suite is scored to its end. False: stop here."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One finished evaluation: what was in the engine, and what it cost."""

    #: `optim.merge.weights_digest` of the candidate in the recipe's dtype
    weights_digest: str
    #: wall seconds of form, compile, score (of which forward passes), digest (waited for), total
    phases: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    #: most memory that the engine has held since it started: GPU memory, or resident set on a CPU
    peak_memory_bytes: int = 0
    #: lower blocks that this candidate has in common with those to come: they run once for all
    skipped_blocks: int = 0
    #: what is kept of those blocks now, summed over the ranks: in host memory, and in files
    activation_memory_bytes: int = 0
    activation_file_bytes: int = 0
    #: whether the model's layers ran compiled
    compiled: bool = False

    @property
    def seconds(self) -> float:
        """Wall seconds of the whole evaluation inside the engine."""
        return self.phases.get("total", 0.0)

    @property
    def form_seconds(self) -> float:
        """Wall seconds of writing the candidate into the live parameters."""
        return self.phases.get("form", 0.0)

    def cost(self) -> dict[str, Any]:
        """Everything but the digest, JSON-ready."""
        return {
            "seconds": self.seconds,
            "phases": dict(self.phases),
            "tokens": self.tokens,
            "peak_memory_bytes": self.peak_memory_bytes,
            "skipped_blocks": self.skipped_blocks,
            "activation_memory_bytes": self.activation_memory_bytes,
            "activation_file_bytes": self.activation_file_bytes,
            "compiled": self.compiled,
        }


@dataclass(frozen=True, kw_only=True)
class DescentResult:
    """One finished descent: the candidate it found, and what it cost."""

    recipe: Recipe
    #: one number per parent: the mean of its coefficients over the values that they weigh
    weights: tuple[float, ...]
    state: State
    #: steps of the whole descent, and how many coefficients it moved
    steps: int
    coefficients: int

    def cost(self) -> dict[str, Any]:
        """JSON-ready; `passes` is in item evaluations, backward passes included."""
        more = {"passes": self.state.passes, "coefficients": self.coefficients}
        return {**self.state.about(), **more}


def state_of(message: Message) -> State:
    """Where a descent stands, as a message of the engine says."""
    return State(values=message.arrays["values"], **message.data["about"])


def suite_result(message: Message, suite: Suite, split: str | None) -> SuiteResult:
    """The result that a message of the engine carries; EngineFailed when items are missing."""
    items = suite.items if split is None else suite.split(split)  # type: ignore[arg-type]
    data, arrays = message.data, message.arrays
    margins = arrays.get("margin")
    predictions = Predictions(
        form=suite.form,
        items=items_digest([item.id for item in items]),
        correct=arrays.get("correct"),
        answer=arrays.get("answer"),
        margin=None
        if margins is None
        else np.clip(margins, -MARGIN_MAX, MARGIN_MAX).astype(np.float16),
        options=arrays.get("options"),
        nll=arrays.get("nll"),
        tokens=arrays["tokens"] if suite.form == "text" else None,
        texts=None if data["texts"] is None else tuple(data["texts"]),
    )
    if len(predictions) != len(items):
        raise EngineFailed(f"suite {suite.name!r}: {len(predictions)} results, {len(items)} items")
    return SuiteResult(
        suite=suite.name,
        digest=suite.digest,
        predictions=predictions,
        margins=margins,
        item_tokens=arrays["tokens"],
        seconds=data["seconds"],
        tokens=data["tokens"],
    )
