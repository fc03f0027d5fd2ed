"""What each parent of a merge is worth: leave-one-out and Shapley values of a game of coalitions.

A player is a parent (or several that act as one), a coalition the merge of some of them. Both
figures are linear in the values of coalitions, so a `Design` is a table of coefficients, and what
is linear in the items too has a paired bootstrap interval. Coalitions are numbers: bit i is player
i. Never forms or evaluates a merge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from optim.intervals import CONFIDENCE, RESAMPLES

#: up to so many players every coalition is valued: 2^5 = 32
EXACT_PLAYERS = 5
#: circles of a sample: with fewer than two nothing is known about its error
CIRCLES = 2
#: more players than bits that numpy and people can count with
MOST_PLAYERS = 62
#: merges that one sample may ask for
MOST_MERGES = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Which coalitions are to be valued, and how the figures follow from their values."""

    players: int
    #: C of them, ascending: the empty one first, the whole one last
    coalitions: tuple[int, ...]
    #: float64 [players, C]: v(all) − v(all without i)
    leave_one_out: np.ndarray
    #: float64 [players, C]: the mean gain when i joins, over orders of joining
    shapley: np.ndarray
    #: float64 [circles, players, C], `shapley` by each circle of orders; None: all orders
    circles: np.ndarray | None = None

    @property
    def permutations(self) -> int | None:
        """Orders of joining that were sampled; None: all."""
        return None if self.circles is None else 2 * self.players * len(self.circles)


def exact(players: int) -> Design:
    """Every coalition: φ_i = Σ_S |S|! (k−|S|−1)! / k! · (v(S ∪ i) − v(S)) over S without i
    (Shapley 1953). Raises ValueError for no player, or more than 16."""
    if not 1 <= players <= 16:
        raise ValueError(f"players: {players} is not between 1 and 16")
    size = 1 << players
    weight = [1 / (players * math.comb(players - 1, s)) for s in range(players)]
    shapley = np.zeros((players, size))
    for coalition in range(size):
        for i in range(players):
            if not coalition >> i & 1:
                w = weight[coalition.bit_count()]
                shapley[i, coalition | 1 << i] += w
                shapley[i, coalition] -= w
    every = tuple(range(size))
    return Design(
        players=players,
        coalitions=every,
        leave_one_out=_leave_one_out(players, every),
        shapley=shapley,
    )


def sampled(players: int, *, permutations: int | None = None, seed: int = 0) -> Design:
    """Orders of joining by random circles: permutation sampling (Castro et al. 2009), stratified
    and antithetic.

    The players stand in a random circle, and each order begins at another of them and goes round
    one way or the other: 2k orders, in which each player has every place twice. All of their
    coalitions are arcs of the circle, so a circle costs k(k − 1) merges beside the empty and the
    whole one. k of those are single parents and k the ones that leave-one-out needs anyway:
    k(k − 3) are new. At equal numbers of merges the error was 0.3 to 0.6 times that of antithetic
    pairs of orders in games of 6 to 10 players. Each order shares out v(all) − v(empty), so the
    mean does.

    `permutations` is rounded up to whole circles; None: `CIRCLES`. Raises ValueError for fewer than
    one, for so many that they may need over `MOST_MERGES` merges, and for fewer than two or more
    than 62 players.
    """
    if not 2 <= players <= MOST_PLAYERS:
        raise ValueError(f"players: {players} is not between 2 and {MOST_PLAYERS}")
    if permutations is not None and permutations < 1:
        raise ValueError(f"permutations: {permutations}, needs at least 1")
    asked = CIRCLES if permutations is None else -(-permutations // (2 * players))
    if asked * players * (players - 1) > MOST_MERGES:
        most = MOST_MERGES // (players * (players - 1)) * 2 * players
        raise ValueError(f"permutations: {permutations} of {players} players, use at most {most}")
    rng = np.random.default_rng(seed)
    circles = [rng.permutation(players).tolist() for _ in range(asked)]
    whole = (1 << players) - 1
    needed = {0, whole, *(whole ^ 1 << i for i in range(players))}
    for circle in circles:
        needed |= {c for order in _orders(circle) for c, _ in _joining(order)}
    coalitions = tuple(sorted(needed))
    column = {c: at for at, c in enumerate(coalitions)}
    table = np.zeros((asked, players, len(coalitions)))
    for one, circle in zip(table, circles, strict=True):
        for order in _orders(circle):
            for before, i in _joining(order):
                one[i, column[before | 1 << i]] += 1 / (2 * players)
                one[i, column[before]] -= 1 / (2 * players)
    return Design(
        players=players,
        coalitions=coalitions,
        leave_one_out=_leave_one_out(players, coalitions),
        shapley=table.mean(axis=0),
        circles=table,
    )


def _orders(circle: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(len(circle)):
        order = [*circle[start:], *circle[:start]]
        yield order
        yield order[::-1]


def _joining(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(those who are there, who joins them)."""
    there = 0
    for player in order:
        yield there, player
        there |= 1 << player


def _leave_one_out(players: int, coalitions: Sequence[int]) -> np.ndarray:
    whole = (1 << players) - 1
    found = np.zeros((players, len(coalitions)))
    found[:, coalitions.index(whole)] = 1.0
    for i in range(players):
        found[i, coalitions.index(whole ^ 1 << i)] -= 1.0
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One suite's share of a value: weight · Σ values / Σ sizes over its N items."""

    #: float64 [C, N], rows as a design's coalitions; NaN where one is not valued yet
    values: np.ndarray
    weight: float = 1.0
    #: float64 [N]: tokens of texts; None: 1 each
    sizes: np.ndarray | None = None
    #: int [N]: items of one number are drawn together; None: each for itself
    clusters: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Figures:
    """Estimates with their intervals, float64 [players]; NaN while a coalition is missing."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def values_of(parts: Sequence[Part]) -> np.ndarray:
    """float64 [C]: v of every coalition."""
    each = np.array([p.weight * p.values.sum(axis=1) / _sizes(p).sum() for p in parts])
    return np.asarray(each.sum(axis=0))


def attribute(
    design: Design,
    parts: Sequence[Part],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Figures, Figures]:
    """(leave-one-out, Shapley) of the value Σ parts.

    Intervals are percentile bootstrap over items (or clusters), the same draw for all coalitions,
    drawn within each part. That of a sampled Shapley value also has its sampling error: Student's t
    of the circles' spread, pooled over the players, added in squares; infinite with one circle.
    Raises ValueError when a table does not fit the design.
    """
    for part in parts:
        if part.values.ndim != 2 or len(part.values) != len(design.coalitions):
            raise ValueError(
                f"values: shape {part.values.shape} for {len(design.coalitions)} coalitions"
            )
    values = values_of(parts)
    tables = np.concatenate([design.leave_one_out, design.shapley])
    missing = np.isnan(values)
    known = ~(tables[:, missing] != 0).any(axis=1)
    estimate = tables @ np.where(missing, 0.0, values)
    drawn = _bootstrap(tables, parts, resamples, seed)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    k = design.players
    if design.circles is not None:
        error = _sampling_error(design.circles, np.where(missing, 0.0, values), confidence)
        low[k:] = estimate[k:] - np.hypot(estimate[k:] - low[k:], error)
        high[k:] = estimate[k:] + np.hypot(high[k:] - estimate[k:], error)
    found = np.where(known, [estimate, low, high], np.nan)
    return Figures(*found[:, :k]), Figures(*found[:, k:])


def _bootstrap(tables: np.ndarray, parts: Sequence[Part], resamples: int, seed: int) -> np.ndarray:
    """float64 [B, R]: the linear combinations R of values, on resampled items."""
    rng = np.random.default_rng(seed)
    total = np.zeros((resamples, len(tables)))
    for part in parts:
        items, sizes = tables @ np.nan_to_num(part.values), _sizes(part)
        if part.clusters is not None:
            _, at = np.unique(part.clusters, return_inverse=True)
            items = np.stack([np.bincount(at, weights=row) for row in items])
            sizes = np.bincount(at, weights=sizes)
        n = len(sizes)
        drawn = rng.integers(0, n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)
        ratio = (counts @ items.T) / (counts @ sizes)[:, None]
        exact_ratio = items.sum(axis=1) / sizes.sum()
        # as `intervals.ratio_interval`: the bootstrap's variance is (n − 1)/n of the sample's
        stretch = math.sqrt(n / (n - 1)) if n > 1 else 1.0
        total += part.weight * (exact_ratio + stretch * (ratio - exact_ratio))
    return total


def _sampling_error(circles: np.ndarray, values: np.ndarray, confidence: float) -> float:
    """Half width of the interval of a mean over so many circles."""
    from scipy.special import stdtrit

    count, players, _ = circles.shape
    if count < 2:
        return math.inf
    # the figures of a circle have a fixed sum: one degree of freedom less than players
    spread = (circles @ values).var(axis=0, ddof=1).sum() / (players - 1)
    freedom = (count - 1) * (players - 1)
    return float(stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(spread / count))


def _sizes(part: Part) -> np.ndarray:
    n = part.values.shape[1]
    return np.ones(n) if part.sizes is None else np.asarray(part.sizes, dtype=np.float64)
