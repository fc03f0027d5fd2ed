"""Searches with a model of the objectives, Optuna's samplers: TPE and Gaussian processes.

Optuna is used as a library only: for each generation an in-memory study is filled with rows and
asked for points. It must never be asked for a result of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from optim.pareto import finalists
from optim.search.base import Generational, Observation
from optim.search.options import Option
from optim.search.start import (
    START,
    Weights,
    best_first,
    better_half,
    fresh,
    mixtures,
    uniform_points,
)
from optim.search.subspace import extent, subspace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

#: a model sees this many coordinates at most; larger spaces are searched in a subspace
MOST_AXES = 32
#: Gaussian processes: points looked at in a round, how many of them lead to the next, and the
#: standard deviations of the steps from them, in units of a weight
CANDIDATES, LEADERS, STEPS = 192, 8, (0.1, 0.05, 0.02, 0.01)


class _Modelled(Generational[tuple[Observation, ...]]):
    """What both have in common.

    - Coordinates: those of `Space.embed`, with more than 32 free weights those of a `subspace` of
      32 about the start points: the rest of the space is not searched.
    - A point outside the bounds is projected onto the space, and the model is told the projected
      point as still running, so that it looks elsewhere for the next one of the generation.
    - The model learns from what is known and from all finished generations, of more than `_most`
      rows the better half of `_most` by constrained rank and spread, and the newest of the others.
    - A failed trial counts as bad as the worst in every objective and in the violation.
    - The first generation mixes three random ones of the better half of the `start` points, or of
      what is known, else it is uniform on the simplex.
    """

    #: rows the model is given at most, so that its cost does not grow without end
    _most: ClassVar[int]

    @abstractmethod
    def _sampler(self, rows: Sequence[Observation], seed: int) -> BaseSampler:
        """Optuna's sampler, new."""

    def _begin(self) -> tuple[Observation, ...]:
        # the newest of what is known stand first, those of a search last
        return self.within[::-1]

    def _size(self, learnt: tuple[Observation, ...]) -> int:
        return int(self.settings["population"])

    def _learn(
        self, learnt: tuple[Observation, ...], generation: int, rows: list[Observation]
    ) -> tuple[Observation, ...]:
        return (*learnt, *rows)

    def _propose(self, learnt: tuple[Observation, ...], generation: int) -> list[Weights]:
        rng = np.random.default_rng([self.seed, generation])
        seen = {row.weights for row in learnt}
        rows = evidence(learnt, self._most)
        if generation == 0 or not rows:
            points = self.settings["start"] or best_first(self.within)
            pool = better_half(self.space, points)
            draw = lambda count: mixtures(self.space, pool, rng, count)  # noqa: E731
            return fresh(self.space, self._size(learnt), seen, draw, rng)
        study, box = self._study(rows, seed=int(rng.integers(2**32)))

        def asked(count: int) -> list[Weights]:
            return [self._asked(study, box) for _ in range(count)]

        return fresh(self.space, self._size(learnt), seen, asked, rng)

    def _asked(self, study: Study, box: dict[str, BaseDistribution]) -> Weights:
        import optuna

        trial = study.ask(box)
        x = np.array([trial.params[name] for name in box])
        weights = self.space.place(self.space.embed(self._axes @ x))
        # what runs is the projected point, not the one that was asked for
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=self._params(weights),
                distributions=box,
            )
        )
        return weights

    def _study(
        self, rows: Sequence[Observation], *, seed: int
    ) -> tuple[Study, dict[str, BaseDistribution]]:
        """An in-memory study holding the rows, about to suggest the next point."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        low, high = self._box
        box: dict[str, BaseDistribution] = {
            f"x{i:02d}": optuna.distributions.FloatDistribution(a, b)
            for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True))
        }
        study = optuna.create_study(
            directions=["minimize"] * self.objectives, sampler=self._sampler(rows, seed)
        )
        violations = [row.violation for row in rows]
        constrained = max(violations) > 0
        study.add_trials(
            optuna.trial.create_trial(
                params=self._params(row.weights),
                distributions=box,
                values=list(row.values or ()),
                constraints={"violation": row.violation} if constrained else None,
            )
            for row in rows
        )
        return study, box

    def _params(self, weights: Sequence[float]) -> dict[str, float]:
        x = np.clip(self._axes.T @ self.space.coordinates(weights), *self._box)
        return {f"x{i:02d}": value for i, value in enumerate(x.tolist())}

    @cached_property
    def _axes(self) -> np.ndarray:
        """float64 [dimension, d <= 32]: orthonormal directions in coordinates of the space."""
        points = self.settings["start"] or best_first(self.within)
        return subspace(self.space, points, MOST_AXES, np.random.default_rng([self.seed, 3]))

    @cached_property
    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        return extent(self.space, self._axes)


class Tpe(_Modelled):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; several objectives and constraints
    as in Ozaki et al. 2022 and Watanabe & Hutter 2211.14411), multivariate.

    Measured on pools of `bench/search.py --beds cases` (10, 110 trials, macro, affine box):
    looking for weights in [−0.1, 1.1] .6444, in [0, 1] .6296, in [−0.25, 1.25] .6386, in all of
    [−0.5, 1.5] .6270; each coordinate by itself (Optuna's default for several objectives) .6263.
    """

    name: ClassVar[str] = "tpe"
    summary: ClassVar[str] = "draws from where good results were dense and bad ones rare"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="population",
            doc="trials in a generation: all are drawn from one model",
            kind="integer",
            default=8,
            minimum=1,
            maximum=100,
        ),
        START,
    )
    #: 1,000 trials of 16 parents: .25 s of CPU, with 32 groups the same
    _most: ClassVar[int] = 300

    def _sampler(self, rows: Sequence[Observation], seed: int) -> BaseSampler:
        import optuna

        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


class Gp(_Modelled):
    """Gaussian processes, one per objective and one for the violation; the next point is where
    the expected gain of hypervolume (one objective: of the value) times the probability of being
    feasible is largest (Ament et al. 2310.20708, Daulton et al. 2006.05078).

    That point is looked for in the space. Optuna's own search in the box around it had its points
    projected onto few faces and asked for them again and again: 60 s of CPU for 40 trials on the
    simplex of 12 parents where this takes 1.5 s and finds more (.6442 for .6346).
    """

    name: ClassVar[str] = "gp"
    summary: ClassVar[str] = "fits smooth surfaces to few results; the most thought per candidate"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="population",
            doc="trials in a generation; each is chosen with the earlier ones in mind",
            kind="integer",
            default=4,
            minimum=1,
            maximum=100,
        ),
        START,
    )
    #: 1,000 trials of 16 parents and 3 objectives: 5 s of CPU for 4 points, two of them imports
    _most: ClassVar[int] = 100

    def _sampler(self, rows: Sequence[Observation], seed: int) -> BaseSampler:
        import optuna

        rng, inside = np.random.default_rng(seed), self._most_wanted
        best = np.array(best_first(rows)[:LEADERS])

        class Inside(optuna.samplers.GPSampler):
            """Looks for the most wanted point in the space, not in the box around it: what lies
            between them is projected onto few faces, and would be wanted again and again."""

            def _optimize_acqf(self, acqf: Any, best_params: Any) -> np.ndarray:
                return inside(acqf.eval_acqf_no_grad, best, rng)

        return Inside(seed=seed, n_startup_trials=1)

    def _most_wanted(
        self,
        wanted: Callable[[np.ndarray], np.ndarray],
        best: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """float64 [d], as a share of the box: uniform points, mixtures of the best rows and those
        rows, then ever smaller steps from the most wanted of them."""
        low, high = self._box

        def inside(weights: np.ndarray) -> np.ndarray:
            x = self.space.coordinates(self.space.project(weights)) @ self._axes
            return (np.clip(x, low, high) - low) / np.maximum(high - low, 1e-12)

        drawn: list[Any] = [
            uniform_points(self.space, rng, CANDIDATES),
            mixtures(self.space, best, rng, CANDIDATES),
            best,
        ]
        found = inside(np.concatenate(drawn))
        gain = wanted(found)
        for step in STEPS:
            leaders = found[np.argsort(-gain, kind="stable")[:LEADERS]]
            moved = np.repeat(low + leaders * (high - low), CANDIDATES // LEADERS, axis=0)
            moved += step * rng.normal(size=moved.shape)
            found = np.concatenate([leaders, inside(self.space.embed(moved @ self._axes.T))])
            gain = wanted(found)
        return found[np.argmax(gain)]


def evidence(rows: Sequence[Observation], most: int) -> list[Observation]:
    """At most `most` rows in their order, failed and stopped ones given the worst violation,
    failed ones the worst values too.

    Of more rows half are the best by constrained rank and spread, the others the newest. None
    when no row is complete.
    """
    told = [row for row in rows if row.values is not None]
    if not told:
        return []
    worst = tuple(np.max(np.array([row.values or () for row in told]), axis=0).tolist())
    violation = max(row.violation for row in told)
    filled = [
        row
        if row.values is not None
        else Observation(row.slot, row.weights, row.estimate or worst, violation, "complete")
        for row in rows
    ]
    if len(filled) <= most:
        return filled
    kept = set(
        finalists([row.values for row in filled], [row.violation for row in filled], most // 2)
    )
    newest = [i for i in reversed(range(len(filled))) if i not in kept]
    kept.update(newest[: most - len(kept)])
    return [filled[i] for i in sorted(kept)]
