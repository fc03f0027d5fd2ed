"""Where a search starts: points known to be good, usually the baselines, best first.

Halving and log-rank shares are CMA-ES's own recombination, so that one bad order costs little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from optim.pareto import finalists
from optim.search.base import Observation
from optim.search.options import Option
from optim.space import Space

Weights = tuple[float, ...]
START = Option(
    name="start",
    doc="weights to start from, best first, of which the better half is used; unset: no preference",
    kind="points",
    default=None,
)
#: tries for weights that nobody has evaluated yet
FRESH_TRIES = 20


def better_half(space: Space, points: Sequence[Sequence[float]] | None) -> np.ndarray:
    """float64 [h, size]: the first ⌈len/2⌉ points, moved to the nearest point inside the bounds."""
    half = (points or [])[: math.ceil(len(points or []) / 2)]
    return space.project(np.reshape(np.array(half, dtype=np.float64), (len(half), space.size)))


def start_mean(space: Space, points: Sequence[Sequence[float]] | None) -> np.ndarray:
    """float64 [size]: the better half of the points, weighted log(h + ½) − log(rank).

    None or no points: the uniform soup.
    """
    half = better_half(space, points)
    if not len(half):
        return space.centre
    shares = math.log(len(half) + 0.5) - np.log(np.arange(1, len(half) + 1))
    return space.project(shares @ half / shares.sum())


def best_first(rows: Sequence[Observation]) -> list[Weights]:
    """Weights of the complete rows: by constrained rank, in a rank the loneliest first."""
    order = finalists([row.values for row in rows], [row.violation for row in rows], len(rows))
    return [rows[i].weights for i in order]


def mixtures(space: Space, pool: np.ndarray, rng: np.random.Generator, count: int) -> list[Weights]:
    """Random mixtures of three points of `pool` [h, size]; an empty pool: uniform random ones."""
    if len(pool) == 0:
        return uniform_points(space, rng, count)
    some = min(3, len(pool))
    drawn = []
    for _ in range(count):
        chosen = rng.choice(len(pool), size=some, replace=False)
        drawn.append(rng.dirichlet(np.ones(some)) @ pool[chosen])
    return space.place_all(np.reshape(drawn, (count, space.size)))


def uniform_points(space: Space, rng: np.random.Generator, count: int) -> list[Weights]:
    """Points spread evenly over the simplex, moved inside the bounds."""
    points = rng.dirichlet(np.ones(space.n), (count, space.groups))
    return space.place_all(points.reshape(count, space.size))


def fresh(
    space: Space,
    count: int,
    seen: Collection[Weights],
    draw: Callable[[int], Sequence[Weights]],
    rng: np.random.Generator,
) -> list[Weights]:
    """`count` different weights that nobody has `seen`: evaluating others would tell nothing.

    `draw(k)` gives k candidates and is asked again for as many as were seen, FRESH_TRIES times;
    after that uniform random points take the open places. Only a space that has hardly a point
    left makes it repeat one.
    """
    found: dict[Weights, None] = {}
    for attempt in range(2 * FRESH_TRIES):
        wanted = count - len(found)
        drawn = draw(wanted) if attempt < FRESH_TRIES else uniform_points(space, rng, wanted)
        found |= {weights: None for weights in drawn if weights not in seen}
        if len(found) == count:
            return list(found)
    return [*found, *uniform_points(space, rng, count - len(found))]
