"""Flips of generated answers: how much better or worse a text became, by a score of texts.

Exact match says right or wrong; token F1 and ROUGE-L say how near. All are arithmetic on stored
answers and targets, so another score or tolerance costs no evaluation.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"[a-z0-9]+")


def exact_match(answer: str, target: str) -> float:
    """1 when the two are equal but for white space, else 0; two empty texts are equal."""
    return float(answer.split() == target.split())


def token_f1(answer: str, target: str) -> float:
    """F1 of the words in common, in [0, 1] (Rajpurkar et al. 2016, SQuAD).

    2·P·R / (P + R), P and R the shares of the answer's and of the target's words that the other
    has too, repeated ones as often as both have them. Case, punctuation and the articles a, an,
    the do not count. Where either is empty after that: 1 if both are, else 0.
    """
    said, wanted = _squad_words(answer), _squad_words(target)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def rouge_l(answer: str, target: str) -> float:
    """F1 of the longest common subsequence of words, in [0, 1] (Lin 2004, ROUGE-L, β = 1).

    2·L / (|answer| + |target|), L its length. Words are runs of a–z and 0–9 after lower-casing,
    not stemmed; 0 where either has none.
    """
    said, wanted = _WORDS.findall(answer.lower()), _WORDS.findall(target.lower())
    if not said or not wanted:
        return 0.0
    return 2 * _longest_common(said, wanted) / (len(said) + len(wanted))


#: scores of an answer against its target, by the name that a spec gives
TEXT_SCORES: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge_l": rouge_l,
}


def text_scores(score: str, answers: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """float64 [N]: each answer's score against its target.

    Raises ValueError for a score that is not in `TEXT_SCORES`, and for unequal numbers.
    """
    if score not in TEXT_SCORES:
        raise ValueError(f"score: {score!r} is not one of {', '.join(TEXT_SCORES)}")
    if len(answers) != len(targets):
        raise ValueError(f"answers: {len(answers)} for {len(targets)} targets")
    function = TEXT_SCORES[score]
    pairs = zip(answers, targets, strict=True)
    return np.array([function(answer, target) for answer, target in pairs], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Generative flips of N items with D = new score − old score and a tolerance τ.

    Echterhoff et al. 2024 (MUSCLE, 2407.09435).
    """

    n: int
    #: items with D > τ
    positive: int
    #: items with D < −τ
    negative: int
    #: mean D over the positive ones; None without any
    mean_gain: float | None
    #: mean D over the negative ones, below 0; None without any
    mean_regression: float | None
    tolerance: float

    @property
    def positive_flip_rate(self) -> float | None:
        """Share of all items that became better by more than the tolerance; None without items."""
        return self.positive / self.n if self.n else None

    @property
    def negative_flip_rate(self) -> float | None:
        """Share of all items that became worse by more than the tolerance; None without items."""
        return self.negative / self.n if self.n else None


def gains(old: np.ndarray, new: np.ndarray, tolerance: float = 0.0) -> Gains:
    """Generative flips from two models' scores, float [N], of the same items.

    With exact match and τ below 1 these are the flips of `optim.compatibility`. Raises ValueError
    for unequal shapes, a score that is not finite, or a tolerance below 0.
    """
    if old.shape != new.shape or old.ndim != 1:
        raise ValueError(f"scores: {new.shape} for {old.shape} of the other model, not [N]")
    if not tolerance >= 0:
        raise ValueError(f"tolerance: {tolerance} is below 0")
    change = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    if not np.isfinite(change).all():
        raise ValueError("scores: one is not finite")
    better, worse = change[change > tolerance], change[change < -tolerance]
    return Gains(
        n=len(change),
        positive=len(better),
        negative=len(worse),
        mean_gain=float(better.mean()) if len(better) else None,
        mean_regression=float(worse.mean()) if len(worse) else None,
        tolerance=tolerance,
    )


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time in one whole number
    (Hyyrö 2004): bits that are 0 at the end are its members."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()
