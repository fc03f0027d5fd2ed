"""Which points of a model's predicted front to evaluate next: expected gain of hypervolume.

Errors are not assumed Gaussian: they are drawn from those the model made on results it had not
seen, all objectives of one result together, and widened with the distance from what is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optim.pareto import ranks
from optim.search.base import Observation
from optim.search.model import Model

#: draws of the errors, and points of the predicted front among which a generation is chosen
DRAWS, SHORTLIST = 16, 100
#: trade-offs that are looked at on the way to the predicted front, and rounds of improvement
DIRECTIONS, ROUNDS = 48, 40
#: how far the reference point lies beyond the worst of the front, as a share of its range
BEYOND = 0.1
#: two proposals of a generation are further apart than this share of the results' spread
APART = 0.05


def choose_batch(
    model: Model, rng: np.random.Generator, count: int, seen: set[tuple[float, ...]]
) -> list[tuple[float, ...]]:
    """`count` points of the grid, one after the other that of the largest expected gain given
    those before it; none of `seen`, which grows by them. Fewer where no more are found."""
    points = predicted_front(model, rng)
    values, violations = model.predict(points)
    doubt = model.doubt(points)
    draws = _Draws(model, rng)
    least = APART * _spread(model.rows)
    chosen: list[tuple[float, ...]] = []
    gains = np.array([draws.gain(*one) for one in zip(values, violations, doubt, strict=True)])
    known_for = np.zeros(len(points), dtype=int)
    while len(chosen) < count and np.isfinite(gains).any():
        best = int(np.argmax(gains))
        # what is chosen only lowers the gains of others, so the largest old ones are enough
        if known_for[best] < len(chosen):
            gains[best] = draws.gain(values[best], violations[best], doubt[best])
            known_for[best] = len(chosen)
            continue
        gains[best] = -np.inf
        weights = model.space.round(points[best])
        if weights in seen:
            continue
        seen.add(weights)
        chosen.append(weights)
        draws.add(values[best], violations[best], doubt[best])
        gains[np.linalg.norm(points - points[best], axis=1) < least] = -np.inf
    return chosen


def predicted_front(model: Model, rng: np.random.Generator) -> np.ndarray:
    """float64 [s, size]: points of the space that the model says are good trade-offs.

    Decomposition (Zhang & Li 2007): one best point for each of many weightings of the objectives,
    half of them sums, half Chebyshev's; children move along differences of good points, so the
    search stays where the model knows something, and by small steps.
    """
    start = np.unique(np.array([row.weights for row in model.rows]), axis=0)
    values, violations = model.predict(start)
    k = values.shape[1]
    shares = np.ones((DIRECTIONS // 4, 1))
    if k > 1:
        drawn = rng.dirichlet(np.ones(k), DIRECTIONS)
        shares = np.concatenate([np.full((1, k), 1 / k), np.eye(k), drawn])[:DIRECTIONS]
    low, width = values.min(axis=0), np.maximum(np.ptp(values, axis=0), 1e-9)

    def scalars(found: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """[m, directions]; lower is better, and what misses a constraint is worse than all else."""
        scaled = (found - low) / width
        sums = scaled @ shares.T
        worst = (scaled[:, None, :] * shares).max(axis=2) * k
        mixed = np.where(np.arange(len(shares)) % 2 == 0, sums, worst + 0.05 * sums)
        return mixed + np.where(missed > 0, 10.0 + 100.0 * missed, 0.0)[:, None]

    judged = scalars(values, violations)
    best = judged.argmin(axis=0)
    population, merits = start[best], judged.min(axis=0)
    everything = [population]
    spread = _spread(model.rows)
    for turn in range(ROUNDS):
        a, b, c = (population[rng.integers(len(population), size=len(population))] for _ in "abc")
        own = rng.random((len(population), 1)) < 0.5
        steps = rng.uniform(-0.3, 1.3, size=(len(population), 2))
        moved = np.where(own, population, a) + steps[:, :1] * (b - c)
        moved += (rng.random((len(population), 1)) < 0.3) * steps[:, 1:] * (a - moved)
        jump = spread * 0.3 * 0.9**turn / np.sqrt(model.space.dimension)
        moved += rng.normal(0, jump, size=moved.shape)
        children = model.space.project(moved)
        judged = scalars(*model.predict(children))
        first = judged.argmin(axis=0)
        better = judged.min(axis=0) < merits
        population = np.where(better[:, None], children[first], population)
        merits = np.minimum(merits, judged.min(axis=0))
        everything.append(children)
    pool = np.unique(np.concatenate([population, *everything[-8:]]), axis=0)
    found = ranks(*(part.tolist() for part in model.predict(pool)))
    order = np.argsort(np.array(found), kind="stable")
    return np.unique(np.concatenate([population, pool[order[:SHORTLIST]]]), axis=0)


class _Draws:
    """Fronts as they might be: one for each draw of the errors, all with what was measured."""

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        errors, missed = model.errors
        picks = rng.integers(len(errors), size=DRAWS)
        signs = rng.choice([-1.0, 1.0], size=(DRAWS, 1))
        self._errors, self._missed = errors[picks] * signs, missed[picks] * signs[:, 0]
        values = np.array([row.values for row in model.rows])
        violations = np.array([row.violation for row in model.rows])
        feasible = violations <= 0
        self._least = float(violations.min())
        good = values[feasible]
        self._fronts = [good[_on_front(good)] for _ in range(DRAWS)]
        front = self._fronts[0] if len(good) else values
        low, high = front.min(axis=0), front.max(axis=0)
        width = np.maximum(high - low, 1e-3)
        # one point would leave no room for a trade-off beside it
        self._reference = high + np.maximum(BEYOND * width, 0.01)

    def gain(self, value: np.ndarray, violation: float, doubt: float) -> float:
        """Mean gain over the draws; without a feasible result the mean decrease of the least
        violation."""
        total = 0.0
        for error, missed, front in zip(self._errors, self._missed, self._fronts, strict=True):
            drawn = value + doubt * error
            lacking = max(violation + doubt * missed, 0.0) if violation > 0 else 0.0
            if not len(front):
                total += max(self._least - lacking, 0.0)
            elif lacking <= 0 and (drawn < self._reference).all():
                total += self._volume(drawn, front)
        return total / DRAWS

    def add(self, value: np.ndarray, violation: float, doubt: float) -> None:
        """One more point on every front, where it is expected."""
        if violation > 0:
            return
        for i, error in enumerate(self._errors):
            self._fronts[i] = np.vstack([self._fronts[i], value + doubt * error])

    def _volume(self, value: np.ndarray, front: np.ndarray) -> float:
        """Volume that `value` dominates and `front` does not."""
        import moocore

        if (front <= value).all(axis=1).any():
            return 0.0
        box = float(np.prod(self._reference - value))
        covered = np.maximum(front, value)
        covered = covered[(covered < self._reference).all(axis=1)]
        if not len(covered):
            return box
        return box - float(moocore.hypervolume(covered, ref=self._reference))


def _on_front(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(0, dtype=bool)
    return np.array(ranks(values.tolist(), [0.0] * len(values))) == 1


def _spread(rows: Sequence[Observation]) -> float:
    """Root mean square distance of the results from their mean."""
    points = np.array([row.weights for row in rows])
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
