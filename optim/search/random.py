"""Random search: the yardstick that any other search has to beat.

Looks at no result, so it never waits for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from optim.search.base import Observation, Searcher, Suggestion, slot_name, unknown_slot
from optim.search.options import Option


class RandomSearch(Searcher):
    """Quasi-random weights: Sobol points with a random shift, made Dirichlet by inversion.

    With concentration 1 they are uniform on the simplex, or on the larger simplex
    {w >= lower} of an affine box, where points beyond `upper` move to the nearest inside.
    All are generation 0.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "covers the space evenly, whatever the results"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="concentration",
            doc="Dirichlet concentration: 1 is uniform, below 1 favours few parents, "
            "above 1 the uniform soup",
            kind="number",
            default=1.0,
            minimum=0.05,
            maximum=100.0,
        ),
    )

    def ask(self, observations: Sequence[Observation], k: int) -> list[Suggestion]:
        """The first k slots that are not among the observations; never waits."""
        rows = self._checked(observations)
        slots = [slot_name(0, i) for i in range(len(rows) + max(k, 0))]
        unknown = set(rows).difference(slots)
        if unknown:
            raise unknown_slot(min(unknown))
        open_slots = [i for i, slot in enumerate(slots) if slot not in rows][: max(k, 0)]
        if not open_slots:
            return []
        return [
            Suggestion(slots[i], weights)
            for i, weights in zip(open_slots, self._weights(open_slots), strict=True)
        ]

    def _weights(self, slots: list[int]) -> list[tuple[float, ...]]:
        """The points of these numbers, counted without those whose result is known."""
        if not self.taken:
            return self._place(self._shares(max(slots) + 1)[slots])
        for extra in (len(self.taken), 2 * len(self.taken)):
            every = self._place(self._shares(max(slots) + 1 + extra))
            found = [weights for weights in every if weights not in self.taken]
            if len(found) > max(slots):
                return [found[i] for i in slots]
        # a space with hardly a point left repeats itself
        return [every[i] for i in slots]

    def _shares(self, count: int) -> np.ndarray:
        """float64 [count, size]: the sequence's first points, uniform on the cube."""
        from scipy.stats.qmc import Sobol

        shift = np.random.default_rng(self.seed).random(self.space.size)
        sobol = Sobol(self.space.size, scramble=False).random_base2((count - 1).bit_length())
        return (sobol[:count] + shift) % 1.0

    def _place(self, shares: np.ndarray) -> list[tuple[float, ...]]:
        """Points of {w >= lower, Σ w = 1} for shares [k, size], moved below `upper`."""
        from scipy.special import gammaincinv

        space = self.space
        mass = gammaincinv(self.settings["concentration"], shares)
        rows = mass.reshape(-1, space.n)
        simplex = (rows / rows.sum(axis=1, keepdims=True)).reshape(shares.shape)
        return space.place_all(np.tile(space.low, space.groups) + (1 - space.low.sum()) * simplex)
