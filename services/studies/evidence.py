"""What a study knows beside the objectives of its trials, for searchers that can use it.

The question in terms of single items, and what every complete trial answered. Reads stored
predictions of the search split alone: nothing of validation or test ever comes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from optim.predictions import Predictions
from optim.search import METHODS, Axis, Bound, ItemSuite, Question
from services.db import Connection
from services.predictions import Seen
from services.studies import earlier
from services.studies.clusters import clusters_of
from services.studies.earlier import EarlierResult
from services.studies.propose import BASELINES
from services.studies.record import Study, Trial, predictions_of, seen_of
from services.studies.tell import constrained

#: `Observation.signal` and `Observation.changed` of one trial
Answers = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a searcher is given beside its own trials' weights and objectives."""

    #: of earlier studies, newest first
    earlier: Sequence[EarlierResult] = ()
    #: set only for methods that learn from items
    question: Question | None = None
    #: by trial id, of complete and stopped trials and earlier results; empty like `question`
    answers: Mapping[int, Answers] = field(default_factory=dict)


def gather(connection: Connection, study: Study, trials: Sequence[Trial]) -> Evidence:
    """The evidence of a study whose baselines are closed; empty before. `trials` are those of the
    search split."""
    base = [t for t in trials if t.role in BASELINES]
    reference = next((t for t in base if t.role == "reference" and t.told), None)
    if reference is None or not all(t.closed for t in base):
        return Evidence()
    found = earlier.load(connection, study)
    method = METHODS.get(study.spec.search.method)
    if method is None or not method.uses_items:
        return Evidence(earlier=found)
    wanted = [t.id for t in trials if t.told or t.state == "stopped"] + [
        one.trial_id for one in found
    ]
    stored = predictions_of(connection, study, wanted, "search")
    parts = seen_of(connection, study, [t.id for t in trials if t.state == "stopped"])
    old = stored[reference.id]
    return Evidence(
        earlier=found,
        question=question_of(study, old, clusters_of(connection, study, "search")),
        answers={
            trial: answers_of(study, old, stored.get(trial, {}), parts.get(trial, {}))
            for trial in (*stored, *(parts.keys() - stored.keys()))
        },
    )


def question_of(
    study: Study,
    reference: Mapping[str, Predictions],
    clusters: Mapping[str, np.ndarray | None] = MappingProxyType({}),
) -> Question:
    """The study's objectives and constraints over its items, with the reference's answers.

    `clusters`: from `services.studies.clusters`; a suite that is not in it has independent items.
    """
    return Question(
        suites=tuple(
            ItemSuite(
                name=suite.name,
                form=suite.form,
                reference=reference[suite.name].correct,
                tokens=reference[suite.name].tokens,
                nll=reference[suite.name].nll,
                refuse=reference[suite.name].refuse,
                clusters=clusters.get(suite.name),
            )
            for suite in study.suites
        ),
        axes=tuple(
            Axis(metric=axis.metric, suite=axis.suite or "", sign=sign)
            for axis, sign in zip(study.spec.axes, study.signs, strict=True)
        ),
        bounds=tuple(
            Bound(
                metric=c.metric,
                suites=tuple(constrained(study, c)),
                limit=c.limit,
                sign=1.0 if c.upper else -1.0,
                confidence=c.confidence,
                worse=c.at_most_worse is not None,
            )
            for c in study.spec.constraints
        ),
    )


def answers_of(
    study: Study,
    old: Mapping[str, Predictions],
    new: Mapping[str, Predictions],
    begun: Mapping[str, Seen] = MappingProxyType({}),
) -> Answers:
    """`Observation.signal` and `.changed` of one trial, suite after suite; NaN and False for items
    that were not scored. `begun`: what a stopped trial has of suites it did not finish."""
    parts = []
    for suite in study.suites:
        known, part = new.get(suite.name), begun.get(suite.name)
        signal, changed = _suite_answers(old[suite.name], part.predictions if part else known)
        if part is not None:
            signal = np.where(part.seen, signal, np.float32(np.nan))
            changed = changed & part.seen
        parts.append((signal, changed))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _suite_answers(old: Predictions, new: Predictions | None) -> Answers:
    if new is None:
        return np.full(len(old), np.nan, np.float32), np.zeros(len(old), bool)
    if new.form == "text":
        return -new.units().astype(np.float32), np.zeros(len(old), bool)
    signal = new.correct if new.margin is None else new.margin
    assert signal is not None
    assert new.correct is not None
    assert old.correct is not None
    # two right answers are one answer, as in `optim.compatibility`
    both_wrong = ~old.correct & ~new.correct
    changed = (old.correct != new.correct) | (both_wrong & (old.answer != new.answer))
    return signal.astype(np.float32), changed
