"""How sure a study's front is, from stored predictions: computed when it is read, never evaluated.

Open splits only; the sealed test split is for the final report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optim.membership import SuiteTable, membership, resampled
from optim.optimism import optimism_bound, standard_errors
from optim.predictions import Predictions
from optim.search import Question
from services.db import Database
from services.studies.clusters import clusters_of
from services.studies.evidence import answers_of, question_of
from services.studies.propose import merit, minimised
from services.studies.read import OpenSplit, refuse_test
from services.studies.record import Study, Trial, load_trials, predictions_of

#: of a larger study those of the best ranks are resampled; all others are on hardly any front
MOST_CANDIDATES = 400


def on_the_front(database: Database, study: Study, split: OpenSplit) -> dict[int, float]:
    """In which share of 1,000 resampled sets of items each candidate is on the front, by trial
    number. Candidates beyond the best `MOST_CANDIDATES` are left out."""
    told = _told(database, study, split)
    reference = next((t for t in told if t.role == "reference"), None)
    if reference is None:
        return {}
    best = sorted(told, key=lambda t: (t.rank or 0, t.number))[:MOST_CANDIDATES]
    question, tables = _tables(database, study, split, reference, best)
    shares = membership(question, tables)
    return {t.number: float(share) for t, share in zip(best, shares, strict=True)}


def gain(
    database: Database, study: Study, split: OpenSplit, new: Trial, old: Trial
) -> tuple[float, float, float]:
    """By how much `new` has the better mean of the objectives than `old`, with the 95 % interval
    of the difference on the same items. Both must have been told on the split."""
    told = _told(database, study, split)
    reference = next(t for t in told if t.role == "reference")
    question, tables = _tables(database, study, split, reference, [new, old])
    merits = -resampled(question, tables)[0].mean(axis=2)
    low, high = np.quantile(merits[:, 0] - merits[:, 1], [0.025, 0.975])
    exact = [-float(np.mean(minimised(study, t.objectives or ()))) for t in (new, old)]
    return exact[0] - exact[1], float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Optimism:
    """By how much the best of K candidates is flattered by having been chosen on these items, in
    the mean of the objectives; what it scores on items that chose nothing is free of it."""

    split: str
    #: K: feasible candidates
    candidates: int
    #: cannot be exceeded, on average (`optim.optimism`)
    bound: float
    #: mean over resampled items of what the winner gains by being the winner
    expected: float

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"The best of {self.candidates} on {self.split} is flattered by {self.expected:.4f} on "
            f"average, by {self.bound:.4f} at most, in the mean of the objectives."
        )


def optimism(database: Database, study: Study, split: OpenSplit) -> Optimism | None:
    """The optimism of the best candidate of a split; None without a feasible one.

    Errors come from 1,000 resamples of the items. Those of candidates beyond the best
    `MOST_CANDIDATES` are taken to be like the others'.
    """
    told = _told(database, study, split)
    reference = next((t for t in told if t.role == "reference"), None)
    feasible = [t for t in told if (t.violation or 0.0) <= 0]
    if reference is None or not feasible:
        return None
    best = sorted(feasible, key=lambda t: (t.rank or 0, t.number))[:MOST_CANDIDATES]
    question, tables = _tables(database, study, split, reference, best)
    merits = -resampled(question, tables)[0].mean(axis=2)
    errors = standard_errors(merits)
    beyond = np.full(len(feasible) - len(best), errors.mean())
    bound = optimism_bound(np.concatenate([errors, beyond]))
    assert bound is not None
    own = np.array([merit(study, t) for t in best])
    winners = merits.argmax(axis=1)
    gained = merits[np.arange(len(merits)), winners] - own[winners]
    return Optimism(
        split=split, candidates=len(feasible), bound=bound, expected=max(0.0, float(gained.mean()))
    )


def _told(database: Database, study: Study, split: OpenSplit) -> list[Trial]:
    refuse_test(split)
    with database.transaction() as connection:
        return [t for t in load_trials(connection, study.id, split) if t.objectives is not None]


def _tables(
    database: Database, study: Study, split: OpenSplit, reference: Trial, trials: Sequence[Trial]
) -> tuple[Question, list[SuiteTable]]:
    wanted = {reference.id, *(t.id for t in trials)}
    with database.transaction() as connection:
        stored = predictions_of(connection, study, sorted(wanted), split)
        clusters = clusters_of(connection, study, split)
    old, models = stored[reference.id], [stored[t.id] for t in trials]
    return question_of(study, old, clusters), _stacked(study, old, models)


def _stacked(
    study: Study, old: Mapping[str, Predictions], models: Sequence[Mapping[str, Predictions]]
) -> list[SuiteTable]:
    """The answers of several models, suite by suite."""
    ends = np.cumsum([len(old[suite.name]) for suite in study.suites])[:-1]
    changed = [np.split(answers_of(study, old, model)[1], ends) for model in models]
    found = []
    for index, suite in enumerate(study.suites):
        if suite.form == "text":
            found.append(SuiteTable(nll=np.stack([_nll(m[suite.name]) for m in models])))
            continue
        right = np.stack([_right(m[suite.name]) for m in models])
        moved = np.stack([parts[index] for parts in changed])
        found.append(SuiteTable(right=right, changed=moved))
    return found


def _right(predictions: Predictions) -> np.ndarray:
    assert predictions.correct is not None
    return predictions.correct


def _nll(predictions: Predictions) -> np.ndarray:
    assert predictions.nll is not None
    return predictions.nll
