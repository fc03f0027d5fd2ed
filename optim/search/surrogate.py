"""Searches on a model of the study: what a recipe would score is predicted from all evaluated ones.

The models learn from the weights alone (kernel ridge, `optim.search.ridge`), are fitted anew for
every generation, and judge themselves on results they had not seen. Their numbers steer proposals
and are never results.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from optim.pareto import ranks
from optim.search.base import Generational, Observation, Remark
from optim.search.gain import choose_batch
from optim.search.model import ItemModel, MetricModel, Model
from optim.search.options import Option
from optim.search.start import START, start_mean
from optim.space import Space

#: results that a model is fitted on, newest first: keeps a fit within a second or two
MOST_RESULTS = 300
#: results without which nothing is modelled
FEWEST = 3
#: below this out-of-fold rank correlation half of a generation explores
TRUSTED = 0.5
#: standard deviation of exploring steps, in units of a weight
STEP = 0.07
#: tries for a point that nobody has evaluated yet
FRESH_TRIES = 20


class Surrogate(Generational[list[Observation]]):
    """What both surrogates share: generations of proposals on a model's predicted front.

    - The baselines and earlier studies' results are learnt from like its own.
    - The first generation explores around the better half of the baselines.
    - Every later one takes, one by one, the points of the model's predicted front with the
      largest expected gain of hypervolume (one objective: of the best value), feasibility first;
      none close to another of the generation.
    - Where the model does not predict (rank correlation of left-out results below 0.5), half of
      a generation explores around what is best so far.
    """

    options: ClassVar[tuple[Option, ...]] = (
        Option(
            name="population",
            doc="trials in a generation; the model is fitted anew after each",
            kind="integer",
            default=6,
            minimum=1,
            maximum=64,
        ),
        START,
    )

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._mean = start_mean(self.space, self.settings["start"])

    @abstractmethod
    def _model(self, rows: Sequence[Observation]) -> Model | None:
        """Fitted on these results; None where there are too few of use."""

    def rank_correlation(self, observations: Sequence[Observation]) -> float | None:
        """Spearman's correlation of measured values and of those predicted without them, mean
        over the objectives; None before the first model."""
        rows = self._checked(observations)
        model = self._fitted(list(rows.values()))
        return None if model is None else model.rank_correlation

    def remarks(self, observations: Sequence[Observation]) -> list[Remark]:
        """How well the model predicts, by results that were left out of it one by one."""
        found = self.rank_correlation(observations)
        if found is None:
            return []
        if found < TRUSTED:
            what = (
                "The model does not predict results that it has not seen (rank correlation "
                f"{found:.2f}), so half of what is evaluated explores"
            )
        else:
            what = (
                "The searcher's model puts candidates that it has not seen into the right order "
                f"with a rank correlation of {found:.2f} (1: always, 0: never better than chance)"
            )
        return [Remark(what, wrong=found < TRUSTED)]

    def _begin(self) -> list[Observation]:
        return []

    def _size(self, learnt: list[Observation]) -> int:
        return int(self.settings["population"])

    def _learn(
        self, learnt: list[Observation], generation: int, rows: list[Observation]
    ) -> list[Observation]:
        return [*learnt, *rows]

    def _propose(self, learnt: list[Observation], generation: int) -> list[tuple[float, ...]]:
        rng = np.random.default_rng([self.seed, generation])
        size = self._size(learnt)
        seen = {row.weights for row in (*learnt, *self.known)}
        model = self._fitted(learnt) if generation else None
        chosen: list[tuple[float, ...]] = []
        if model is not None:
            trusted = size if model.rank_correlation >= TRUSTED else (size + 1) // 2
            chosen = choose_batch(model, rng, trusted, seen)
        best = [] if model is None else _front(model.rows)
        return chosen + self._explore(rng, best, size - len(chosen), seen)

    def _fitted(self, learnt: Sequence[Observation]) -> Model | None:
        rows = [row for row in (*self.known, *learnt) if row.state in ("complete", "stopped")]
        return self._model(rows[-MOST_RESULTS:])

    def _explore(
        self,
        rng: np.random.Generator,
        best: Sequence[tuple[float, ...]],
        count: int,
        seen: set[tuple[float, ...]],
    ) -> list[tuple[float, ...]]:
        """Gaussian steps from one of the best, or from the better half of the start."""
        found: list[tuple[float, ...]] = []
        for _ in range(count):
            for _ in range(FRESH_TRIES):
                mean = best[int(rng.integers(len(best)))] if best else self._mean
                step = rng.normal(0, STEP, size=self.space.dimension)
                weights = self.space.place(self.space.embed(self.space.coordinates(mean) + step))
                if weights not in seen:
                    break
            seen.add(weights)
            found.append(weights)
        return found


def _front(rows: Sequence[Observation]) -> list[tuple[float, ...]]:
    """Weights of the results that none dominates, feasibility first."""
    found = ranks([row.values for row in rows], [row.violation for row in rows])
    least = min(rank for rank in found if rank is not None)
    return [row.weights for row, rank in zip(rows, found, strict=True) if rank == least]


def _finite(row: Observation) -> bool:
    return row.signal is not None and bool(np.isfinite(row.signal).all())


def _metric_model(space: Space, rows: Sequence[Observation]) -> MetricModel | None:
    whole = [row for row in rows if row.state == "complete"]
    return MetricModel.fit(space, whole) if len(whole) >= FEWEST else None


class MetricSurrogate(Surrogate):
    """Models every objective in the weights: MAP (2406.07529) with kernels beside its quadratic."""

    name: ClassVar[str] = "metric-surrogate"
    summary: ClassVar[str] = "models the objectives and evaluates the predicted front"

    def _model(self, rows: Sequence[Observation]) -> Model | None:
        return _metric_model(self.space, rows)


class MarginSurrogate(Surrogate):
    """Models every item's margin in the weights, and so all scores, flips and churn together.

    A score is a sum of steps and hard to model; margins are nearly smooth in the weights, and one
    evaluation gives thousands of them. Of trials that racing stopped, the suites that were finished
    are learnt from as well.
    """

    name: ClassVar[str] = "margin-surrogate"
    summary: ClassVar[str] = "models every item's margin; the fewest evaluations for a front"
    uses_items: ClassVar[bool] = True

    def _model(self, rows: Sequence[Observation]) -> Model | None:
        seen = [row for row in rows if row.signal is not None]
        whole = [row for row in seen if row.state == "complete" and _finite(row)]
        if self.question is None or len(whole) < FEWEST:
            return _metric_model(self.space, rows)
        partial = [row for row in seen if row.state == "stopped"]
        return ItemModel.fit(self.space, self.question, whole, partial)
