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
        points = self._points(open_slots[-1] + 1)
        return [Suggestion(slots[i], self._place(points[i])) for i in open_slots]

    def _points(self, count: int) -> np.ndarray:
        """float64 [>= count, size]: the sequence's first points, every row on the simplex."""
        from scipy.special import gammaincinv
        from scipy.stats.qmc import Sobol

        size, n = self.space.size, self.space.n
        shift = np.random.default_rng(self.seed).random(size)
        sobol = Sobol(size, scramble=False).random_base2((count - 1).bit_length())
        mass = gammaincinv(self.settings["concentration"], (sobol + shift) % 1.0)
        rows = mass.reshape(len(mass), self.space.groups, n)
        return (rows / rows.sum(axis=2, keepdims=True)).reshape(len(mass), size)

    def _place(self, point: np.ndarray) -> tuple[float, ...]:
        """A point of {w >= lower, Σ w = 1} for one of the simplex, moved below `upper`."""
        low = np.tile(self.space.low, self.space.groups)
        return self.space.place(low + (1 - self.space.low.sum()) * point)
