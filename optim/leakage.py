"""Signs that a model has seen a suite: its texts are easier for it than others of the same form.

What is compared are the suite's texts and reference texts that the model cannot have seen, such as
paraphrases of the same items (Xu et al. 2024, 2404.18824). Signs, no proof: texts also differ in
how easy they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.intervals import CONFIDENCE, RESAMPLES, ratio_interval

#: tokens of a continuation, and starts in an item (2404.18824, section 3.2)
GRAM = 5
STARTS = 5


def starts(tokens: int, *, count: int = STARTS, gram: int = GRAM) -> list[int]:
    """Places in a text of so many tokens from which the next `gram` are predicted: at most `count`,
    evenly spaced, each with a token before it and `gram` behind; [] where the text is too short.

    Example: 20 tokens: 1, 4, 8, 12, 15.
    """
    last = tokens - gram
    if last < 1:
        return []
    return sorted({round(place) for place in np.linspace(1, last, count).tolist()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How a model reads N texts."""

    #: float64 [N], nats: negative log-likelihood of each text, and int64 [N]: its tokens
    nll: np.ndarray
    tokens: np.ndarray
    #: int64 [N]: starts from which greedy decoding goes on as the text does, of how many
    hits: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure of the suite's texts and of the reference's."""

    own: float | None
    other: float | None
    #: how much easier the suite's are, with a 95 % interval; None where it is not known
    easier: float | None
    low: float | None
    high: float | None

    @property
    def sign(self) -> bool:
        """The suite's texts are certainly easier."""
        return self.low is not None and self.low > 0


def nats(own: Reading, other: Reading, *, paired: bool) -> Compared:
    """Nats per token (the logarithm of perplexity) of all texts; easier is other − own.

    `paired`: text i of both is the same item, and items are resampled together. Otherwise the two
    intervals are combined by MOVER (Zou & Donner 2008).

    Example: own 10 nats on 10 tokens, other 30 nats on 10 tokens: 1 and 3, easier by 2.
    """
    return _compared((own.nll, own.tokens), (other.nll, other.tokens), -1.0, paired)


def grams(own: Reading, other: Reading, *, paired: bool) -> Compared:
    """Share of starts from which greedy decoding gives the next five tokens; easier is own − other.

    As `nats` otherwise. Texts that are too short for a start count for nothing.
    """
    return _compared((own.hits, own.starts), (other.hits, other.starts), 1.0, paired)


_Ratio = tuple[np.ndarray, np.ndarray]


def _compared(own: _Ratio, other: _Ratio, sign: float, paired: bool) -> Compared:
    values = [_ratio(*own), _ratio(*other)]
    first, second = values
    if first is None or second is None:
        return Compared(own=first, other=second, easier=None, low=None, high=None)
    easier = sign * (first - second)
    bounds = _paired(own, other) if paired else _mover(own, other, first, second)
    if bounds is None:
        return Compared(own=first, other=second, easier=easier, low=None, high=None)
    low, high = bounds if sign > 0 else (-bounds[1], -bounds[0])
    return Compared(own=first, other=second, easier=easier, low=low, high=high)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> float | None:
    return float(top.sum() / bottom.sum()) if bottom.sum() > 0 else None


def _paired(own: _Ratio, other: _Ratio) -> tuple[float, float] | None:
    """Percentile bootstrap of the difference of the two ratios, items drawn together."""
    parts = np.stack([*own, *other], axis=1).astype(np.float64)
    count = len(parts)
    if count < 2:
        return None
    rng = np.random.default_rng(0)
    drawn = np.stack([parts[rng.integers(0, count, count)].sum(axis=0) for _ in range(RESAMPLES)])
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    if not len(drawn):
        return None
    differences = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    tails = (1 - CONFIDENCE) / 2
    low, high = np.quantile(differences, [tails, 1 - tails])
    return float(low), float(high)


def _mover(own: _Ratio, other: _Ratio, first: float, second: float) -> tuple[float, float] | None:
    a, b = ratio_interval(*own), ratio_interval(*other)
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return None
    low = first - second - math.hypot(first - a[0], b[1] - second)
    high = first - second + math.hypot(a[1] - first, second - b[0])
    return low, high


def signs(by_name: Sequence[tuple[str, Compared]]) -> list[str]:
    """Names of the figures that say that the suite's texts are certainly easier."""
    return [name for name, compared in by_name if compared.sign]
