"""Sweeps over known recipes, and two along lines: softmax of losses, pulls to the reference.

What a sweep suggests next follows from the results so far; it ends when its lines are searched as
finely as a noisy score is worth. Every recipe is one of whole models: all groups have the same
weights. Where the checkpoints alone were not evaluated before, a sweep begins with them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from optim.pareto import finalists
from optim.search.base import Generational, Observation, quality
from optim.search.baselines import single_weights, softmax
from optim.search.directions import directions
from optim.search.options import Option
from optim.search.start import Weights

#: sort key of a result, smaller is better
Key = tuple[float, ...]


@dataclass(frozen=True)
class _Seen:
    """All results by their weights, and what the coming generation evaluates."""

    results: Mapping[Weights, Observation]
    plan: tuple[Weights, ...]


class Sweep(Generational[_Seen]):
    """A generation is all that can be evaluated before the next decision."""

    def _begin(self) -> _Seen:
        return self._seen({row.weights: row for row in self.within})

    def _size(self, learnt: _Seen) -> int:
        return len(learnt.plan)

    def _propose(self, learnt: _Seen, generation: int) -> list[Weights]:
        return list(learnt.plan)

    def _learn(self, learnt: _Seen, generation: int, rows: list[Observation]) -> _Seen:
        # by the planned weights: another machine's last bits may have led to others
        new = dict(zip(learnt.plan, rows, strict=True))
        return self._seen({**learnt.results, **new})

    def _seen(self, results: Mapping[Weights, Observation]) -> _Seen:
        return _Seen(results, tuple(dict.fromkeys(self._plan(results))))

    @abstractmethod
    def _plan(self, results: Mapping[Weights, Observation]) -> list[Weights]:
        """Weights without a result to evaluate next; [] when the sweep is done."""

    def _whole(self, row: Sequence[float]) -> Weights:
        """One weight per parent, for every group, as near as the bounds let it."""
        return self.space.place(self.space.repeated(tuple(row)))

    @cached_property
    def _singles(self) -> tuple[Weights, ...]:
        return tuple(self._whole(single_weights(self.space.n, i)) for i in range(self.space.n))

    def _alone(self, results: Mapping[Weights, Observation]) -> dict[int, tuple[float, ...]]:
        """Values of every checkpoint that could be evaluated alone."""
        found = {i: results[weights].values for i, weights in enumerate(self._singles)}
        return {i: values for i, values in found.items() if values is not None}

    def _missing(self, results: Mapping[Weights, Observation]) -> list[Weights]:
        return [weights for weights in self._singles if weights not in results]

    def _key(self, shares: np.ndarray, alone: Sequence[Sequence[float]]) -> Callable[..., Key]:
        """Sort key of a row: feasible first, then by the weighted mean of the values, each in
        units of the range that the checkpoints alone have."""
        low, width = _range(alone)

        def key(row: Observation) -> Key:
            if row.values is None:
                return quality(row)
            return (*quality(row)[:-1], float(shares @ ((np.array(row.values) - low) / width)))

        return key

    def _narrowed(
        self,
        at: Callable[[float], Weights],
        grid: Sequence[float],
        finest: float,
        key: Callable[[Observation], Key],
        results: Mapping[Weights, Observation],
    ) -> list[Weights]:
        """The next points of a line: its grid, then the middles beside its best point so far, as
        long as these are more than `finest` away from it."""
        points = {position: at(position) for position in sorted(grid)}
        while all(weights in results for weights in points.values()):
            order = sorted(points)
            best = min(order, key=lambda position: key(results[points[position]]))
            i = order.index(best)
            beside = [(order[j] + best) / 2 for j in (i - 1, i + 1) if 0 <= j < len(order)]
            new = [position for position in beside if abs(position - best) > finest]
            if not new:
                return []
            points.update({position: at(position) for position in new})
        return [weights for weights in points.values() if weights not in results]


def _range(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest value per objective and how far the largest is above it, 1 where they are equal."""
    low, high = np.min(np.array(values), axis=0), np.max(np.array(values), axis=0)
    return low, np.where(high > low, high - low, 1.0)


class Mixing(Sweep):
    """A sweep that sees every checkpoint alone, and goes on from how they do."""

    def _plan(self, results: Mapping[Weights, Observation]) -> list[Weights]:
        return self._missing(results) or self._mixed(self._alone(results), results)

    @abstractmethod
    def _mixed(
        self, alone: Mapping[int, tuple[float, ...]], results: Mapping[Weights, Observation]
    ) -> list[Weights]:
        """Mixes without a result to evaluate next, `alone` being what `_alone` knows."""


WEIGHTINGS = Option(
    name="weightings",
    doc="at most so many weightings of the objectives, equal shares first",
    kind="integer",
    default=5,
    minimum=1,
    maximum=1000,
)


class Softmax(Mixing):
    """w_i ∝ exp(−loss_i / τ), LM-Cocktail (Xiao et al. 2311.13534), over temperatures τ.

    - The loss of a checkpoint is the weighted mean of its objectives, each as a share of the range
      that the checkpoints have: a temperature means the same for every study.
    - Every weighting of the objectives is a line; after the given temperatures it goes on between
      those beside its best one, until they differ by less than a twentieth.
    - All checkpoints that could be evaluated take part, feasible or not; which mixture is best is
      decided by feasibility first.
    """

    name: ClassVar[str] = "softmax"
    summary: ClassVar[str] = "mixes checkpoints by how well each does alone: a few dozen trials"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="temperatures",
            doc="in units of the range of the checkpoints' losses: small ones pick the best",
            kind="numbers",
            default=(0.05, 0.1, 0.2, 0.5, 1.0),
            minimum=1e-3,
            maximum=1e3,
        ),
        WEIGHTINGS,
    )

    def _mixed(
        self, alone: Mapping[int, tuple[float, ...]], results: Mapping[Weights, Observation]
    ) -> list[Weights]:
        if len(alone) < 2:
            return []
        low, width = _range(list(alone.values()))
        losses = (np.array(list(alone.values())) - low) / width
        grid = [math.log(t) for t in self.settings["temperatures"]]
        found = []
        for shares in directions(self.objectives, self.settings["weightings"]):
            means = (losses @ shares).tolist()

            def at(position: float, means: Sequence[float] = means) -> Weights:
                mixed = dict(zip(alone, softmax(means, math.exp(position)), strict=True))
                return self._whole([mixed.get(i, 0.0) for i in range(self.space.n)])

            key = self._key(shares, list(alone.values()))
            found += self._narrowed(at, grid, 0.05, key, results)
        return found


class Bcwi(Sweep):
    """Interpolation between the reference and good candidates: backward-compatible weight
    interpolation (Schumann et al. 2301.10546), against negative flips.

    - A line runs from the reference (α = 0) to each target (α = 1); after the given α it goes on
      beside its best point, until its neighbours are 1/32 away. Best: feasible first, then by the
      mean of the objectives, each as a share of the range of what is known.
    - Targets are the loneliest members of the front of what is known, constraints left aside: a
      candidate that breaks one is what a pull towards the reference may mend.
    """

    name: ClassVar[str] = "bcwi"
    summary: ClassVar[str] = "pulls good candidates towards the reference: fewer negative flips"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="alphas",
            doc="shares of the candidate to try first, between 0 and 1",
            kind="numbers",
            default=(0.25, 0.5, 0.75),
            minimum=0.0,
            maximum=1.0,
        ),
        Option(
            name="targets",
            doc="at most so many candidates to interpolate with",
            kind="integer",
            default=4,
            minimum=1,
            maximum=1000,
        ),
        Option(
            name="reference",
            doc="weights of the reference, one per checkpoint; unset: the study's, else the first "
            "checkpoint of which results are known, else the first",
            kind="numbers",
            default=None,
        ),
    )

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        given = self.settings["reference"]
        if given is not None and len(given) != self.space.n:
            raise ValueError(
                f"search.options.reference: {len(given)} weights for {self.space.n} checkpoints"
            )
        known = [row.weights for row in self.within if row.weights in self._singles]
        self._reference = self._whole(given) if given else (known or self._singles)[0]

    def _plan(self, results: Mapping[Weights, Observation]) -> list[Weights]:
        ends = [row for row in self.within if row.weights != self._reference]
        if not ends:
            if self._missing(results):
                return self._missing(results)
            ends = [results[w] for w in self._singles if w != self._reference]
        if self._reference not in results:
            return [self._reference]
        told = [row for row in ends if row.values is not None]
        reference = results[self._reference]
        if not told or reference.values is None:
            return []
        values = [row.values for row in told]
        shares = np.full(self.objectives, 1 / self.objectives)
        key = self._key(shares, [reference.values, *(v for v in values if v is not None)])
        start = np.array(self._reference)
        found = []
        for i in finalists(values, [0.0] * len(told), self.settings["targets"]):
            end = np.array(told[i].weights)

            def at(alpha: float, end: np.ndarray = end) -> Weights:
                return self.space.place((1 - alpha) * start + alpha * end)

            grid = [0.0, *self.settings["alphas"], 1.0]
            found += self._narrowed(at, grid, 1 / 64, key, results)
        return found
