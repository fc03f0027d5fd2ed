"""What changes for the user when one model replaces another: flips and churn on the same items.

Everything is arithmetic on six counts, so overall figures are those of the summed counts. A rate
whose denominator is 0 is None, never 0 or infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from optim.predictions import Predictions


class Derived:
    """What follows from the five counts, be they whole numbers or arrays of them."""

    n: Any
    negative: Any
    positive: Any
    both_right: Any
    both_wrong_alike: Any
    both_wrong_differently: Any

    @property
    def right_before(self) -> Any:
        """Items that the old model had right."""
        return self.both_right + self.negative

    @property
    def right_after(self) -> Any:
        """Items that the new model has right."""
        return self.both_right + self.positive

    @property
    def wrong_before(self) -> Any:
        """Items that the old model had wrong."""
        return self.positive + self.both_wrong

    @property
    def wrong_after(self) -> Any:
        """Items that the new model has wrong."""
        return self.negative + self.both_wrong

    @property
    def both_wrong(self) -> Any:
        """Items that both have wrong, alike or not."""
        return self.both_wrong_alike + self.both_wrong_differently

    @property
    def changed(self) -> Any:
        """Items with another answer than before (two right answers are one answer)."""
        return self.negative + self.positive + self.both_wrong_differently

    @property
    def inconsistent(self) -> Any:
        """Items now wrong with another answer than before."""
        return self.negative + self.both_wrong_differently


@dataclass(frozen=True, kw_only=True)
class Compatibility(Derived):
    """Counts of items by what the old model (reference) and the new one (candidate) answered.

    Definitions of the rates: Yan et al. 2021 (flips, relative NFR), Milani Fard et al. 2016
    (churn), Bansal et al. 2019 and Srivastava et al. 2020 (BTC, BEC), Echterhoff et al. 2024
    (MUSCLE, 2407.09435: inconsistency).
    """

    #: items that both answered
    n: int = 0
    #: old right, new wrong: broken
    negative: int = 0
    #: old wrong, new right: mended
    positive: int = 0
    both_right: int = 0
    #: both wrong, with the same answer
    both_wrong_alike: int = 0
    #: both wrong, with different answers
    both_wrong_differently: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name}: {getattr(self, field.name)} is below 0")
        if self.right_before + self.wrong_before != self.n:
            raise ValueError(f"n: {self.n} is not the sum of the other counts")

    @property
    def accuracy_before(self) -> float | None:
        """Accuracy of the old model."""
        return self.rate("accuracy_before")

    @property
    def accuracy_after(self) -> float | None:
        """Accuracy of the new model."""
        return self.rate("accuracy_after")

    @property
    def negative_flip_rate(self) -> float | None:
        """NFR: share of all items that were right and are wrong now."""
        return self.rate("negative_flip_rate")

    @property
    def positive_flip_rate(self) -> float | None:
        """PFR: share of all items that were wrong and are right now; PFR − NFR = Δ accuracy."""
        return self.rate("positive_flip_rate")

    @property
    def inconsistency(self) -> float | None:
        """NFR_mc: share of items now wrong with another answer than before."""
        return self.rate("inconsistency")

    @property
    def churn(self) -> float | None:
        """Share of items whose answer changed; |Δ accuracy| <= churn <= both error rates."""
        return self.rate("churn")

    @property
    def good_churn(self) -> float | None:
        """Share of items whose changed answer is right: the PFR, under churn's name."""
        return self.rate("good_churn")

    @property
    def bad_churn(self) -> float | None:
        """Share of items whose changed answer was right: the NFR, under churn's name."""
        return self.rate("bad_churn")

    @property
    def win_loss_ratio(self) -> float | None:
        """Positive per negative flip; None without negative flips."""
        return self.rate("win_loss_ratio")

    @property
    def relative_negative_flip_rate(self) -> float | None:
        """NFR over what independent errors would give, accuracy before × error after."""
        return self.rate("relative_negative_flip_rate")

    @property
    def backward_trust(self) -> float | None:
        """BTC: share of the once right items that are still right, 1 − NFR / accuracy before."""
        return self.rate("backward_trust")

    @property
    def backward_error(self) -> float | None:
        """BEC: share of the once wrong items that are still wrong."""
        return self.rate("backward_error")

    @property
    def negative_flip_impact(self) -> float | None:
        """NFI: share of the new model's errors that are new."""
        return self.rate("negative_flip_impact")

    @property
    def positive_flip_impact(self) -> float | None:
        """PFI: share of the new model's right answers that are new."""
        return self.rate("positive_flip_impact")

    def rate(self, name: str) -> float | None:
        """One rate of `RATES`; None where its denominator is 0."""
        part, whole = FRACTIONS[name](self)
        return part / whole if whole else None

    def rates(self) -> dict[str, float | None]:
        """All rates by name; None where undefined."""
        return {name: self.rate(name) for name in RATES}


#: numerator and denominator of every rate, from counts: whole numbers, or arrays of them
FRACTIONS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "accuracy_before": lambda c: (c.right_before, c.n),
    "accuracy_after": lambda c: (c.right_after, c.n),
    "negative_flip_rate": lambda c: (c.negative, c.n),
    "positive_flip_rate": lambda c: (c.positive, c.n),
    "inconsistency": lambda c: (c.inconsistent, c.n),
    "churn": lambda c: (c.changed, c.n),
    "good_churn": lambda c: (c.positive, c.n),
    "bad_churn": lambda c: (c.negative, c.n),
    "win_loss_ratio": lambda c: (c.positive, c.negative),
    "relative_negative_flip_rate": lambda c: (c.negative * c.n, c.right_before * c.wrong_after),
    "backward_trust": lambda c: (c.both_right, c.right_before),
    "backward_error": lambda c: (c.both_wrong, c.wrong_before),
    "negative_flip_impact": lambda c: (c.negative, c.wrong_after),
    "positive_flip_impact": lambda c: (c.positive, c.right_after),
}
#: every rate of `Compatibility`, in the order of metrics tables
RATES = tuple(FRACTIONS)


def compare(old: Predictions, new: Predictions, only: np.ndarray | None = None) -> Compatibility:
    """The counts for one suite and split; `only`, bool [N]: of these items.

    Raises ValueError when the tables are not of the same items and form. For a `text` suite
    flips are not defined: no item is counted, every rate is None.
    """
    check_same_items(old, new)
    if old.form == "text":
        return Compatibility()
    was, now = _right(old), _right(new)
    assert old.answer is not None
    assert new.answer is not None
    same = old.answer == new.answer
    if only is not None:
        was, now, same = was[only], now[only], same[only]
    wrong = ~was & ~now
    alike = int((wrong & same).sum())
    return Compatibility(
        n=len(was),
        negative=int((was & ~now).sum()),
        positive=int((~was & now).sum()),
        both_right=int((was & now).sum()),
        both_wrong_alike=alike,
        both_wrong_differently=int(wrong.sum()) - alike,
    )


def pooled(parts: Iterable[Compatibility]) -> Compatibility:
    """The counts over several suites: every item weighs the same, whatever its suite."""
    listed = list(parts)
    return Compatibility(
        **{f.name: sum(getattr(part, f.name) for part in listed) for f in fields(Compatibility)}
    )


def negative_flips(old: Predictions, new: Predictions) -> np.ndarray:
    """int64: indices of the items that were right and are wrong now, in item order."""
    check_same_items(old, new)
    if old.form == "text":
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(_right(old) & ~_right(new))


def positive_flips(old: Predictions, new: Predictions) -> np.ndarray:
    """int64: indices of the items that were wrong and are right now, in item order."""
    return negative_flips(new, old)


def _right(predictions: Predictions) -> np.ndarray:
    assert predictions.correct is not None
    return predictions.correct.astype(bool)


def check_same_items(old: Predictions, new: Predictions) -> None:
    """Raise ValueError when two tables are not of the same items and form."""
    if old.form != new.form:
        raise ValueError(f"form: {new.form!r} cannot be compared with {old.form!r}")
    if old.items != new.items:
        raise ValueError(f"items: digest {new.items} is not {old.items}: other items")
    if len(old) != len(new):
        raise ValueError(f"items: {len(new)} results for the {len(old)} of the other model")
