"""What a study's stored answers say of one of its suites: items without signal, golds to review,
models that favour a position, and which differences the suite can show.

Open splits only: answers on the sealed test split are never read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from optim.predictions import Predictions
from optim.suite_answers import (
    Leaning,
    Suspect,
    detectable_difference,
    discordance,
    leaning,
    signal,
    strong,
    suspects,
)
from services.db import Connection, Database
from services.studies.read import OpenSplit
from services.studies.record import Study, Trial, load_predictions, load_trials, predictions_of
from services.suite_health import gold_of
from services.suites import SPLITS, Item, Suite

#: items of a review list
REVIEWED = 20
#: candidates beyond the best of so many are left out: they say nothing new of items
MOST_CANDIDATES = 200


@dataclass(frozen=True, kw_only=True)
class Review:
    """An item whose gold people should look at, because strong checkpoints miss it alike."""

    item: str
    prompt: str
    gold: str
    #: what most of the strong checkpoints answered
    answer: str
    agree: int
    of: int
    #: mean probability that they give it; without options' probabilities `agree / of`
    sure: float


@dataclass(frozen=True, kw_only=True)
class SuiteAnswers:
    """One suite on one open split of a study."""

    suite: str
    split: str
    n: int
    #: trials that answered: candidates and baselines
    models: int
    #: ids of items that all of them have right, all wrong
    saturated: tuple[str, ...]
    hopeless: tuple[str, ...]
    #: median share of items that only one of two models has right
    discordant: float | None
    #: by split: smallest difference that the suite shows with power .8 at that share
    detectable: dict[str, float | None]
    #: the checkpoints of the pool that count as strong, best first
    strong: tuple[str, ...]
    #: worst first, at most `REVIEWED`; the candidates are mixtures of checkpoints, so those judge
    review: tuple[Review, ...]
    #: of the reference, and of the chosen, else the best, candidate (`trial N`); choice items only
    leanings: dict[str, Leaning]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def of_study(database: Database, study: Study, suite: Suite) -> list[SuiteAnswers]:
    """What was answered of one of its suites, by open split; [] before there are answers, and for
    texts, which have no right and wrong."""
    if suite.form == "text":
        return []
    found = []
    for split in get_args(OpenSplit):
        with database.transaction() as connection:
            answers = _read(connection, study, suite, split)
        if answers is not None:
            found.append(_said(study, suite, split, *answers))
    return found


#: trials that were told on the split, and their answers by trial id
_Answers = tuple[list[Trial], dict[int, Predictions]]


def _read(connection: Connection, study: Study, suite: Suite, split: OpenSplit) -> _Answers | None:
    told = [t for t in load_trials(connection, study.id, split) if t.objectives is not None]
    told = sorted(told, key=lambda t: (not _parent(t), t.rank or 0, t.number))[:MOST_CANDIDATES]
    every = predictions_of(connection, study, [t.id for t in told if not _parent(t)], split)
    # of the checkpoints also what they put on each option, and their texts
    every |= {t.id: load_predictions(connection, study, t.id, split) for t in told if _parent(t)}
    answers = {t: by[suite.name] for t, by in every.items() if suite.name in by}
    return ([t for t in told if t.id in answers], answers) if answers else None


def _parent(trial: Trial) -> bool:
    return trial.role in ("reference", "single")


def _said(
    study: Study,
    suite: Suite,
    split: OpenSplit,
    told: Sequence[Trial],
    answers: dict[int, Predictions],
) -> SuiteAnswers:
    items = suite.split(split)
    correct = _stacked([answers[t.id].correct for t in told])
    parents = [t for t in told if _parent(t)]
    mine = [answers[t.id] for t in parents]
    by_parents = _stacked([p.correct for p in mine])
    seen, share = signal(correct), discordance(correct)
    sizes = {str(each): len(suite.split(each)) for each in SPLITS}
    best = strong(by_parents) if len(parents) > 1 else np.array([], dtype=np.int64)
    listed = suspects(by_parents, _stacked([p.answer for p in mine]), _options(mine))
    return SuiteAnswers(
        suite=suite.name,
        split=split,
        n=len(items),
        models=len(told),
        saturated=tuple(items[i].id for i in seen.saturated),
        hopeless=tuple(items[i].id for i in seen.hopeless),
        discordant=share,
        detectable={
            name: None if share is None else detectable_difference(n, share)
            for name, n in sizes.items()
        },
        strong=tuple(parents[i].label for i in best),
        review=tuple(_review(items, mine, len(best), one) for one in listed[:REVIEWED]),
        leanings=_leanings(study, items, told, answers),
    )


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.stack([np.asarray(array) for array in arrays])


def _options(found: Sequence[Predictions]) -> np.ndarray | None:
    """float16 [M, N, K], or None where one of them was scored before they were kept."""
    known = [p.options for p in found if p.options is not None]
    return np.stack(known) if known and len(known) == len(found) else None


def _review(
    items: Sequence[Item], found: Sequence[Predictions], strong_ones: int, one: Suspect
) -> Review:
    item = items[one.item]
    said = next(p for p in found if p.answer is not None and int(p.answer[one.item]) == one.answer)
    if item.choices:
        answer = item.choices[one.answer]
    else:
        answer = said.texts[one.item] if said.texts else str(one.answer)
    return Review(
        item=item.id,
        prompt=item.context or item.prompt,
        gold=gold_of(item),
        answer=answer,
        agree=one.agree,
        of=strong_ones,
        sure=one.sure,
    )


def _leanings(
    study: Study, items: Sequence[Item], told: Sequence[Trial], answers: dict[int, Predictions]
) -> dict[str, Leaning]:
    if not all(item.choices for item in items):
        return {}
    gold = [item.gold for item in items]
    others = sorted((t for t in told if not _parent(t)), key=lambda t: (t.rank or 0, t.number))
    chosen = [t for t in others if t.id == study.chosen_trial_id] or others
    shown = [t for t in told if t.role == "reference"] + chosen[:1]
    found = {}
    for trial in shown:
        name = trial.label if trial.role == "reference" else f"trial {trial.number}"
        said = np.asarray(answers[trial.id].answer).astype(int).tolist()
        found[name] = leaning(said, gold)
    return found
