"""NSGA-II and NSGA-III on the objectives themselves: they look for the whole front rather than one
best mean. Both breed alike and differ in who survives a generation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optim.pareto import finalists, ranks
from optim.search.base import Generational, Observation
from optim.search.directions import directions
from optim.search.options import Option
from optim.search.start import START, Weights, best_first, better_half, fresh, mixtures

#: mutations may lead this share of the box's width outside it, before they are projected
MARGIN = 0.25
#: share of children with two parents; the others are mutations of one
CROSSED = 0.9
#: how far beyond its parents a child may lie, as a share of their distance (BLX-α)
BLEND = 0.5


@dataclass(frozen=True)
class _Herd:
    """Who may breed, and everything that was ever evaluated."""

    parents: tuple[Observation, ...]
    #: smaller wins a tournament; one per parent
    merits: tuple[int, ...]
    seen: frozenset[Weights]


class _Nsga(Generational[_Herd]):
    """What both have in common.

    - Individuals are the weights themselves, as evaluated; a child is projected onto the space.
    - Constraint domination: feasible before infeasible, infeasible ones by violation; failed
      trials never breed.
    - Parents by binary tournaments; BLX-α crossover (Eshelman & Schaffer 1993), mutation by
      drawing one weight of a child anew.
    - The first generation mixes three random ones of the better half of the `start` points, or
      of what is known, else it is uniform on the simplex. What is known may survive it.
    - A child whose weights were seen before is bred again.

    Measured against Optuna's NSGA-II with the same crossover (10 pools of
    `bench/search.py --beds cases`, 110 trials): macro averages +.003, +.009, −.001 and .000,
    hypervolumes within .0015. Going on after 1,000 trials of 16 parents took it .33 s, with 32
    groups 4.0 s; here .02 and .04 s.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        points = self.settings["start"] or best_first(self.within)
        self._pool = better_half(self.space, points)

    def _begin(self) -> _Herd:
        return self._selected(self.within, self.taken)

    def _size(self, learnt: _Herd) -> int:
        return int(self.settings["population"])

    def _learn(self, learnt: _Herd, generation: int, rows: list[Observation]) -> _Herd:
        return self._selected([*learnt.parents, *rows], learnt.seen | {row.weights for row in rows})

    def _selected(self, rows: Sequence[Observation], seen: frozenset[Weights]) -> _Herd:
        told = [row for row in rows if row.values is not None]
        chosen, merits = self._survivors(told)
        return _Herd(tuple(told[i] for i in chosen), tuple(merits), seen)

    @abstractmethod
    def _survivors(self, rows: Sequence[Observation]) -> tuple[list[int], list[int]]:
        """Indices of at most `population` rows that live on, and how they fare in tournaments."""

    def _propose(self, learnt: _Herd, generation: int) -> list[Weights]:
        rng = np.random.default_rng([self.seed, generation])

        def draw(count: int) -> list[Weights]:
            if generation == 0 or len(learnt.parents) < 2:
                return mixtures(self.space, self._pool, rng, count)
            return self._children(learnt, rng, count)

        return fresh(self.space, self._size(learnt), learnt.seen, draw, rng)

    def _children(self, herd: _Herd, rng: np.random.Generator, count: int) -> list[Weights]:
        space = self.space
        parents, merits = np.array([row.weights for row in herd.parents]), np.array(herd.merits)
        rivals = rng.integers(len(parents), size=(2, count, 2))
        won = np.where(merits[rivals[0]] <= merits[rivals[1]], rivals[0], rivals[1])
        mother, father = parents[won[:, 0]], parents[won[:, 1]]
        reach = BLEND * np.abs(mother - father)
        low, high = np.minimum(mother, father) - reach, np.maximum(mother, father) + reach
        blended = low + rng.random(low.shape) * (high - low)
        child = np.where(rng.random((count, 1)) < CROSSED, blended, mother)
        margin = MARGIN * (space.high - space.low)
        bounds = np.tile([space.low - margin, space.high + margin], space.groups)
        anew = bounds[0] + rng.random(child.shape) * (bounds[1] - bounds[0])
        return space.place_all(np.where(rng.random(child.shape) < 1 / space.size, anew, child))


def _population(doc: str) -> Option:
    return Option(name="population", doc=doc, kind="integer", default=16, minimum=4)


class NsgaII(_Nsga):
    """Non-dominated sorting genetic algorithm II (Deb et al. 2002): lonely ones survive."""

    name: ClassVar[str] = "nsga-ii"
    summary: ClassVar[str] = "breeds a front of trade-offs between the objectives"
    options: ClassVar[tuple[Option, ...]] = (
        _population("trials in a generation, and parents that survive it"),
        START,
    )

    def _survivors(self, rows: Sequence[Observation]) -> tuple[list[int], list[int]]:
        values, violations = [row.values for row in rows], [row.violation for row in rows]
        chosen = finalists(values, violations, self.settings["population"])
        return chosen, list(range(len(chosen)))


class NsgaIII(_Nsga):
    """NSGA-III (Deb & Jain 2014): of the last front to survive, those in empty niches do.

    A niche is one direction of the simplex lattice; there are as many as the population has room
    for. Values are scaled by the best and the worst on the first front, and where the paper draws
    a member of a niche by lot, the one nearest to its direction is taken.
    """

    name: ClassVar[str] = "nsga-iii"
    summary: ClassVar[str] = "breeds a front spread over directions: for four objectives and more"
    options: ClassVar[tuple[Option, ...]] = (
        _population("trials in a generation, parents that survive it, and at most so many niches"),
        START,
    )

    def _survivors(self, rows: Sequence[Observation]) -> tuple[list[int], list[int]]:
        violations = [row.violation for row in rows]
        found = [r or 0 for r in ranks([row.values for row in rows], violations)]
        chosen: list[int] = []
        for rank in sorted(set(found)):
            members = [i for i, r in enumerate(found) if r == rank]
            room = self.settings["population"] - len(chosen)
            if len(members) > room and violations[members[0]] <= 0:
                points = np.array([rows[i].values for i in [*chosen, *members]])
                best = points[: found.count(1)]
                members = [members[i] for i in self._niched(points, best, len(chosen), room)]
            chosen += members[:room]
        return chosen, [found[i] for i in chosen]

    def _niched(self, points: np.ndarray, best: np.ndarray, kept: int, room: int) -> list[int]:
        """Which `room` of the points behind the first `kept` fill the emptiest niches; `best`:
        the first front."""
        rays = directions(self.objectives, self.settings["population"])
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        low = best.min(axis=0)
        width = best.max(axis=0) - low
        scaled = (points - low) / np.where(width > 0, width, 1.0)
        along = scaled @ rays.T
        off = np.sqrt(np.maximum((scaled**2).sum(axis=1, keepdims=True) - along**2, 0.0))
        niche, distance = off.argmin(axis=1), off.min(axis=1)
        crowd = np.bincount(niche[:kept], minlength=len(rays)).astype(np.float64)
        left = sorted(range(kept, len(points)), key=lambda i: (distance[i], i))
        chosen: list[int] = []
        while len(chosen) < room:
            emptiest = min({int(niche[i]) for i in left}, key=lambda j: (crowd[j], j))
            member = next(i for i in left if niche[i] == emptiest)
            left.remove(member)
            crowd[emptiest] += 1
            chosen.append(member - kept)
        return chosen
