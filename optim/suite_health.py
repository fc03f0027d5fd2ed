"""What the items of a suite say of themselves, before any model has seen them: twins across splits,
what a constant or an answer-only guesser gets, and whether the golds favour a position.

Plain texts and numbers in, counts out. What models answered is looked at in `optim.suite_answers`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from optim.intervals import Interval, wilson

#: words in a row that make two items twins (Brown et al. 2020, 2005.14165, appendix C)
GRAM = 13
#: a run of words that stands in more items than this is a template, not a copy
COMMON = 10
#: so many items that have a run at the same place have a head in common (few-shot examples)
HEADED = 3
#: a word of an option that only the longest, or only the shortest, option of an item has
_LONGEST, _SHORTEST = "<longest>", "<shortest>"
_WORDS = re.compile(r"\w+")
T = TypeVar("T")


def words(text: str) -> list[str]:
    """The words of a text as they are compared: NFKC, case folded, without punctuation."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Pairs of items (i < j, places in the list) that are partly or wholly the same text."""

    #: int64 [P, 2], sorted
    pairs: np.ndarray
    #: bool [P]: all words are the same, not just a run of them
    whole: np.ndarray

    def between(self, labels: Sequence[str], one: str, other: str) -> list[tuple[int, int]]:
        """The pairs with an item of split `one` and an item of split `other`, in this order."""
        found = []
        for i, j in self.pairs.tolist():
            if (labels[i], labels[j]) == (one, other):
                found.append((i, j))
            elif (labels[j], labels[i]) == (one, other):
                found.append((j, i))
        return found


def twins(texts: Sequence[str], *, gram: int = GRAM, common: int = COMMON) -> Twins:
    """Pairs of texts with a run of `gram` words in common, or with the same words throughout.

    A run that stands in more than `common` texts is a template, one that stands at the same place
    in three or more is a head (few-shot examples); neither they nor runs that overlap them count.
    Shorter texts are compared whole; a text without words has no twin. After Brown et al. 2020
    (2005.14165), appendix C; the exceptions are ours.

    Example: with gram=2, "a b c" and "x b c" are twins, "a b" and "b a" are not, "A!" and "a" are
    whole twins.
    """
    split = [words(text) for text in texts]
    same: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(split):
        if found:
            same.setdefault(tuple(found), []).append(index)
    whole = {pair for group in same.values() for pair in combinations(group, 2)}
    runs = _runs([group[0] for group in same.values()], split, gram, common)
    # a run that one text has is a run of all that are the same
    groups = {group[0]: group for group in same.values()}
    partly = {
        (min(i, j), max(i, j)) for a, b in runs for i in groups[a] for j in groups[b]
    }  # fmt: skip
    every = sorted(whole | partly)
    return Twins(
        pairs=np.array(every, dtype=np.int64).reshape(-1, 2),
        whole=np.array([pair in whole for pair in every], dtype=bool),
    )


def _runs(
    at: Sequence[int], split: Sequence[Sequence[str]], gram: int, common: int
) -> set[tuple[int, int]]:
    """Pairs of the texts `at` with a run in common that touches no template and no head."""
    long = [i for i in at if len(split[i]) >= gram]
    if len(long) < 2:
        return set()
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(w, len(known)) for i in long for w in split[i]])
    lengths = np.array([len(split[i]) for i in long])
    starts = np.cumsum(lengths) - lengths
    places = np.concatenate([np.arange(n - gram + 1) for n in lengths])
    owners = np.repeat(np.arange(len(long)), lengths - gram + 1)
    first = starts[owners] + places
    runs = np.unique(_codes(ids, len(known), gram)[first], return_inverse=True)[1]

    one_each = _distinct(runs * len(long) + owners) // len(long)
    template = np.bincount(one_each)[runs] > common
    _, which, count = np.unique(
        runs * int(lengths.max()) + places, return_inverse=True, return_counts=True
    )
    template |= count[which] >= HEADED
    steps = np.zeros(len(ids) + 1, dtype=np.int64)
    np.add.at(steps, first[template], 1)
    np.add.at(steps, first[template] + gram, -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(steps[:-1]) > 0)])
    free = covered[first + gram] == covered[first]

    left = _distinct(runs[free] * len(long) + owners[free])
    left = left[np.bincount(left // len(long))[left // len(long)] > 1]
    groups = np.split(left % len(long), np.flatnonzero(np.diff(left // len(long))) + 1)
    return {
        (long[a], long[b]) for group in groups for a, b in combinations(group.tolist(), 2)
    }  # fmt: skip


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted, each once; by sorting, which for many values is faster than numpy's hashing."""
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=-1) != 0]


def _codes(ids: np.ndarray, size: int, gram: int) -> np.ndarray:
    """uint64: a number for every run of `gram` words; equal runs have equal numbers.

    Words become random numbers, runs weighted sums of them modulo 2^64: among ten million runs two
    that differ are taken for one with a probability of 3e-6.
    """
    rng = np.random.default_rng(0)
    code = rng.integers(0, 2**64, size=size, dtype=np.uint64)[ids]
    weights = rng.integers(0, 2**64, size=gram, dtype=np.uint64) | np.uint64(1)
    total = np.zeros(len(ids) - gram + 1, dtype=np.uint64)
    for shift, weight in enumerate(weights):
        total += weight * code[shift : shift + len(total)]
    return total


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
