"""What a study asks, in terms of single items: how objectives and constraints follow from them.

Searchers that learn from items need it; it holds facts about the study, never about a candidate.
All suites' items stand in one long vector, suite after suite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.predictions import Form
from optim.rates import Metric


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSuite:
    """One suite's items on the split that is searched."""

    name: str
    form: Form
    #: bool [N]: the reference answers right; None for a text suite
    reference: np.ndarray | None = None
    #: int [N]: tokens of each text; None for other forms
    tokens: np.ndarray | None = None
    #: float32 [N], nats: what the reference needs for each text; None for other forms
    nll: np.ndarray | None = None
    #: bool [N]: a refusal is right; None unless the form is `refusal`
    refuse: np.ndarray | None = None
    #: int64 [N], from 0: the cluster of each item; None where items are independent
    clusters: np.ndarray | None = None

    def __len__(self) -> int:
        array = self.tokens if self.form == "text" else self.reference
        assert array is not None
        return len(array)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One objective."""

    metric: Metric
    #: "" for all suites together
    suite: str = ""
    #: +1 when it is minimised, −1 when it is maximised
    sign: float = -1.0


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One constraint: sign · (confidence bound of the metric − limit) <= 0 in every suite."""

    metric: Metric
    suites: tuple[str, ...]
    limit: float
    #: +1 for an upper limit, −1 for a lower one
    sign: float
    #: of the one-sided bound; None: the estimate itself
    confidence: float | None = None
    #: about how much worse than the reference the metric is, on the same items
    worse: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Suites, objectives and constraints; `Observation.signal` has their items in this order."""

    suites: tuple[ItemSuite, ...]
    axes: tuple[Axis, ...]
    bounds: tuple[Bound, ...] = ()

    @property
    def items(self) -> int:
        """How many items all suites have together."""
        return sum(len(suite) for suite in self.suites)
