"""What became of generated answers when one model replaces another, by a score of stored texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.generative import gains, text_scores
from optim.predictions import Predictions
from services.spec import Judging
from services.studies.clusters import side_by_side
from services.studies.read import OpenSplit
from services.studies.tell import Value, share_of
from services.suites import Suite

#: a suite with the old answers, the new ones, and the clusters of its items
Part = tuple[Suite, Predictions, Predictions, np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class TextGains:
    """What became of generated answers, by a score of texts (`optim.generative`)."""

    score: str
    tolerance: float
    #: mean score of the old and of the new answers
    old: float
    new: float
    positive_flip_rate: Value
    negative_flip_rate: Value
    #: mean change of those that became better, worse; None without any
    mean_gain: float | None
    mean_regression: float | None


def text_gains(parts: Sequence[Part], split: OpenSplit, judging: Judging) -> TextGains | None:
    """Gains and losses of the generated answers of some suites together; None without any."""
    known = [
        (part, part[1].texts, part[2].texts)
        for part in parts
        if part[1].texts is not None and part[2].texts is not None
    ]
    if not known:
        return None
    targets = [item.target for (suite, *_), _, _ in known for item in suite.split(split)]
    old = text_scores(judging.text_score, [t for _, texts, _ in known for t in texts], targets)
    new = text_scores(judging.text_score, [t for _, _, texts in known for t in texts], targets)
    clusters = side_by_side([(len(part[1]), part[3]) for part, _, _ in known])
    found = gains(old, new, judging.tolerance)
    change = new - old
    return TextGains(
        score=judging.text_score,
        tolerance=judging.tolerance,
        old=float(old.mean()),
        new=float(new.mean()),
        positive_flip_rate=share_of(change > judging.tolerance, clusters),
        negative_flip_rate=share_of(change < -judging.tolerance, clusters),
        mean_gain=found.mean_gain,
        mean_regression=found.mean_regression,
    )
