"""The contract every searcher keeps, and the bookkeeping they share.

A searcher keeps nothing between calls: what it suggests is a pure function of (space, objectives,
seed, options) and of the observations of finished generations. It must never let the order or the
moment at which results arrive change a suggestion, and never hand out a slot twice.
"""

from __future__ import annotations

import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np

from optim.search.options import Option, read_options
from optim.search.question import Question
from optim.space import Space, check_weights

State = Literal["pending", "complete", "stopped", "failed"]
#: first number of the `quality` of a trial: 0 is feasible, 1 infeasible
STOPPED, FAILED = 0.5, 2.0
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
class Remark:
    """What a searcher says of its own search."""

    #: a sentence for people, without its full stop
    what: str
    #: False: how well it does
    wrong: bool


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
    #: answer (exact), nats per token times −1 (text); items as in `Question`; None if not known.
    #: Of a stopped trial, NaN for items that were not scored
    signal: np.ndarray | None = field(default=None, compare=False, repr=False)
    #: bool [items]: another answer than the reference's; False for texts
    changed: np.ndarray | None = field(default=None, compare=False, repr=False)
    #: stopped: what the values would be by the items that were scored, ALL MINIMISED; `violation`
    #: is by the same items. Worse than they look: it was stopped because of them
    estimate: tuple[float, ...] | None = None


class Searcher(ABC):
    """Suggests weights.

    Guarantees, tested for every searcher by one suite (tests/contract/test_searchers.py):
    - two searchers built from equal arguments and given the same observations, in any order,
      return the same suggestions; so a study rebuilt from its rows goes on as if uninterrupted;
    - a suggestion depends on finished generations only: while the last trials of one are pending
      `ask` returns [] (random search is one endless generation and never waits);
    - every suggestion is a point of the space, and none whose result is `known`; no slot is
      returned that is among the observations;
    - a failed trial is the worst of its generation, never an error; a stopped one is finished,
      and has an estimate instead of values.
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
        for row in self.known:
            where = f"known {row.slot!r}"
            if row.state != "complete" or len(row.weights) != space.size:
                raise ValueError(f"{where}: is no complete result of {space.size} weights")
            self._check_result(row.values, "values", row.violation, where)

    @cached_property
    def within(self) -> tuple[Observation, ...]:
        """What is known of points of this space, moved to its grid."""
        inside = [row for row in self.known if self.space.contains(row.weights, tolerance=1e-6)]
        return tuple(replace(row, weights=self.space.place(row.weights)) for row in inside)

    @cached_property
    def taken(self) -> frozenset[tuple[float, ...]]:
        """Weights whose results are known, so that suggesting them would teach nothing."""
        return frozenset(row.weights for row in self.within)

    @abstractmethod
    def ask(self, observations: Sequence[Observation], k: int) -> list[Suggestion]:
        """Up to k suggestions that are not among the observations; [] while it has to wait.

        [] although nothing is pending: there is nothing more to suggest, the search is over.

        `observations` are all trials this searcher has suggested so far, finished or not, in any
        order; baselines are not among them. Raises ValueError naming the field of an observation
        that cannot be: an unknown or doubled slot, weights outside the space, a value that is
        missing, of the wrong length, NaN or infinite.
        """

    def remarks(self, observations: Sequence[Observation]) -> list[Remark]:
        """What people should know of how this method does, well or not; what it cannot say is
        left out."""
        return []

    def _checked(self, observations: Sequence[Observation]) -> dict[str, Observation]:
        rows: dict[str, Observation] = {}
        for row in observations:
            where = f"observation {row.slot!r}"
            if row.slot in rows:
                raise ValueError(f"{where}: slot occurs twice")
            if row.state not in get_args(State):
                raise ValueError(f"{where}: state {row.state!r} is not known")
            check_weights(self.space, row.weights, field=f"{where}: weights")
            if row.state == "complete":
                self._check_result(row.values, "values", row.violation, where)
            if row.state == "stopped":
                self._check_result(row.estimate, "estimate", row.violation, where)
            rows[row.slot] = row
        return rows

    def _check_result(
        self, values: Sequence[float] | None, name: str, violation: float, where: str
    ) -> None:
        if values is None or len(values) != self.objectives:
            raise ValueError(f"{where}: {name} {values} are not {self.objectives} numbers")
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{where}: {name} {values} are not finite")
        if not math.isfinite(violation):
            raise ValueError(f"{where}: violation {violation} is not finite")


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
            if slots and len(found) == len(slots) and all(row.state != "pending" for row in found):
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
        """How many trials the coming generation has; 0 when the search is over."""

    @abstractmethod
    def _propose(self, learnt: Learnt, generation: int) -> list[tuple[float, ...]]:
        """All weights of a generation, in slot order; must not change `learnt`'s meaning."""

    @abstractmethod
    def _learn(self, learnt: Learnt, generation: int, rows: list[Observation]) -> Learnt:
        """What is known after a finished generation; `rows` complete or failed, in slot order."""


def slot_name(generation: int, index: int) -> str:
    """The name of a place in a generation: "g003.07"."""
    return f"g{generation:03d}.{index:02d}"


def generation_of(slot: str) -> int | None:
    """The generation of a slot that a searcher named; None for a baseline's."""
    found = re.fullmatch(r"g(\d{3,})\.\d{2,}", slot)
    return int(found[1]) if found else None


def unknown_slot(slot: str) -> ValueError:
    """The error for an observation that the searcher cannot have suggested."""
    return ValueError(
        f"observation {slot!r}: slot was not suggested by this search; pass its own trials, all "
        "of them, and no baselines"
    )


def quality(row: Observation, weights: Sequence[float] | None = None) -> tuple[float, ...]:
    """Sort key of a finished trial for single-objective use: smaller is better.

    Feasible ones first, by the weighted mean of the values (None: the plain mean, so minus the
    macro average for accuracies), then infeasible ones by violation, then failed ones. A stopped
    one counts by its estimate, for its order among its like is what is known of it: behind every
    complete one that is feasible, whose values are certain, or among the infeasible ones.
    """
    values = row.estimate if row.state == "stopped" else row.values
    if row.state == "failed" or values is None:
        return (FAILED, 0.0, 0.0)
    shares = weights or (1.0,) * len(values)
    scalar = math.fsum(s * v for s, v in zip(shares, values, strict=True)) / math.fsum(shares)
    if row.violation > 0:
        return (1.0, row.violation, scalar)
    return (STOPPED if row.state == "stopped" else 0.0, 0.0, scalar)
