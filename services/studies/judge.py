"""Comparing any two candidates, of one study or of two with suites in common, from stored answers.

Nothing is evaluated, and the test split is never read. `old` is what would be replaced, `new` what
would replace it: flips, churn, agreement, and what became of generated answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optim import intervals
from optim.agreement import Agreement, capa, error_consistency
from optim.compatibility import Compatibility
from optim.predictions import Predictions
from optim.rate_intervals import ClusterCounts, cluster_counts, joined
from services import noise
from services.db import Database
from services.errors import BadInput, NotFound
from services.spec import Judging
from services.studies.clusters import clusters_of
from services.studies.gains import TextGains, text_gains
from services.studies.read import OpenSplit, refuse_test, suites_with_items
from services.studies.record import Study, Trial, load_predictions, load_trials
from services.studies.tell import ALL, Value, compared, macro
from services.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two candidates."""

    study: int
    trial: int
    role: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Old and new on one suite, or on all of them together (`suite` '')."""

    suite: str
    #: items
    n: int
    #: groups of items that share a context; None where items are independent
    clusters: int | None
    #: the suite's score, or the macro average of all
    old: Value
    new: Value
    difference: Value
    #: every rate of `optim.compatibility`; {} for a text suite
    rates: dict[str, Value]
    #: the counts that they are made of; None for a text suite
    counts: dict[str, int] | None
    #: exact McNemar p-value of the flips; of clusters by the sign of their net flips
    mcnemar: float | None
    #: the reference against itself: how, n, changed, negative
    noise: list[dict[str, Any]]
    #: None for all suites together: what chance would give is a matter of each suite
    capa: Agreement | None
    error_consistency: Agreement | None
    #: None without generated answers
    texts: TextGains | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`new` against `old` on an open split."""

    old: Side
    new: Side
    split: str
    #: suites that only one of the two studies has
    left_out: tuple[str, ...]
    #: suite after suite, then all together
    judgements: tuple[Judgement, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare(
    database: Database,
    study: Study,
    old: int,
    new: int,
    *,
    other: Study | None = None,
    split: OpenSplit | None = None,
) -> Comparison:
    """Trial `new` (of `other`, if it is given) against trial `old` of `study`.

    On validation where both were scored there, else on search. Suites are the same where their
    digests are, whatever they are called; they bear the names that `study` gives them. Raises
    NotFound for a trial without results on the split, BadInput for studies without a suite in
    common, or for the test split.
    """
    theirs = other or study
    suites = [s for s in suites_with_items(database, study) if s.digest in _digests(theirs)]
    if not suites:
        raise BadInput(
            f"studies {study.id} and {theirs.id} have no suite in common",
            mend="Compare studies on the same suites (same digests: remelt suite list)",
        )
    split = split or _best_split(database, (study, old), (theirs, new))
    before, old_trial = _answers(database, study, old, split)
    after, new_trial = _answers(database, theirs, new, split)
    with database.transaction() as connection:
        clusters = clusters_of(connection, study, split)
    floors = noise.of_study(database, study, split)
    found = [
        _judge(
            suite, split, study.spec.judging, before[suite.digest], after[suite.digest],
            clusters[suite.name], [f for f in floors if f.suite == suite.name],
        )
        for suite in suites
    ]  # fmt: skip
    scored = [suite for suite in suites if suite.form != "text"]
    if scored:
        found.append(_together(scored, found, before, after, clusters, study, floors, split))
    both = {*(s.digest for s in suites)}
    alone = [s.name for one in (study, theirs) for s in one.suites if s.digest not in both]
    return Comparison(
        old=Side(study=study.id, trial=old, role=old_trial.role, label=old_trial.label),
        new=Side(study=theirs.id, trial=new, role=new_trial.role, label=new_trial.label),
        split=split,
        left_out=tuple(dict.fromkeys(alone)),
        judgements=tuple(found),
    )


def _digests(study: Study) -> set[str]:
    return {suite.digest for suite in study.suites}


def _best_split(database: Database, *sides: tuple[Study, int]) -> OpenSplit:
    """Validation where all were scored there: the search split flatters what it chose."""
    with database.transaction() as connection:
        for study, number in sides:
            trials = load_trials(connection, study.id, "validation")
            if not any(t.number == number and t.objectives is not None for t in trials):
                return "search"
    return "validation"


def _answers(
    database: Database, study: Study, number: int, split: OpenSplit
) -> tuple[dict[str, Predictions], Trial]:
    """A trial and what it answered, by suite digest."""
    refuse_test(split)
    with database.transaction() as connection:
        trials = load_trials(connection, study.id, split)
        trial = next((t for t in trials if t.number == number), None)
        if trial is None or trial.objectives is None:
            state = "has no" if trial is None else f"has only a {trial.state}"
            raise NotFound(
                f"study {study.id} {state} trial {number} on the {split} split",
                mend=f"Trials with results: remelt study show {study.id} --json",
            )
        found = load_predictions(connection, study, trial.id, split)
    return {suite.digest: found[suite.name] for suite in study.suites}, trial


def _judge(
    suite: Suite,
    split: OpenSplit,
    judging: Judging,
    old: Predictions,
    new: Predictions,
    clusters: np.ndarray | None,
    floors: Sequence[noise.NoiseFloor],
) -> Judgement:
    values = {}
    for name, one in (("old", old), ("new", new)):
        low, high = intervals.score_interval(one, clusters=clusters)
        values[name] = Value(one.score(), low, high, len(one))
    low, high = intervals.difference_interval(old, new, clusters=clusters)
    common: dict[str, Any] = {
        "suite": suite.name,
        "n": len(old),
        "clusters": None if clusters is None else int(clusters.max()) + 1,
        **values,
        "difference": Value(new.score() - old.score(), low, high, len(old)),
        "noise": _floors(floors),
        "capa": _capa(suite, split, old, new, clusters),
    }
    if suite.form == "text":
        return Judgement(
            **common, rates={}, counts=None, mcnemar=None, error_consistency=None, texts=None
        )
    assert old.correct is not None
    assert new.correct is not None
    counts = cluster_counts(old, new, clusters)
    return Judgement(
        **common,
        rates=compared([(old, new, clusters)]),
        counts=_counts(counts.total()),
        mcnemar=mcnemar_of(counts),
        error_consistency=error_consistency(old.correct, new.correct, clusters=clusters),
        texts=text_gains([(suite, old, new, clusters)], split, judging),
    )


def _together(
    suites: Sequence[Suite],
    found: Sequence[Judgement],
    before: Mapping[str, Predictions],
    after: Mapping[str, Predictions],
    clusters: Mapping[str, np.ndarray | None],
    study: Study,
    floors: Sequence[noise.NoiseFloor],
    split: OpenSplit,
) -> Judgement:
    """All suites with right and wrong answers: macro averages, and rates of all items pooled."""
    parts = [(before[s.digest], after[s.digest], clusters[s.name]) for s in suites]
    counts = joined([cluster_counts(*part) for part in parts])
    labels = [part[2] for part in parts]
    names = {suite.name for suite in suites}
    return Judgement(
        suite=ALL,
        n=int(counts.n.sum()),
        clusters=None if all(one is None for one in labels) else len(counts.n),
        old=macro([old for old, _, _ in parts], labels),
        new=macro([new for _, new, _ in parts], labels),
        difference=_mean_difference([j.difference for j in found if j.suite in names]),
        rates=compared(parts),
        counts=_counts(counts.total()),
        mcnemar=mcnemar_of(counts),
        noise=_floors([floor for floor in floors if floor.suite in names]),
        capa=None,
        error_consistency=None,
        texts=text_gains(
            [(s, *part) for s, part in zip(suites, parts, strict=True)], split, study.spec.judging
        ),
    )


def _mean_difference(parts: Sequence[Value]) -> Value:
    """The mean of several suites' differences; their distances to the bounds add in squares, as
    suites have no items in common (Zou & Donner 2008)."""
    ends = np.array([(p.value, p.low, p.high) for p in parts], dtype=np.float64)
    value, low, high = (None if np.isnan(x) else float(x) for x in intervals.mover(*ends.T))
    return Value(value, low, high, sum(p.n for p in parts))


def _counts(counts: Compatibility) -> dict[str, int]:
    return asdict(counts)


def mcnemar_of(counts: ClusterCounts) -> float:
    """Exact p-value of flips: of items, or, where clusters hold several, of clusters by the sign of
    their net flips."""
    net = counts.positive - counts.negative
    return intervals.mcnemar(int((net < 0).sum()), int((net > 0).sum()))


def _floors(floors: Sequence[noise.NoiseFloor]) -> list[dict[str, Any]]:
    """The floors of some suites, summed by what was done otherwise."""
    scored = [floor for floor in floors if floor.changed is not None]
    found = []
    for how in dict.fromkeys(floor.how for floor in scored):
        n, changed, negative = noise.total([floor for floor in scored if floor.how == how])
        low, high = intervals.wilson(changed, n)
        share = Value(changed / n if n else None, low, high, n)
        found.append(
            {"how": how, "n": n, "changed": changed, "negative": negative, "churn": asdict(share)}
        )
    return found


def _capa(
    suite: Suite,
    split: OpenSplit,
    old: Predictions,
    new: Predictions,
    clusters: np.ndarray | None,
) -> Agreement | None:
    """None where options were not stored, or an lm-eval task decides what is right."""
    gold = gold_of(suite, split)
    if gold is None or old.options is None or new.options is None:
        return None
    return capa(old.options, new.options, gold, clusters=clusters)


def gold_of(suite: Suite, split: OpenSplit) -> np.ndarray | None:
    """int64 [N]: index of the gold option; None where items have none, or not just one."""
    items = suite.split(split)
    if suite.form != "choice" or any(item.asked is not None for item in items):
        return None
    return np.array([item.gold for item in items], dtype=np.int64)
