"""What the answers of several models say of a suite: items without signal, golds that look wrong,
models that favour a position, and how small a difference the suite can show at all.

M models answered the same N items. Nobody may pass answers on a sealed split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

ALPHA = 0.05
POWER = 0.8


def detectable_difference(
    n: int, discordant: float, *, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Smallest difference of two models' accuracies that n items show with the given power.

    `discordant` is the share ψ of items that one has right and the other wrong. McNemar's test,
    two-sided: n = (z_α √ψ + z_β √(ψ − δ²))² / δ², solved for δ (Miettinen 1968; Connor
    1987). None where even the largest possible difference, ψ, would not be shown.
    Raises ValueError for what is no share.

    Example: n = 500, ψ = 0.2: (1.960 · √.2 + 0.842 · √(.2 − .0559²))² / 500 = .0559², so δ = .0559.
    """
    if n < 0 or not 0 <= discordant <= 1:
        raise ValueError(f"n, discordant: {n} and {discordant} are no count and no share")
    z_a, z_b = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    if not n or not discordant:
        return None
    # the formula is a quadratic in δ; its larger root is the one with √n δ >= z_α √ψ
    a, half = n + z_b**2, z_a * math.sqrt(n * discordant)
    c = discordant * (z_a**2 - z_b**2)
    root = half**2 - a * c
    found = (half + math.sqrt(root)) / a if root >= 0 else math.inf
    return found if found <= discordant else None


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Items that tell no two of the models apart."""

    n: int
    #: places of the items that all models have right, and that all have wrong
    saturated: tuple[int, ...]
    hopeless: tuple[int, ...]


def signal(correct: np.ndarray) -> Signal:
    """Items that all models have right or all wrong; `correct` is bool [M, N].

    Fewer than two models say nothing: none is named. Vania et al. 2021 (2106.00840) show the same
    by item response theory.

    Example: [[1, 1, 0], [1, 0, 0]]: item 0 is saturated, item 2 hopeless.
    """
    models, n = correct.shape
    if models < 2:
        return Signal(n=n, saturated=(), hopeless=())
    right = correct.astype(bool)
    return Signal(
        n=n,
        saturated=tuple(np.flatnonzero(right.all(axis=0)).tolist()),
        hopeless=tuple(np.flatnonzero(~right.any(axis=0)).tolist()),
    )


def discordance(correct: np.ndarray) -> float | None:
    """Median, over the pairs of models, of the share of items that only one has right.

    `correct` is bool [M, N]; None for fewer than two models or no items.
    """
    models, n = correct.shape
    if models < 2 or not n:
        return None
    right = correct.astype(np.float64)
    both = right @ right.T
    own = np.diag(both)
    pairs = np.triu_indices(models, 1)
    return float(np.median((own[:, None] + own[None, :] - 2 * both)[pairs])) / n


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An item whose gold answer people should look at."""

    #: place of the item
    item: int
    #: the answer that most of the strong models gave instead of gold
    answer: int
    #: how many of them gave it
    agree: int
    #: how sure they are of it: the mean probability that they give it; where options are not known,
    #: the share of them that gave it
    sure: float


def strong(correct: np.ndarray) -> np.ndarray:
    """int64: the better half of the models (rounded up, two at least), best first."""
    models = len(correct)
    order = np.argsort(-correct.astype(np.float64).mean(axis=1), kind="stable")
    return order[: max(2, (models + 1) // 2)]


def suspects(
    correct: np.ndarray, answer: np.ndarray, options: np.ndarray | None = None
) -> list[Suspect]:
    """Items that every strong model misses, the surest of the same other answer first.

    `correct` bool [M, N], `answer` [M, N], `options` float [M, N, K] log-probabilities or None. The
    better half of the models counts as strong. These are candidates for label errors, not more:
    people must read them (Vendrow et al. 2025, 2502.03461, who reviewed just such items). [] for
    fewer than two models.

    Example: two models both answer 2 where 0 is gold, with .9 and .7: `sure` is .8, `agree` 2.
    """
    if len(correct) < 2:
        return []
    models = strong(correct)
    missed = np.flatnonzero(~correct[models].astype(bool).any(axis=0))
    found = []
    for item in missed.tolist():
        said, counts = np.unique(answer[models, item], return_counts=True)
        best = max(zip(counts.tolist(), said.tolist(), strict=True), key=lambda pair: pair[0])
        if options is None:
            sure = best[0] / len(models)
        else:
            sure = float(np.exp(options[models, item, int(best[1])].astype(np.float64)).mean())
        found.append(Suspect(item=item, answer=int(best[1]), agree=int(best[0]), sure=sure))
    return sorted(found, key=lambda one: (-one.sure, -one.agree, one.item))


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """How often a model chose each position, against how often it is gold there."""

    chosen: tuple[int, ...]
    gold: tuple[int, ...]
    #: of the test that both have the same distribution; None where there is nothing to test
    p: float | None


def leaning(answer: Sequence[int], gold: Sequence[int]) -> Leaning:
    """Whether a model favours positions: the Stuart–Maxwell test of marginal homogeneity.

    `answer` and `gold` are positions of the same items. With d the differences of the counts and S
    their estimated covariance, d' S⁻ d is chi-square with as many degrees of freedom as S has rank
    (Stuart 1955; Maxwell 1970). It is asymptotic: p is None for fewer than 10 items that differ. A
    model may lean because it prefers a place or a class; where options stand in the same order in
    every item, the two cannot be told apart (Zheng et al. 2023, 2309.03882).

    Example: 20 items, gold ten times first and ten times second, always the first chosen:
    d = (10, −10), S = [[10, −10], [−10, 10]], the statistic is 10, p = .0016.
    """
    from scipy.special import chdtrc

    said, true = np.asarray(answer, np.int64), np.asarray(gold, np.int64)
    if said.shape != true.shape:
        raise ValueError(f"items: {said.shape} answers for {true.shape} golds")
    size = int(max(said.max(initial=-1), true.max(initial=-1))) + 1
    table = np.zeros((size, size))
    np.add.at(table, (said, true), 1)
    chosen, golds = table.sum(axis=1), table.sum(axis=0)
    difference = chosen - golds
    covariance = np.diag(chosen + golds - 2 * np.diag(table)) - (table + table.T)
    covariance += np.diag(2 * np.diag(table))
    p = None
    if (said != true).sum() >= 10:
        freedom = int(np.linalg.matrix_rank(covariance))
        statistic = float(difference @ np.linalg.pinv(covariance) @ difference)
        p = float(chdtrc(freedom, statistic)) if freedom else None
    return Leaning(
        chosen=tuple(chosen.astype(int).tolist()), gold=tuple(golds.astype(int).tolist()), p=p
    )
