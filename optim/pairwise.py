"""The counts and rates of `optim.compatibility` for every pair of M candidates at once.

Matrix products over the items: 200 candidates on 5,000 items take well under a second. Undefined
rates are NaN, where `Compatibility` has None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optim.answers import check_answers, ranked_answers
from optim.compatibility import FRACTIONS, RATES, Derived

#: answers below this are option indices, and each has a matrix product of its own
MOST_OPTIONS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairwise(Derived):
    """Counts of items for every pair: [i, j] is candidate j (new) against candidate i (old)."""

    #: items that all answered
    n: int
    #: int64 [M, M]: i right, j wrong
    negative: np.ndarray
    #: int64 [M, M]: i wrong, j right; the transpose of `negative`
    positive: np.ndarray
    #: int64 [M, M], symmetric, like the next two
    both_right: np.ndarray
    both_wrong_alike: np.ndarray
    both_wrong_differently: np.ndarray

    def __add__(self, other: Pairwise) -> Pairwise:
        """The counts over the items of both; the candidates must be the same."""
        return Pairwise(
            n=self.n + other.n,
            negative=self.negative + other.negative,
            positive=self.positive + other.positive,
            both_right=self.both_right + other.both_right,
            both_wrong_alike=self.both_wrong_alike + other.both_wrong_alike,
            both_wrong_differently=self.both_wrong_differently + other.both_wrong_differently,
        )

    def rate(self, name: str) -> np.ndarray:
        """float64 [M, M]: one rate of `compatibility.RATES`; NaN where its denominator is 0."""
        part, whole = FRACTIONS[name](self)
        part, whole = np.broadcast_arrays(
            np.asarray(part, np.float64), np.asarray(whole, np.float64)
        )
        return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)

    def rates(self) -> dict[str, np.ndarray]:
        """Every rate by name, as `rate` gives it."""
        return {name: self.rate(name) for name in RATES}


def pairwise(right: np.ndarray, answer: np.ndarray) -> Pairwise:
    """The counts of every pair of M candidates on the same N items.

    right: bool [M, N]; answer: uint64 [M, N], option indices or hashes as in `Predictions`. Two
    right answers are one answer, however they are spelled. Raises ValueError when the shapes do
    not fit. N = 0 and M = 1 are allowed.
    """
    check_answers(right, answer)
    right = right.astype(bool)
    found = right.astype(np.float32)
    both_right = _whole(found @ found.T)
    each = right.sum(axis=1)
    negative = each[:, None] - both_right
    alike = np.zeros_like(both_right)
    for chosen in _same_wrong(right, answer):
        part = chosen.astype(np.float32)
        alike += _whole(part @ part.T)
    # an answer that one candidate alone gave is in no product, but agrees with itself
    np.fill_diagonal(alike, right.shape[1] - each)
    wrong = right.shape[1] - both_right - negative - negative.T
    return Pairwise(
        n=right.shape[1],
        negative=negative,
        positive=negative.T,
        both_right=both_right,
        both_wrong_alike=alike,
        both_wrong_differently=wrong - alike,
    )


def _whole(product: np.ndarray) -> np.ndarray:
    """Sums of 0 and 1 in float32 are exact up to 2^24 items."""
    return product.astype(np.int64)


def _same_wrong(right: np.ndarray, answer: np.ndarray) -> Iterator[np.ndarray]:
    """bool [M, some items]: who gave one certain wrong answer, in as few tables as there are
    answers to an item; each wrong answer that two gave is in exactly one of them."""
    if not answer.size:
        return
    if int(answer.max()) < MOST_OPTIONS:
        for option in range(int(answer.max()) + 1):
            yield ~right & (answer == option)
        return
    codes = np.where(right, -1, ranked_answers(right, answer))
    for code in range(int(codes.max()) + 1):
        chosen = codes == code
        # the more frequent come first: soon no answer is left that two gave
        yield chosen[:, chosen.sum(axis=0) > 1]
