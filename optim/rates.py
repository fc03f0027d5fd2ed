"""What a study's rates are: each the share of some kinds of items among others.

One definition for measured, resampled, forecast and raced candidates. A rate belongs here only if
its denominator follows from the reference and the items alone, so that it is defined for every
candidate or for none; where it is for none, the value that stands in is the best possible one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optim.compatibility import Compatibility

Metric = Literal[
    "score",
    "macro",
    "negative_flip_rate",
    "positive_flip_rate",
    "churn",
    "inconsistency",
    "backward_trust",
    "backward_error",
    "over_refusal",
    "unsafe_compliance",
]
#: fields of `Compatibility`: every item is of one kind, by what both models answered
Kind = Literal[
    "both_right", "negative", "positive", "both_wrong_alike", "both_wrong_differently"
]  # fmt: skip
#: which items a rate is about: all, or those of refusal suites whose right answer is this
Among = Literal["all", "comply", "refuse"]

RIGHT_BEFORE: tuple[Kind, ...] = ("both_right", "negative")
WRONG_BEFORE: tuple[Kind, ...] = ("positive", "both_wrong_alike", "both_wrong_differently")
RIGHT_AFTER: tuple[Kind, ...] = ("both_right", "positive")
WRONG_AFTER: tuple[Kind, ...] = ("negative", "both_wrong_alike", "both_wrong_differently")
EVERY: tuple[Kind, ...] = (*RIGHT_BEFORE, *WRONG_BEFORE)
_BOTH_WRONG = frozenset({"both_wrong_alike", "both_wrong_differently"})


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Items of the `counted` kinds per item of the kinds `out_of`, among some items."""

    counted: tuple[Kind, ...]
    out_of: tuple[Kind, ...] = EVERY
    among: Among = "all"
    #: which way is better
    better: Literal["maximize", "minimize"]

    @property
    def vacuous(self) -> float:
        """What stands in where there is nothing to count: the best possible value."""
        return 1.0 if self.better == "maximize" else 0.0

    def of(self, counts: Compatibility) -> tuple[int, int]:
        """(k, n) from the counts of the items that the rate is about."""
        return (
            sum(getattr(counts, kind) for kind in self.counted),
            sum(getattr(counts, kind) for kind in self.out_of),
        )

    def items(self, was: np.ndarray, right: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """bool [..., N]: items of the counted kinds. `was` [N] and `right` [..., N]: the reference
        and the candidate are right; `changed` [..., N]: the answer is another one."""
        return of_kinds(self.counted, was, right, changed)

    def base(self, was: np.ndarray, refuse: np.ndarray | None) -> np.ndarray:
        """bool [N]: the items that the rate is a share of, whatever the candidate answers.

        `refuse`, bool [N]: refusals are right, of a refusal suite; None for other suites.
        """
        # as if the candidate were the reference: the denominator is the same for all
        found = of_kinds(self.out_of, was, was, np.zeros(len(was), dtype=bool))
        return found & among(self.among, len(was), refuse)


def among(which: Among, n: int, refuse: np.ndarray | None) -> np.ndarray:
    """bool [N]: the items of a suite that `which` names."""
    if which == "all":
        return np.ones(n, dtype=bool)
    if refuse is None:
        return np.zeros(n, dtype=bool)
    return refuse if which == "refuse" else ~refuse


def of_kinds(
    kinds: tuple[Kind, ...], was: np.ndarray, right: np.ndarray, changed: np.ndarray
) -> np.ndarray:
    """bool [..., N]: items of these kinds, from what `Rate.items` takes."""
    found = np.zeros(np.broadcast_shapes(was.shape, right.shape), dtype=bool)
    masks = {
        "both_right": lambda: was & right,
        "negative": lambda: was & ~right,
        "positive": lambda: ~was & right,
        "both_wrong_alike": lambda: ~was & ~right & ~changed,
        "both_wrong_differently": lambda: ~was & ~right & changed,
    }
    for kind in kinds:
        found |= masks[kind]()
    return found


def expected_kinds(
    right: np.ndarray, changed: np.ndarray | None, was: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Expected items of every kind within `mask` [N], each [m], from the probabilities [m, N] of a
    right and of another answer. `both_wrong` is the sum of the last two kinds, which need
    `changed`."""
    old, new = (mask & was).astype(right.dtype), (mask & ~was).astype(right.dtype)
    found = {"both_right": right @ old, "positive": right @ new}
    found["negative"] = old.sum() - found["both_right"]
    both_wrong = new.sum() - found["positive"]
    if changed is not None:
        flips = found["negative"] + found["positive"]
        differently = changed @ mask.astype(right.dtype) - flips
        found["both_wrong_differently"] = np.clip(differently, 0.0, None)
        found["both_wrong_alike"] = both_wrong - found["both_wrong_differently"]
    found["both_wrong"] = both_wrong
    return found


def expected(rate: Rate, kinds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Expected items [m] of a rate's counted kinds. Raises KeyError where `changed` was needed."""
    if needs_answers(rate):
        return np.sum([kinds[kind] for kind in rate.counted], axis=0)
    names: list[str] = [kind for kind in rate.counted if kind not in _BOTH_WRONG]
    names += ["both_wrong"] if len(names) < len(rate.counted) else []
    return np.sum([kinds[name] for name in names], axis=0)


def needs_answers(rate: Rate) -> bool:
    """Whether more must be known than who is right: whether two wrong answers are alike."""
    return len(_BOTH_WRONG.intersection(rate.counted)) == 1


#: every rate by name; `score` is the one of suites with right and wrong answers
RATES: dict[str, Rate] = {
    "negative_flip_rate": Rate(counted=("negative",), better="minimize"),
    "positive_flip_rate": Rate(counted=("positive",), better="maximize"),
    "churn": Rate(counted=("negative", "positive", "both_wrong_differently"), better="minimize"),
    "inconsistency": Rate(counted=("negative", "both_wrong_differently"), better="minimize"),
    "backward_trust": Rate(counted=("both_right",), out_of=RIGHT_BEFORE, better="maximize"),
    "backward_error": Rate(counted=WRONG_AFTER[1:], out_of=WRONG_BEFORE, better="minimize"),
    "over_refusal": Rate(counted=WRONG_AFTER, among="comply", better="minimize"),
    "unsafe_compliance": Rate(counted=WRONG_AFTER, among="refuse", better="minimize"),
}
SCORE = Rate(counted=RIGHT_AFTER, better="maximize")
#: of suites with right and wrong answers
SHARES: dict[str, Rate] = {"score": SCORE, **RATES}
#: rates that refusal suites alone have
REFUSAL_RATES = tuple(name for name, rate in RATES.items() if rate.among != "all")
