"""CMA-ES on one scalar of the objectives or several: the search of the recycling paper
(2412.04144).

The choices that the paper leaves open are stated in `CmaEs`. It must stay replayable: the random
numbers of a generation depend on the seed and on the generation's number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from optim.pareto import ranks
from optim.search.base import Generational, Observation, quality
from optim.search.directions import directions
from optim.search.options import Option
from optim.search.start import FRESH_TRIES, START, Weights, start_mean, uniform_points

if TYPE_CHECKING:
    from cmaes import CMA, SepCMA

#: more free weights than this are searched with a diagonal covariance: a full one costs their cube
LARGE = 100
#: share of the sum in the augmented Chebyshev scalar (Knowles 2006)
AUGMENTATION = 0.05
#: how far a recomputed suggestion may lie from the evaluated one and still count as it
SAME_WEIGHTS = 1e-5


@dataclass(frozen=True)
class _Descent:
    """One descent: the distribution it has reached, and how many came before on its way."""

    cma: CMA | SepCMA
    #: float64 [objectives]: shares of the objectives; None: equal
    shares: np.ndarray | None
    restarts: int


@dataclass(frozen=True)
class _State:
    """All descents, whose turn it is, and the values of the front so far [f, objectives]."""

    descents: tuple[_Descent, ...]
    turn: int
    front: np.ndarray


class CmaEs(Generational[_State]):
    """Covariance matrix adaptation (Hansen 2016), driven through `cmaes`.

    - Coordinates: those of an orthonormal basis of {Σ d_i = 0} around the uniform soup, so the
      sum is kept by construction and no parent is special.
    - Candidates outside the bounds are projected onto the space and evaluated there. CMA-ES is
      told its own point, unprojected and without a penalty.
    - It is told ranks: feasible before infeasible before failed, feasible ones by the mean of the
      values, infeasible ones by violation. Only ranks matter to CMA-ES, so the units of
      violations and of scores never meet.
    - Start: the better half of the `start` points, recombined with CMA-ES's own log-rank shares,
      else the uniform soup.
    - Population 4 + ⌊3 ln n⌋: 12 for a pool of 16.
    - More than 100 free weights have a diagonal covariance (Ros & Hansen 2008), in the same
      coordinates: going on after 1,000 trials of 16 parents in 32 groups takes .15 s of CPU.
    - Weights whose result is known are drawn again; the new point is told instead.
    - `scalar: chebyshev`: one descent per direction, in turns of a generation. Its scalar is in
      units of the front found so far, its start the best known results in that direction, with
      the same recombination. Restarts keep the direction.
    - A run whose generation spreads less than `tolerance` on every weight has converged: the
      next starts from a random point with twice the population (Auger & Hansen 2005).

    Measured on synthetic pools (12 parents, 5 suites of 200–300 items whose accuracy saturates
    in w; 110 evaluations after the baselines; mean over 60 pools of the true macro average of the
    candidate that looked best; standard error of a difference about .0005 on the simplex): told
    unprojected points .7006, told projected ones .6980, with a penalty on the distance .6957;
    affine box, start from baselines .7371, from the uniform soup .7329; sigma .07 to .15 within
    .0025, .3 up to .01 worse; populations 6 to 12 alike, 16 worse by .004 in the affine box.
    Chebyshev against the mean, as true hypervolume (bench/results/searchers.md, 16 pools): four
    objectives .0302 for .0276 on the simplex, .0332 for .0320 in the affine box, two objectives
    alike; 3 directions instead of 5 for four objectives .0282, populations of 6 up to .003 worse.
    """

    name: ClassVar[str] = "cma-es"
    summary: ClassVar[str] = "adapts a Gaussian towards the best mean of the objectives"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="population",
            doc="trials in a generation; unset: 4 + 3 ln(free weights + 1)",
            kind="integer",
            default=None,
            # of three only one would be a parent, and the covariance has no rate to adapt with
            minimum=4,
        ),
        Option(
            name="sigma",
            doc="first standard deviation of the search, in units of a weight",
            kind="number",
            default=0.07,
            minimum=1e-4,
            maximum=2.0,
        ),
        Option(
            name="scalar",
            doc="what is minimised: mean, the weighted mean of the objectives, or chebyshev, the "
            "worst weighted one in each of several directions, for a whole front",
            kind="choice",
            default="mean",
            choices=("mean", "chebyshev"),
        ),
        Option(
            name="objective_weights",
            doc="weight of each objective in the mean that is minimised; unset: equal",
            kind="numbers",
            default=None,
        ),
        Option(
            name="directions",
            doc="chebyshev: at most so many directions, one descent each; unset: objectives + 1",
            kind="integer",
            default=None,
            minimum=1,
            maximum=1000,
        ),
        Option(
            name="tolerance",
            doc="a generation spreading less than this on every weight has converged: restart",
            kind="number",
            default=1e-3,
            minimum=0.0,
        ),
        START,
    )

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        shares = self.settings["objective_weights"]
        if shares is not None and (
            len(shares) != self.objectives or min(shares) < 0 or math.fsum(shares) <= 0
        ):
            raise ValueError(
                f"search.options.objective_weights: {list(shares)} are not {self.objectives} "
                "numbers of 0 or more, one of them above"
            )
        self._spread = self.settings["scalar"] == "chebyshev"
        unused = "objective_weights" if self._spread else "directions"
        if self.settings[unused] is not None:
            raise ValueError(
                f"search.options.{unused}: means nothing when scalar is {self.settings['scalar']}"
            )
        self._shares: list[np.ndarray | None]
        if self._spread:
            self._shares = list(
                directions(self.objectives, self.settings["directions"] or self.objectives + 1)
            )
        else:
            self._shares = [None if shares is None else np.array(shares)]

    def _begin(self) -> _State:
        usual = 4 + math.floor(3 * math.log(self.space.dimension + 1))
        population = self.settings["population"] or usual
        front = self._front(np.zeros((0, self.objectives)), self.within)
        descents = tuple(
            self._descent(self._start(shares, front, population), population, shares, restarts=0)
            for shares in self._shares
        )
        return _State(descents, 0, front)

    def _start(self, shares: np.ndarray | None, front: np.ndarray, population: int) -> np.ndarray:
        """float64 [size]: `start` for the mean; for a direction what is known to be best there."""
        points = self.settings["start"]
        if self.within and (self._spread or not points):
            best = sorted(self.within, key=lambda row: self._key(row, shares, front))
            points = [row.weights for row in best[:population]]
        return start_mean(self.space, points)

    def _descent(
        self, mean: np.ndarray, population: int, shares: np.ndarray | None, *, restarts: int
    ) -> _Descent:
        from cmaes import CMA, SepCMA

        kind = SepCMA if self.space.dimension > LARGE else CMA
        cma = kind(
            mean=self.space.coordinates(mean),
            sigma=self.settings["sigma"],
            population_size=population,
        )
        return _Descent(cma, shares, restarts)

    def _size(self, learnt: _State) -> int:
        return int(learnt.descents[learnt.turn].cma.population_size)

    def _sample(self, descent: _Descent, generation: int) -> tuple[np.ndarray, list[Weights]]:
        """Points [population, dimension] and their weights; the same whenever it is called."""
        cma = descent.cma
        cma.reseed_rng(_seed(self.seed, generation))
        points = np.array([cma.ask() for _ in range(cma.population_size)])
        return points, self.space.place_all(self.space.embed(points))

    def _propose(self, learnt: _State, generation: int) -> list[Weights]:
        descent = learnt.descents[learnt.turn]
        weights = self._sample(descent, generation)[1]
        rng = np.random.default_rng([self.seed, generation, 2])
        for i in range(len(weights)):
            for attempt in range(2 * FRESH_TRIES):
                if weights[i] not in self.taken:
                    break
                if attempt < FRESH_TRIES:
                    weights[i] = self.space.place(self.space.embed(descent.cma.ask()))
                else:
                    weights[i] = uniform_points(self.space, rng, 1)[0]
        return weights

    def _learn(self, learnt: _State, generation: int, rows: list[Observation]) -> _State:
        descent = learnt.descents[learnt.turn]
        front = self._front(learnt.front, rows)
        keys = [self._key(row, descent.shares, front) for row in rows]
        rank = {key: float(i) for i, key in enumerate(sorted(set(keys)))}
        points, weights = self._sample(descent, generation)
        evaluated = np.array([row.weights for row in rows])
        # another machine's last bits can lead elsewhere, and known weights were drawn again
        other = np.abs(np.array(weights) - evaluated).max(axis=1) > SAME_WEIGHTS
        points[other] = self.space.coordinates(evaluated[other])
        descent.cma.tell([(z, rank[key]) for z, key in zip(points, keys, strict=True)])
        spread = np.std(weights, axis=0).max()
        if spread < self.settings["tolerance"] or descent.cma.should_stop():
            descent = self._restarted(descent, learnt.turn)
        descents = list(learnt.descents)
        descents[learnt.turn] = descent
        return _State(tuple(descents), (learnt.turn + 1) % len(descents), front)

    def _restarted(self, descent: _Descent, turn: int) -> _Descent:
        restarts = descent.restarts + 1
        rng = np.random.default_rng([self.seed, restarts, 1, turn])
        mean = self.space.project(rng.dirichlet(np.ones(self.space.n), self.space.groups).ravel())
        population = 2 * int(descent.cma.population_size)
        return self._descent(mean, population, descent.shares, restarts=restarts)

    def _front(self, front: np.ndarray, rows: Sequence[Observation]) -> np.ndarray:
        """Values of the feasible ones that none of them dominates; chebyshev alone needs them."""
        if not self._spread:
            return front
        found = [row.values for row in rows if row.values is not None and row.violation <= 0]
        both = np.concatenate([front, np.reshape(found, (len(found), self.objectives))])
        if not len(both):
            return both
        return np.unique(both[np.array(ranks(both.tolist(), [0.0] * len(both))) == 1], axis=0)

    def _key(
        self, row: Observation, shares: np.ndarray | None, front: np.ndarray
    ) -> tuple[float, ...]:
        """Sort key: feasible before infeasible before failed, the feasible by the scalar."""
        if not self._spread or row.values is None or not len(front):
            return quality(row, None if self._spread or shares is None else shares.tolist())
        assert shares is not None
        return (*quality(row)[:-1], chebyshev(np.array(row.values), shares, front))


def chebyshev(values: np.ndarray, shares: np.ndarray, front: np.ndarray) -> float:
    """max_j s_j v_j + 0.05 Σ_j v_j (Steuer & Choo 1983), v in units of the front: 0 the best value
    on it, 1 the worst. Unlike a mean it also has its smallest value on a hollow of the front."""
    low, high = front.min(axis=0), front.max(axis=0)
    v = (values - low) / np.where(high > low, high - low, 1.0)
    return float((shares * v).max() + AUGMENTATION * v.sum())


def _seed(seed: int, generation: int) -> int:
    return int(np.random.SeedSequence([seed, generation]).generate_state(1)[0])
