"""The models behind the surrogates: of objectives, or of every item's margin.

Both choose their kernel by how well results are predicted that were left out of the fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from optim.search.base import Observation
from optim.search.forecast import forecast, needs_changed
from optim.search.question import ItemSuite, Question
from optim.search.ridge import Factors, factorised
from optim.space import Space

#: items on which kernels are compared; all items are then fitted with the one that is chosen
COMPARED_ITEMS = 1500
#: widest error, in units of the usual one, that is believed of a far point
MOST_DOUBT = 1.5


@dataclass(frozen=True, eq=False)
class Model(ABC):
    """What both models have in common: the results, the kernel, and errors on what was left out."""

    space: Space
    rows: list[Observation]
    factors: Factors
    #: float64 [n, k] and [n]: measured minus predicted without it
    errors: tuple[np.ndarray, np.ndarray]
    rank_correlation: float

    def doubt(self, points: np.ndarray) -> np.ndarray:
        """float64 [m]: how many times larger than `errors` the error may be at weights
        [m, size]."""
        z = self.space.coordinates(points)
        variance = self.factors.variance(z, self.factors.rows(z))
        return np.clip(np.sqrt(variance), 0.5, MOST_DOUBT)

    @abstractmethod
    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Objectives [m, k], minimised, and violations [m] at weights [m, size]."""


@dataclass(frozen=True, eq=False)
class MetricModel(Model):
    """Objectives and violation as functions of the weights."""

    dual: np.ndarray

    @classmethod
    def fit(cls, space: Space, rows: Sequence[Observation]) -> MetricModel:
        """On complete results."""
        z, values, violations = _points(space, rows)
        targets = np.column_stack([values, violations])
        scale = np.maximum(targets.std(axis=0), 1e-9)

        def wrong(factors: Factors) -> float:
            left_out = factors.left_out(targets, factors.weights(targets))
            return float((((targets - left_out) / scale) ** 2).mean())

        factors = min(factorised(z), key=wrong)
        dual = factors.weights(targets)
        left_out = factors.left_out(targets, dual)
        errors = targets - left_out
        return cls(
            space=space,
            rows=list(rows),
            factors=factors,
            errors=(errors[:, :-1], errors[:, -1]),
            rank_correlation=rank_correlation(values, left_out[:, :-1]),
            dual=dual,
        )

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Model.predict`."""
        found = self.factors.rows(self.space.coordinates(points)) @ self.dual
        return found[:, :-1], np.maximum(found[:, -1], 0.0)


@dataclass(frozen=True, eq=False)
class ItemModel(Model):
    """Every item's signal as a function of the weights; objectives follow from the study."""

    question: Question
    #: float64 [n, items] and, where answers' changes matter, the same for them
    dual: np.ndarray
    dual_changed: np.ndarray | None
    #: float64 [items]: root mean square of the left-out errors
    noise: np.ndarray

    @classmethod
    def fit(
        cls,
        space: Space,
        question: Question,
        rows: Sequence[Observation],
        partial: Sequence[Observation] = (),
    ) -> ItemModel:
        """On complete results that have signals, and on `partial` ones, whose signals are NaN
        where nothing was scored: there a prediction stands in."""
        z, values, violations = _points(space, rows)
        whole = len(rows)
        targets = _targets(question, rows)
        factors = min(factorised(z), key=_Wrong(question, targets[0]))
        if partial:
            more = space.coordinates([row.weights for row in partial])
            at, parts = factors.rows(more), _targets(question, partial)
            seen = np.isfinite(parts[0])
            targets = [
                np.vstack([t, _completed(question, part, seen, at @ factors.weights(t))])
                for t, part in zip(targets, parts, strict=True)
            ]
            (factors,) = factorised(np.vstack([z, more]), [factors.kernel], [factors.ridge])
        duals = [factors.weights(t) for t in targets]
        left_out = [factors.left_out(t, d)[:whole] for t, d in zip(targets, duals, strict=True)]
        noise = _noise(targets[0][:whole], left_out[0])
        right = _right(question, left_out[0], noise)
        found, missed = forecast(question, right, left_out[1] if len(left_out) > 1 else None)
        return cls(
            space=space,
            rows=list(rows),
            factors=factors,
            errors=(values - found, violations - missed),
            rank_correlation=rank_correlation(values, found),
            question=question,
            dual=duals[0],
            dual_changed=duals[1] if len(duals) > 1 else None,
            noise=noise,
        )

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Model.predict`."""
        rows = self.factors.rows(self.space.coordinates(points))
        changed = None
        if self.dual_changed is not None:
            changed = np.clip(rows @ self.dual_changed, 0.0, 1.0)
        return forecast(self.question, _right(self.question, rows @ self.dual, self.noise), changed)


def _targets(question: Question, rows: Sequence[Observation]) -> list[np.ndarray]:
    """float64 [n, items]: signals and, where answers' changes matter, those."""
    found = [np.stack([row.signal for row in rows if row.signal is not None])]
    if needs_changed(question):
        found.append(np.stack([row.changed for row in rows if row.changed is not None]))
    return [one.astype(np.float64) for one in found]


def _completed(
    question: Question, part: np.ndarray, seen: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """float64 [n, items]: what was seen, and predictions elsewhere, moved by as much as they were
    wrong on what was seen of the same suite: a stopped candidate is worse than was thought."""
    found = np.where(seen, part, predicted)
    start = 0
    for suite in question.suites:
        own = slice(start, start + len(suite))
        start = own.stop
        count = seen[:, own].sum(axis=1, keepdims=True)
        wrong = np.where(seen[:, own], part[:, own] - predicted[:, own], 0.0).sum(1, keepdims=True)
        found[:, own] += np.where(seen[:, own], 0.0, wrong / np.maximum(count, 1))
    return found


class _Wrong:
    """Mean square error of left-out objectives, in units of their spread, on some of the items."""

    def __init__(self, question: Question, signal: np.ndarray) -> None:
        kept, self._question = _thinned(question, COMPARED_ITEMS)
        self._signal = np.ascontiguousarray(signal[:, kept])
        sharp = np.full(len(kept), 1e-6, dtype=signal.dtype)
        right = _right(self._question, self._signal, sharp)
        self._unchanged = np.zeros_like(right) if needs_changed(question) else None
        self._values, _ = forecast(self._question, right, self._unchanged)

    def __call__(self, factors: Factors) -> float:
        left_out = factors.left_out(self._signal, factors.weights(self._signal))
        right = _right(self._question, left_out, _noise(self._signal, left_out))
        found, _ = forecast(self._question, right, self._unchanged)
        scale = np.maximum(self._values.std(axis=0), 1e-9)
        return float((((self._values - found) / scale) ** 2).mean())


def _thinned(question: Question, most: int) -> tuple[np.ndarray, Question]:
    """Indices of every k-th item, so that about `most` are left, and the question of those."""
    step = max(1, -(-question.items // most))
    kept: list[np.ndarray] = []
    suites: list[ItemSuite] = []
    start = 0
    for suite in question.suites:
        local = np.arange(0, len(suite), min(step, max(len(suite) // 50, 1)))
        kept.append(start + local)
        start += len(suite)
        suites.append(
            replace(
                suite,
                reference=None if suite.reference is None else suite.reference[local],
                tokens=None if suite.tokens is None else suite.tokens[local],
                nll=None if suite.nll is None else suite.nll[local],
                refuse=None if suite.refuse is None else suite.refuse[local],
            )
        )
    return np.concatenate(kept), replace(question, suites=tuple(suites), bounds=())


def _points(space: Space, rows: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z = space.coordinates([row.weights for row in rows])
    values = np.array([row.values for row in rows], dtype=np.float64)
    return z, values, np.array([row.violation for row in rows], dtype=np.float64)


def _noise(signal: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    error = np.sqrt(((signal - left_out) ** 2).mean(axis=0))
    return np.maximum(error, 1e-3 * np.abs(signal).mean(axis=0) + 1e-6)


def _right(question: Question, signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Probability of a right answer, or nats per token of a text; float64 [m, items]."""
    from scipy.special import ndtr

    found = np.empty_like(signal)
    start = 0
    for suite in question.suites:
        part = slice(start, start + len(suite))
        start = part.stop
        if suite.form == "text":
            found[:, part] = -signal[:, part]
        elif suite.form == "choice":
            found[:, part] = ndtr(signal[:, part] / noise[part])
        else:
            found[:, part] = np.clip(signal[:, part], 0.0, 1.0)
    return found


def rank_correlation(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Spearman's correlation, mean over columns [n, k]; a column without spread counts 0."""
    from scipy.stats import rankdata

    found = []
    for a, b in zip(measured.T, predicted.T, strict=True):
        ra, rb = rankdata(a), rankdata(b)
        spread = float(ra.std() * rb.std())
        found.append(
            float(((ra - ra.mean()) * (rb - rb.mean())).mean()) / spread if spread else 0.0
        )
    return float(np.mean(found))
