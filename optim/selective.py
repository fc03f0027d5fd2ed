"""Selective prediction over a set of near-equal models: answer where they agree, else abstain.

Black, Leino & Fredrikson 2022 (2111.08230): the majority's answer, unless a test cannot tell that
it is the majority's among all such models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optim.answers import ranked_answers


@dataclass(frozen=True, kw_only=True, eq=False)
class Selective:
    """What the set says of each of N items."""

    members: int
    alpha: float
    #: bool [N]: too near a tie
    abstains: np.ndarray
    #: bool [N]: the majority's answer is right, be it given or not
    right: np.ndarray

    @property
    def abstention_rate(self) -> float | None:
        """Share of items without an answer; None without items."""
        return float(self.abstains.mean()) if len(self.abstains) else None

    @property
    def accuracy(self) -> float | None:
        """Accuracy over the items that are answered; None where none is."""
        answered = ~self.abstains
        return float(self.right[answered].mean()) if answered.any() else None


def selective(right: np.ndarray, answer: np.ndarray, *, alpha: float = 0.05) -> Selective:
    """The set's answers from bool [M, N] and uint64 [M, N], as `answers.ranked_answers` takes them.

    n_A members give the most frequent answer, n_B the next: abstain where the two-sided binomial
    test of n_A in n_A + n_B against ½ has p > α. Fewer than `fewest_members(α)` members always
    abstain, even where all agree: five at α = 0.05.
    Raises ValueError for no members, or an α not in (0, 1).
    """
    _check(alpha)
    codes = ranked_answers(right, answer)
    if not len(codes):
        raise ValueError("answers: the set has no members")
    first, second = (codes == 0).sum(axis=0), (codes == 1).sum(axis=0)
    majority = np.take_along_axis(right.astype(bool), codes.argmin(axis=0)[None], axis=0)[0]
    return Selective(
        members=len(codes),
        alpha=alpha,
        abstains=_binomial(first, second) > alpha,
        right=majority,
    )


def fewest_members(alpha: float = 0.05) -> int:
    """The smallest set that can answer at all: 2 · ½ⁿ ≤ α. 6 at α = 0.05."""
    _check(alpha)
    return max(1, math.ceil(1 - math.log2(alpha) - 1e-12))


def _binomial(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sided exact p-values of first ≥ second in their sum against ½."""
    from scipy.special import bdtr

    return np.asarray(np.minimum(1.0, 2.0 * bdtr(second, first + second, 0.5)))


def _check(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha} is not between 0 and 1")
