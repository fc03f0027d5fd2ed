"""What the options and golds of a suite say before any model has seen them: what a constant or an
answer-only guesser gets, and whether the golds favour a position.

Plain texts and numbers in, counts out. Twins are found in `optim.twins`; what models answered is
looked at in `optim.suite_answers`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from optim.intervals import Interval, wilson
from optim.twins import words

#: a word of an option that only the longest, or only the shortest, option of an item has
_LONGEST, _SHORTEST = "<longest>", "<shortest>"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guesser:
    """What somebody gets who has not read the question."""

    #: position, longest, shortest, option (the likeliest text), bayes (words of the options)
    kind: str
    #: what is guessed, for people; empty where it differs from item to item
    what: str
    right: int
    n: int

    @property
    def share(self) -> float | None:
        """Accuracy; None without items."""
        return self.right / self.n if self.n else None

    @property
    def interval(self) -> Interval:
        """Wilson interval of it, 95 %."""
        return wilson(self.right, self.n)


def chance(options: Sequence[Sequence[str]]) -> float | None:
    """Accuracy of choosing an option at random: the mean of 1/K; None without items."""
    return float(np.mean([1 / len(one) for one in options])) if len(options) else None


def guessers(
    options: Sequence[Sequence[str]],
    gold: Sequence[int],
    learn: Sequence[int],
    judge: Sequence[int],
) -> list[Guesser]:
    """Guessers that know the items `learn` (places) and never read a question, on `judge`.

    `position` says the position that is gold most often, `option` the text that is; `longest` and
    `shortest` go by characters (the first of several); `bayes` is naive Bayes on each option's
    words, its whole text, and whether it is the longest or shortest, with add-one smoothing. An
    option-only guesser that beats the others says that the options give the answer away (Poliak
    et al. 2018, 1805.01042; Balepur et al. 2024, 2402.12483). [] when there is nothing to judge by.

    Example: golds 0, 0, 1 to learn from, golds 0, 1 to judge by: `position` says 0, 1 of 2 right.
    """
    if not len(learn) or not len(judge):
        return []
    position = _commonest([gold[i] for i in learn])
    text = _commonest([options[i][gold[i]] for i in learn])
    bayes = _Bayes(options, gold, learn)
    says = {
        "position": [position for _ in judge],
        "option": [list(options[i]).index(text) if text in options[i] else -1 for i in judge],
        "longest": [_extreme(options[i], 1) for i in judge],
        "shortest": [_extreme(options[i], -1) for i in judge],
        "bayes": [bayes.guess(options[i]) for i in judge],
    }
    what = {"position": f"always number {position + 1}", "option": f"always {text.strip()!r}"}
    return [
        Guesser(
            kind=kind,
            what=what.get(kind, ""),
            right=sum(guess == gold[i] for guess, i in zip(said, judge, strict=True)),
            n=len(judge),
        )
        for kind, said in says.items()
    ]


def gives_away(found: Sequence[Guesser], at_random: float) -> Guesser | None:
    """The guesser that knows options only and is certainly better than every constant answer.

    That is: the lower bound of its 95 % interval is above chance and above what `position` and
    `option` get. None if there is none.
    """
    by_kind = {one.kind: one for one in found}
    if not by_kind:
        return None
    bar = max([at_random, *(by_kind[kind].share or 0.0 for kind in ("position", "option"))])
    best = max((by_kind[kind] for kind in ("longest", "shortest", "bayes")), key=lambda g: g.right)
    return best if best.interval[0] > bar else None


def _commonest(values: list[T]) -> T:
    """The first of those that are there most often."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], -values.index(value)))


def _extreme(options: Sequence[str], sign: int) -> int:
    lengths = [sign * len(option.strip()) for option in options]
    return lengths.index(max(lengths))


class _Bayes:
    """Log-odds of being gold, summed over what an option has."""

    def __init__(
        self, options: Sequence[Sequence[str]], gold: Sequence[int], learn: Sequence[int]
    ) -> None:
        self._gold: Counter[str] = Counter()
        self._other: Counter[str] = Counter()
        golds = others = 0
        for i in learn:
            for place, has in enumerate(_features(options[i])):
                if place == gold[i]:
                    self._gold.update(has)
                    golds += 1
                else:
                    self._other.update(has)
                    others += 1
        self._golds, self._others = golds, others

    def guess(self, options: Sequence[str]) -> int:
        odds = [sum(map(self._odds, sorted(has))) for has in _features(options)]
        return odds.index(max(odds))

    def _odds(self, feature: str) -> float:
        gold = (self._gold[feature] + 1) / (self._golds + 2)
        other = (self._other[feature] + 1) / (self._others + 2)
        return math.log(gold / other)


def _features(options: Sequence[str]) -> list[set[str]]:
    found = [{*words(option), f"={option.strip()}"} for option in options]
    lengths = [len(option.strip()) for option in options]
    for mark, bound in ((_LONGEST, max(lengths)), (_SHORTEST, min(lengths))):
        if lengths.count(bound) == 1:
            found[lengths.index(bound)].add(mark)
    return found


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How golds are spread over positions."""

    #: items whose gold is first, second, …
    counts: tuple[int, ...]
    #: of Pearson's test against an even spread; None where there is nothing to test
    p: float | None
    #: every item has the same options in the same order: a position is then a class
    fixed: bool


def gold_spread(options: Sequence[Sequence[str]], gold: Sequence[int]) -> Spread:
    """Whether golds favour a position: Pearson's chi-square, summed over the numbers of options.

    Items with K options are compared with n_K / K golds at each position, K − 1 degrees of freedom;
    numbers of options with fewer than 5 expected golds a position are left out of the test (Cochran
    1954).

    Example: ten items with two options, all golds first: (10 − 5)²/5 · 2 = 10, p = .0016.
    """
    from scipy.special import chdtrc

    sizes = np.array([len(one) for one in options], dtype=np.int64)
    at = np.asarray(gold, dtype=np.int64)
    statistic, freedom = 0.0, 0
    for size in np.unique(sizes):
        counts = np.bincount(at[sizes == size], minlength=size)
        expected = counts.sum() / size
        if expected >= 5:
            statistic += float(((counts - expected) ** 2).sum() / expected)
            freedom += int(size) - 1
    return Spread(
        counts=tuple(np.bincount(at, minlength=int(sizes.max(initial=0))).tolist()),
        p=float(chdtrc(freedom, statistic)) if freedom else None,
        fixed=len({tuple(one) for one in options}) == 1,
    )
