"""What changes for the user when one model replaces another: flips and churn on the same items.

Everything is arithmetic on six counts, so overall figures are those of the summed counts. A rate
whose denominator is 0 is None, never 0 or infinite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from optim.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Compatibility:
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
    def right_before(self) -> int:
        """Items that the old model had right."""
        return self.both_right + self.negative

    @property
    def right_after(self) -> int:
        """Items that the new model has right."""
        return self.both_right + self.positive

    @property
    def wrong_before(self) -> int:
        """Items that the old model had wrong."""
        return self.positive + self.both_wrong

    @property
    def wrong_after(self) -> int:
        """Items that the new model has wrong."""
        return self.negative + self.both_wrong

    @property
    def both_wrong(self) -> int:
        """Items that both have wrong, alike or not."""
        return self.both_wrong_alike + self.both_wrong_differently

    @property
    def changed(self) -> int:
        """Items with another answer than before (two right answers are one answer)."""
        return self.negative + self.positive + self.both_wrong_differently

    @property
    def accuracy_before(self) -> float | None:
        """Accuracy of the old model."""
        return _share(self.right_before, self.n)

    @property
    def accuracy_after(self) -> float | None:
        """Accuracy of the new model."""
        return _share(self.right_after, self.n)

    @property
    def negative_flip_rate(self) -> float | None:
        """NFR: share of all items that were right and are wrong now."""
        return _share(self.negative, self.n)

    @property
    def positive_flip_rate(self) -> float | None:
        """PFR: share of all items that were wrong and are right now; PFR − NFR = Δ accuracy."""
        return _share(self.positive, self.n)

    @property
    def inconsistency(self) -> float | None:
        """NFR_mc: share of items now wrong with another answer than before."""
        return _share(self.negative + self.both_wrong_differently, self.n)

    @property
    def churn(self) -> float | None:
        """Share of items whose answer changed; |Δ accuracy| <= churn <= both error rates."""
        return _share(self.changed, self.n)

    @property
    def good_churn(self) -> float | None:
        """Share of items whose changed answer is right: the PFR, under churn's name."""
        return self.positive_flip_rate

    @property
    def bad_churn(self) -> float | None:
        """Share of items whose changed answer was right: the NFR, under churn's name."""
        return self.negative_flip_rate

    @property
    def win_loss_ratio(self) -> float | None:
        """Positive per negative flip; None without negative flips."""
        return _share(self.positive, self.negative)

    @property
    def relative_negative_flip_rate(self) -> float | None:
        """NFR over what independent errors would give, accuracy before × error after."""
        return _share(self.negative * self.n, self.right_before * self.wrong_after)

    @property
    def backward_trust(self) -> float | None:
        """BTC: share of the once right items that are still right, 1 − NFR / accuracy before."""
        return _share(self.both_right, self.right_before)

    @property
    def backward_error(self) -> float | None:
        """BEC: share of the once wrong items that are still wrong."""
        return _share(self.both_wrong, self.wrong_before)

    @property
    def negative_flip_impact(self) -> float | None:
        """NFI: share of the new model's errors that are new."""
        return _share(self.negative, self.wrong_after)

    @property
    def positive_flip_impact(self) -> float | None:
        """PFI: share of the new model's right answers that are new."""
        return _share(self.positive, self.right_after)

    def rates(self) -> dict[str, float | None]:
        """All rates by name; None where undefined."""
        return {name: getattr(self, name) for name in RATES}


#: every rate of `Compatibility`, in the order of metrics tables
RATES = (
    "accuracy_before",
    "accuracy_after",
    "negative_flip_rate",
    "positive_flip_rate",
    "inconsistency",
    "churn",
    "good_churn",
    "bad_churn",
    "win_loss_ratio",
    "relative_negative_flip_rate",
    "backward_trust",
    "backward_error",
    "negative_flip_impact",
    "positive_flip_impact",
)


def compare(old: Predictions, new: Predictions, only: np.ndarray | None = None) -> Compatibility:
    """The counts for one suite and split; `only`, bool [N]: of these items.

    Raises ValueError when the tables are not of the same items and form. For a `text` suite
    flips are not defined: no item is counted, every rate is None.
    """
    _check_same_items(old, new)
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
    _check_same_items(old, new)
    if old.form == "text":
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(_right(old) & ~_right(new))


def positive_flips(old: Predictions, new: Predictions) -> np.ndarray:
    """int64: indices of the items that were wrong and are right now, in item order."""
    return negative_flips(new, old)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _right(predictions: Predictions) -> np.ndarray:
    assert predictions.correct is not None
    return predictions.correct.astype(bool)


def _check_same_items(old: Predictions, new: Predictions) -> None:
    if old.form != new.form:
        raise ValueError(f"form: {new.form!r} cannot be compared with {old.form!r}")
    if old.items != new.items:
        raise ValueError(f"items: digest {new.items} is not {old.items}: other items")
    if len(old) != len(new):
        raise ValueError(f"items: {len(new)} results for the {len(old)} of the other model")
