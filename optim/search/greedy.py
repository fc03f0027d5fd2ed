"""Growing soups, a sweep that asks of every checkpoint at once whether it should join."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from optim.search.base import Observation
from optim.search.baselines import single_weights
from optim.search.directions import directions
from optim.search.options import Option
from optim.search.start import Weights
from optim.search.sweeps import WEIGHTINGS, Key, Mixing


class Greedy(Mixing):
    """Greedy soups with replacement: weights k/m, as ensembles are grown by Caruana et al. (2004).

    - A soup begins with the best checkpoint for a weighting of the objectives. In each step every
      checkpoint is tried as its next member, also one that is in it already; the best of these
      soups, if better than the last, is the new one. Where none is, all members are doubled, so
      that the next step is finer, up to `members`.
    - The weightings take turns, the smallest soup first, and use each other's results.
    - Unlike the baseline, which asks each checkpoint once, a generation is as many trials as there
      are checkpoints, all at the same time.
    """

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "grows soups, one member at a time; a checkpoint may join again"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="members",
            doc="members of a soup at most, a checkpoint counted as often as it joined",
            kind="integer",
            default=16,
            minimum=2,
            maximum=1000,
        ),
        Option(
            name="parents",
            doc="only so many checkpoints, those best alone, may join",
            kind="integer",
            default=16,
            minimum=2,
            maximum=1000,
        ),
        WEIGHTINGS,
    )

    def _mixed(
        self, alone: Mapping[int, tuple[float, ...]], results: Mapping[Weights, Observation]
    ) -> list[Weights]:
        if not alone:
            return []
        grown = [
            self._grown(self._key(shares, list(alone.values())), list(alone), results)
            for shares in directions(self.objectives, self.settings["weightings"])
        ]
        steps = [(members, step) for members, step in grown if step]
        return min(steps, key=lambda one: one[0])[1] if steps else []

    def _grown(
        self,
        key: Callable[[Observation], Key],
        parents: Sequence[int],
        results: Mapping[Weights, Observation],
    ) -> tuple[int, list[Weights]]:
        """How many members a soup has by now, and which soups it has to see next."""
        order = sorted(parents, key=lambda i: key(results[self._singles[i]]))
        soup = single_weights(self.space.n, order[0])
        best = key(results[self._singles[order[0]]])
        members = 1
        while members < self.settings["members"]:
            larger = []
            for i in order[: self.settings["parents"]]:
                more = list(soup)
                more[i] += 1.0
                larger.append(tuple(more))
            places = [self._soup(counts) for counts in larger]
            unseen = [place for place in places if place not in results]
            if unseen:
                return members, unseen
            keys = [key(results[place]) for place in places]
            if min(keys) < best:
                best = min(keys)
                soup, members = larger[keys.index(best)], members + 1
            else:
                soup, members = tuple(2 * count for count in soup), 2 * members
        return members, []

    def _soup(self, counts: Weights) -> Weights:
        """Placed once: the climb is replayed from its start after every generation."""
        if counts not in self._placed:
            self._placed[counts] = self._whole([c / sum(counts) for c in counts])
        return self._placed[counts]

    @cached_property
    def _placed(self) -> dict[Weights, Weights]:
        return {}
