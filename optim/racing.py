"""Stopping a bad candidate early, with a guarantee: betting against "it is good enough".

A candidate's items are scored in blocks, in a fresh uniform order of its own. Against each claim of
the form "the total over all blocks is at most L" a bettor starts with 1 and can only lose in
expectation while the claim is true, so that its wealth ever reaches 1/α has probability α at most
(Ville's inequality), whenever one looks and however one stops. Betting without replacement after
Waudby-Smith & Ramdas (2006.04347, 2010.09686). Pure numerics; nothing here knows a study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optim.rates import RIGHT_BEFORE, SHARES, WRONG_BEFORE, Metric, Rate

#: shares of what may be lost that are bet at a time, and how far a block's own floor is taken off
#: its total before; the wealth is the mean over all pairs
BETS, TAKEN_OFF = np.array([0.12, 0.3, 0.6, 0.95]), np.array([0.0, 1.0])
#: totals closer together than this are equal: sums of weights round
EQUAL = 1e-9
#: totals among which a confidence bound is looked for
GRID = 129


class Bets:
    """Bettors against H claims "the total of my blocks is at most `limits[h]`".

    `floors` [H, C]: the least that each of C blocks can have, in the order in which they come.
    `mine` [H, C] (None: all) says which blocks belong to a claim; others are passed over, which
    leaves the order of its own a uniform one. The block totals may be any numbers above the floors:
    bets are scaled so that no more than the wealth can be lost.

    With S the total so far and t of C blocks seen, the mean of those to come is at most
    m = (L − S)/(C − t) while the claim is true. The floors g to come are known, and so is their
    mean ḡ: y = x − β·(g − ḡ) has the mean of the next total x, and is at least
    a = (1 − β)·min g + β·ḡ. A share f of the wealth bet on it multiplies it by
    1 + f·(y − m)/(m − a). With paired differences x, β = 0 bets on the differences, with the noise
    of the discordant items only; β = 1 on what the candidate gets wrong, with the largest stakes,
    which counts where blocks are large: of 500 items in blocks of 8, a candidate 20 points behind
    is stopped after 96 (bench/racing.py), by β = 0 alone and a finer grid of f after 152.
    """

    def __init__(
        self, limits: np.ndarray, floors: np.ndarray, mine: np.ndarray | None = None
    ) -> None:
        self._limits = np.asarray(limits, dtype=np.float64)
        floors = np.asarray(floors, dtype=np.float64)
        self._mine = np.ones(floors.shape, dtype=bool) if mine is None else mine
        own = np.where(self._mine, floors, 0.0)
        #: least total of the blocks from t on, and the least of one of them: [H, C + 1]
        self._least = _from_right(np.add, own, 0.0)
        self._lowest = _from_right(np.minimum, np.where(self._mine, floors, np.inf), np.inf)
        self._left = self._mine.sum(axis=1)
        self._sum = np.zeros(len(floors))
        self._own = own
        self._log = np.zeros((len(floors), len(TAKEN_OFF), len(BETS)))
        #: blocks that were fed
        self.seen = 0
        #: natural logarithm of the highest wealth so far, [H]; infinite: the claim is refuted
        self.log_wealth = np.where(self._least[:, 0] > self._limits + EQUAL, np.inf, 0.0)

    @property
    def left(self) -> int:
        """Blocks to come."""
        return self._mine.shape[1] - self.seen

    def feed(self, totals: np.ndarray) -> None:
        """The totals [H, K] of the next K blocks; of blocks that are not a claim's own, 0."""
        for column in np.asarray(totals, dtype=np.float64).T:
            self._step(column)

    def _step(self, x: np.ndarray) -> None:
        t, mine = self.seen, self._mine[:, self.seen]
        left = np.maximum(self._left, 1)
        mean, floor = (self._limits - self._sum) / left, self._least[:, t] / left
        playing = mine & np.isfinite(self.log_wealth)
        taken = TAKEN_OFF[:, None] * (self._own[:, t] - floor)
        lowest = np.where(playing, self._lowest[:, t], 0.0)
        least = lowest + TAKEN_OFF[:, None] * (floor - lowest)
        gain = np.where(playing, (x - taken - mean) / np.maximum(mean - least, EQUAL), 0.0)
        # rounding alone could take a total below its floor
        self._log += np.log1p(BETS * np.maximum(gain, -1.0).T[:, :, None])
        self._sum += np.where(mine, x, 0.0)
        self._left = self._left - mine
        self.seen = t + 1
        certain = self._sum + self._least[:, self.seen] > self._limits + EQUAL
        self.log_wealth = np.maximum(self.log_wealth, _log_mean_exp(self._log))
        self.log_wealth[certain] = np.inf


def _from_right(operation: np.ufunc, values: np.ndarray, last: float) -> np.ndarray:
    """[H, C + 1]: the operation over columns t to C − 1, for every t, then `last`."""
    end = np.full((len(values), 1), last)
    reversed_ = operation.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([reversed_, end], axis=1)


def _log_mean_exp(logs: np.ndarray) -> np.ndarray:
    top = logs.max(axis=(1, 2))
    return top + np.log(np.exp(logs - top[:, None, None]).mean(axis=(1, 2)))


def total_interval(
    totals: np.ndarray, floors: np.ndarray, ceilings: np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Where the total of C blocks lies, after the first t of them [t] in a uniform order.

    `floors` and `ceilings` [C] bound every block. A betting confidence sequence: the bound holds
    with `confidence` however it was decided to stop after t blocks. Both sides are the claims that
    no bettor has refuted, at half of the rest each, on a grid between what is certain.
    """
    alpha = (1 - confidence) / 2
    low = _lower(totals, floors, ceilings, alpha)
    high = -_lower(-totals, -ceilings, -floors, alpha)
    return low, max(low, high)


def _lower(totals: np.ndarray, floors: np.ndarray, ceilings: np.ndarray, alpha: float) -> float:
    """The largest L for which "the total is at most L" is refuted, else what is certain."""
    seen, sure = len(totals), float(totals.sum())
    least, most = sure + float(floors[seen:].sum()), sure + float(ceilings[seen:].sum())
    limits = np.linspace(least, most, GRID)
    bets = Bets(limits, np.broadcast_to(floors, (GRID, len(floors))))
    bets.feed(np.broadcast_to(totals, (GRID, seen)))
    refuted = bets.log_wealth >= -math.log(alpha)
    return float(limits[refuted].max(initial=least))


def item_values(
    metric: Metric,
    was: np.ndarray,
    before: np.ndarray,
    now: np.ndarray,
    after: np.ndarray,
) -> np.ndarray:
    """float64 [N]: what each item adds to a rate, 0 or 1; the rate is the (weighted) mean.

    `was` and `now`, bool [N]: the reference and the candidate are right; `before` and `after`: what
    they answered.
    """
    return _rate(metric).items(was, now, before != after).astype(np.float64)


def most_possible(metric: Metric, was: np.ndarray) -> np.ndarray:
    """float64 [N]: the largest value that an item can have, whatever the candidate answers."""
    counted = set(_rate(metric).counted)
    if_right, if_wrong = (bool(counted & set(kinds)) for kinds in (RIGHT_BEFORE, WRONG_BEFORE))
    return np.where(was, float(if_right), float(if_wrong))


def _rate(metric: str) -> Rate:
    rate = SHARES.get("score" if metric == "macro" else metric)
    if rate is None:
        raise ValueError(f"metric: {metric!r} has no value per item")
    return rate


def paired_error(
    values: np.ndarray, weights: np.ndarray, clusters: np.ndarray | None = None
) -> float:
    """One standard error of the difference between two models on the same items.

    `values` [M, N] of M models, `weights` [N] summing to 1: root mean square over all pairs of
    models that differ, 0 where none do. `clusters`: the number of each item's cluster, [N]; what
    the items of one say is added up before it is squared (Liang & Zeger 1986). A single one has
    nothing to be compared with: there items are taken as independent.
    """
    if clusters is not None and len(np.unique(clusters[weights > 0])) < 2:
        clusters = None
    squares = []
    for first in range(len(values)):
        for second in range(first):
            difference = values[first] - values[second]
            spread = difference - float(weights @ difference)
            if not difference.any():
                continue
            if clusters is None:
                squares.append(float((weights**2) @ (spread**2)))
            else:
                squares.append(float(np.square(np.bincount(clusters, weights * spread)).sum()))
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def most_dominating(
    front: Sequence[Sequence[float]], others: Sequence[Sequence[float]], most: int
) -> list[int]:
    """Which members of the front are tested against, at most `most` of them, by index.

    Greedily: the one that dominates most of the `others` (all minimised), then the one that
    dominates most of the rest, until nothing is left that the front dominates. Each further member
    would cost power. The first ones of the front where nothing is dominated.
    """
    if not front:
        return []
    f, o = np.asarray(front, dtype=np.float64), np.asarray(others, dtype=np.float64)
    o = o.reshape(len(others), f.shape[1])
    no_worse, better = np.all(f[:, None] <= o, axis=2), np.any(f[:, None] < o, axis=2)
    better &= no_worse
    chosen: list[int] = []
    while len(chosen) < most and better.any():
        best = int(better.sum(axis=1).argmax())
        chosen.append(best)
        better &= ~better[best]
    return chosen or list(range(min(most, len(front))))
