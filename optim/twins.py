"""Twins among the items of a suite: texts that share a run of words, or all of them.

A suite whose splits have twins judges a candidate by what it was searched on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

#: words in a row that make two items twins (Brown et al. 2020, 2005.14165, appendix C)
GRAM = 13
#: a run of words that stands in more items than this is a template, not a copy
COMMON = 10
#: so many items that have a run at the same place have a head in common (few-shot examples)
HEADED = 3
_WORDS = re.compile(r"\w+")


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
