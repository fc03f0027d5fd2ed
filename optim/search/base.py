"""The contract every searcher keeps, and the bookkeeping they share.

A searcher keeps nothing between calls: what it suggests is a pure function of (space, objectives,
seed, options) and of the observations of finished generations. It must never let the order or the
moment at which results arrive change a suggestion, and never hand out a slot twice.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from optim.search.options import Option, read_options
from optim.search.question import Question
from optim.space import Space, check_weights

State = Literal["pending", "complete", "failed"]
#: first number of the `quality` of a failed trial; 0 is feasible, 1 infeasible
FAILED = 2.0
#: what a searcher has learnt from the finished generations; rebuilt in every `ask`
Learnt = TypeVar("Learnt")


@dataclass(frozen=True)
class Suggestion:
    """One candidate to evaluate."""

    #: generation and index in it, e.g. "g003.07"; unique within a study
    slot: str
    #: one weight per parent, a point of the space on its grid
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Observation:
    """A suggestion that was handed out, and what is known of it by now."""

    slot: str
    weights: tuple[float, ...]
    #: one value per objective, ALL MINIMISED; None unless complete
    values: tuple[float, ...] | None = None
    #: 0 or less: feasible; else the sum of the positive violations
    violation: float = 0.0
    state: State = "pending"
    #: float32 [items], larger is better: margin in nats (choice), 1 or 0 for a right or wrong
    #: answer (exact), nats per token times −1 (text); items as in `Question`; None if not known
    signal: np.ndarray | None = field(default=None, compare=False, repr=False)
    #: bool [items]: another answer than the reference's; False for texts
    changed: np.ndarray | None = field(default=None, compare=False, repr=False)


class Searcher(ABC):
    """Suggests weights.

    Guarantees, tested for every searcher by one suite (tests/contract/test_searchers.py):
    - two searchers built from equal arguments and given the same observations, in any order,
      return the same suggestions; so a study rebuilt from its rows goes on as if uninterrupted;
    - a suggestion depends on finished generations only: while the last trials of one are pending
      `ask` returns [] (random search is one endless generation and never waits);
    - every suggestion is a point of the space; no slot is returned that is among the
      observations;
    - a failed trial is the worst of its generation, never an error.
    """

    #: what a study spec calls it
    name: ClassVar[str]
    #: one line for forms and docs
    summary: ClassVar[str]
    #: what a study spec may set under search.options
    options: ClassVar[tuple[Option, ...]]
    #: whether it learns from single items: it then wants `question`, and observations with signal
    uses_items: ClassVar[bool] = False

    def __init__(
        self,
        *,
        space: Space,
        objectives: int,
        seed: int,
        options: Mapping[str, Any] | None = None,
        question: Question | None = None,
        known: Sequence[Observation] = (),
    ) -> None:
        """`known`: complete results that this search did not suggest: baselines, which may lie
        outside of the bounds, and points of the space that earlier studies found, newest first;
        like everything else here they never change during a study."""
        if space.n < 2:
            raise ValueError(f"space.n: {space.n} parent leaves nothing to search")
        if objectives < 1:
            raise ValueError(f"objectives: {objectives}, needs at least one")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed: {seed!r} is not an integer of 0 or more")
        self.space, self.objectives, self.seed = space, objectives, seed
        self.question, self.known = question, tuple(known)
        self.settings = read_options(self.name, self.options, options or {})

    @abstractmethod
    def ask(self, observations: Sequence[Observation], k: int) -> list[Suggestion]:
        """Up to k suggestions that are not among the observations; [] while it has to wait.

        `observations` are all trials this searcher has suggested so far, finished or not, in any
        order; baselines are not among them. Raises ValueError naming the field of an observation
        that cannot be: an unknown or doubled slot, weights outside the space, a value that is
        missing, of the wrong length, NaN or infinite.
        """

    def health(self, observations: Sequence[Observation]) -> list[str]:
        """What is wrong with the search as this method sees it, a sentence for people each."""
        return []

    def _checked(self, observations: Sequence[Observation]) -> dict[str, Observation]:
        rows: dict[str, Observation] = {}
        for row in observations:
            where = f"observation {row.slot!r}"
            if row.slot in rows:
                raise ValueError(f"{where}: slot occurs twice")
            if row.state not in ("pending", "complete", "failed"):
                raise ValueError(f"{where}: state {row.state!r} is not known")
            check_weights(self.space, row.weights, field=f"{where}: weights")
            if row.state == "complete":
                self._check_result(row, where)
            rows[row.slot] = row
        return rows

    def _check_result(self, row: Observation, where: str) -> None:
        if row.values is None or len(row.values) != self.objectives:
            raise ValueError(f"{where}: values {row.values} are not {self.objectives} numbers")
        if not all(math.isfinite(value) for value in row.values):
            raise ValueError(f"{where}: values {row.values} are not finite")
        if not math.isfinite(row.violation):
            raise ValueError(f"{where}: violation {row.violation} is not finite")


class Generational(Searcher, Generic[Learnt]):
    """A searcher that works in generations: the replay that all of them share."""

    def ask(self, observations: Sequence[Observation], k: int) -> list[Suggestion]:
        """See `Searcher.ask`; slots are those of the first unfinished generation."""
        rows = self._checked(observations)
        learnt, unknown = self._begin(), set(rows)
        for generation in itertools.count():
            slots = [slot_name(generation, i) for i in range(self._size(learnt))]
            found = [rows[slot] for slot in slots if slot in rows]
            unknown.difference_update(slots)
            if len(found) == len(slots) and all(row.state != "pending" for row in found):
                learnt = self._learn(learnt, generation, found)
                continue
            if unknown:
                raise unknown_slot(min(unknown))
            if k < 1 or len(found) == len(slots):
                return []
            proposals = zip(slots, self._propose(learnt, generation), strict=True)
            return [Suggestion(s, w) for s, w in proposals if s not in rows][:k]
        raise AssertionError("unreachable")

    @abstractmethod
    def _begin(self) -> Learnt:
        """What is known before the first generation."""

    @abstractmethod
    def _size(self, learnt: Learnt) -> int:
        """How many trials the coming generation has."""

    @abstractmethod
    def _propose(self, learnt: Learnt, generation: int) -> list[tuple[float, ...]]:
        """All weights of a generation, in slot order; must not change `learnt`'s meaning."""

    @abstractmethod
    def _learn(self, learnt: Learnt, generation: int, rows: list[Observation]) -> Learnt:
        """What is known after a finished generation; `rows` complete or failed, in slot order."""


def slot_name(generation: int, index: int) -> str:
    """The name of a place in a generation: "g003.07"."""
    return f"g{generation:03d}.{index:02d}"


def unknown_slot(slot: str) -> ValueError:
    """The error for an observation that the searcher cannot have suggested."""
    return ValueError(
        f"observation {slot!r}: slot was not suggested by this search; pass its own trials, all "
        "of them, and no baselines"
    )


def quality(row: Observation, weights: Sequence[float] | None = None) -> tuple[float, ...]:
    """Sort key of a finished trial for single-objective use: smaller is better.

    Feasible ones first, by the weighted mean of the values (None: the plain mean, so minus the
    macro average for accuracies), then infeasible ones by violation, then failed ones.
    """
    if row.state == "failed" or row.values is None:
        return (FAILED, 0.0, 0.0)
    shares = weights or (1.0,) * len(row.values)
    scalar = math.fsum(s * v for s, v in zip(shares, row.values, strict=True)) / math.fsum(shares)
    return (1.0, row.violation, scalar) if row.violation > 0 else (0.0, 0.0, scalar)
