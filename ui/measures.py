"""What can be put on an axis or in a column: the metrics of a study, with names, units, directions.

Pure: a measure only knows how to find its metric in a `CandidateView`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.rates import REFUSAL_RATES
from services.spec import METRICS, Objective
from services.studies.columns import Columns, Numbers
from services.studies.read import CandidateView, Metric
from services.studies.record import Study
from services.words import RATE_TITLES, count

#: metric -> what it is called on a page
TITLES = {
    "score": "score",
    "macro": "macro average",
    **RATE_TITLES,
}
#: metric -> what it means, in one sentence
MEANINGS = {
    "score": "share of right answers (text suites: nats per token, lower is better)",
    "macro": "mean score of the suites with right and wrong answers",
    "negative_flip_rate": "items that the reference gets right and this candidate wrong",
    "positive_flip_rate": "items that the reference gets wrong and this candidate right",
    "churn": "items whose answer differs from the reference's",
    "inconsistency": "negative flips, and items that both get wrong, differently",
    "backward_trust": "of what the reference gets right, the share that this candidate does too",
    "backward_error": "of what the reference gets wrong, the share that this candidate does too",
    "over_refusal": "refusals, of the items that expect an answer",
    "unsafe_compliance": "answers, of the items that expect a refusal",
}
NATS = "nats/token"
#: metrics that say again what flips and scores say
RESTATED = ("backward_trust", "backward_error")


@dataclass(frozen=True)
class Measure:
    """One metric of one suite; suite '' for all suites together."""

    metric: str
    suite: str = ""
    #: '%' for shares of items, or nats per token
    unit: str = "%"
    #: 'maximize' or 'minimize'
    better: str = "maximize"

    @property
    def key(self) -> str:
        """Short id, as in specs: `macro`, `churn:trec`, `score:trec`. Stands in URLs."""
        return f"{self.metric}:{self.suite}" if self.suite else self.metric

    @property
    def title(self) -> str:
        """Name for people: `negative flips, trec`; a suite's score is called by the suite."""
        if self.metric == "score":
            return self.suite
        return f"{TITLES[self.metric]}, {self.suite}" if self.suite else TITLES[self.metric]

    @property
    def meaning(self) -> str:
        """One sentence."""
        return MEANINGS[self.metric]

    def of(self, candidate: CandidateView) -> Metric | None:
        """The metric of a candidate, None while it has none."""
        return candidate.metrics.get(self.suite, {}).get(self.metric)

    def value(self, candidate: CandidateView) -> float | None:
        """The bare value."""
        metric = self.of(candidate)
        return None if metric is None else metric.value

    def numbers(self, columns: Columns) -> Numbers | None:
        """The metric of all trials, None where no trial has it."""
        return columns.metrics.get((self.suite, self.metric))

    def values(self, columns: Columns) -> np.ndarray:
        """float64 [T]: the bare values of all trials, NaN where there is none."""
        return columns.values(self.suite, self.metric)

    @property
    def what(self) -> str:
        """The unit of an axis."""
        shares = self.metric not in ("score", "macro")
        return self.unit if self.unit != "%" else "% of items" if shares else "% right"

    @property
    def way(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.better == "maximize" else "lower is better"

    def axis(self, columns: Columns) -> str:
        """Title of an axis: what, unit, direction, split and n."""
        numbers = self.numbers(columns)
        n = 0 if numbers is None or not len(columns) else int(numbers.n.max())
        return f"{self.title} ({self.what}, {self.way}) · {columns.split}, n = {count(n)}"


def measures(study: Study) -> list[Measure]:
    """Every measure of a study: overall ones first, then suite by suite."""
    scored = [suite.name for suite in study.scored]
    refusing = [suite.name for suite in study.suites if suite.form == "refusal"]
    having = {name: refusing if name in REFUSAL_RATES else scored for name in METRICS}
    overall = [m for m in METRICS if m != "score" and (m != "macro" or len(scored) > 1)]
    found = [Measure(name, better=METRICS[name]) for name in overall if having[name]]
    for suite in study.suites:
        if suite.form == "text":
            found.append(Measure("score", suite.name, NATS, "minimize"))
        else:
            found.append(Measure("score", suite.name))
    for name in METRICS:
        if name not in ("score", "macro"):
            found += [Measure(name, suite, better=METRICS[name]) for suite in having[name]]
    return found


def objectives(study: Study) -> list[Measure]:
    """The study's own objectives, in its directions."""
    known = {m.key: m for m in measures(study)}
    found = []
    for index, axis in enumerate(study.spec.axes):
        base = known.get(_key(axis)) or Measure(axis.metric, axis.suite or "")
        found.append(Measure(base.metric, base.suite, base.unit, study.direction(index)))
    return found


def _key(axis: Objective) -> str:
    return f"{axis.metric}:{axis.suite}" if axis.suite else axis.metric


def defaults(study: Study) -> tuple[str, str]:
    """Keys of the first plot's X and Y: what it costs in flips against what it brings."""
    keys = [m.key for m in measures(study)]
    own = [m.key for m in objectives(study)]
    y = "macro" if "macro" in keys else own[0]
    x = "negative_flip_rate"
    if x not in keys:
        x = next((key for key in own if key != y), keys[-1])
    return x, y
