"""What is wrong with a study, or with what was asked of it: findings, each with its mend.

Reads what is stored on the open splits; computes nothing that changes the study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from optim.search import METHODS
from optim.suite_answers import detectable_difference, discordance
from services import leakage, noise, suite_health
from services.db import Database
from services.findings import Finding
from services.studies import certainty, read
from services.studies.columns import ROLES, Columns, read_columns
from services.studies.evidence import gather
from services.studies.propose import BASELINES, observation, searcher_of
from services.studies.read import CandidateView, OpenSplit
from services.studies.record import Study, load_trials, predictions_of
from services.studies.space import cut
from services.studies.tell import ALL, Value, constrained, missed_by
from services.studies.views import merits_of

#: fewer searched candidates than this say nothing yet
ENOUGH = 10
#: a weight this near to a bound stands at it
AT_BOUND = 1e-3
#: a suite with scores above this has little left to tell candidates apart by
SATURATED = 0.98
#: twins of fewer items than this share of a split change no decision
TWINS = 0.02
#: times as many items as a study has, beyond which nobody would add them
MOST_ITEMS = 50
#: trials that say how often two models differ, at most
MOST_COMPARED = 100


def findings(database: Database, study: Study) -> list[Finding]:
    """Everything that is wrong, the most important first; [] before there is enough to judge by."""
    split: OpenSplit = "search"
    if study.phase not in ("search", "validation"):
        split = "validation"
    found = _told(database, study, split)
    searched = found if split == "search" else _told(database, study, "search")
    if (searched.role == "search").sum() < min(ENOUGH, study.spec.budget.trials):
        return []
    if not searched.feasible.any():
        return [*_constraints(study, searched), *_suites(study, searched)]
    return [
        *_gain(database, study, split, found),
        *_edge(study, found),
        *_suites(study, searched),
        *_twins(database, study),
        *leakage.findings(database, study),
        *_too_small(database, study, split, asked_epsilon(study)),
        *_searcher(database, study),
    ]


def _told(database: Database, study: Study, split: OpenSplit) -> Columns:
    found = read_columns(database, study, split)
    return found.take(found.told)


def _best(study: Study, found: Columns, roles: Sequence[str]) -> CandidateView | None:
    """The feasible one of highest merit among those of some roles."""
    some = found.take(found.feasible & np.isin(found.role, roles))
    return some.view(int(np.argmax(merits_of(study, some)))) if len(some) else None


def _gain(database: Database, study: Study, split: OpenSplit, found: Columns) -> Iterator[Finding]:
    """No better than a baseline, or better by less than chance would do."""
    base = _best(study, found, BASELINES)
    best = _best(study, found, [role for role in ROLES if role not in BASELINES])
    if base is None or best is None:
        return
    value, low, high = certainty.gain(database, study, split, best.trial, base.trial)
    against = f"the best baseline, {base.trial.label}"
    if value <= 0:
        yield Finding(
            kind="no-gain",
            what=f"No candidate beats {against}, in the mean of the objectives on {split}",
            mend="Search longer, widen the space (affine, groups), or add other checkpoints",
        )
    elif low <= 0:
        yield Finding(
            kind="within-noise",
            what=f"Trial {best.trial.number} beats {against}, by {value:.4f} in the mean of the "
            f"objectives, which may be chance (95 % {low:.4f} to {high:.4f} on {split})",
            mend=_items_needed(value, low),
        )
    yield from _floor(database, study, split, best)


def _items_needed(value: float, low: float) -> str:
    """Intervals shrink with the root of the items: how many times as many would settle it."""
    times = max(2, math.ceil(((value - low) / value) ** 2))
    if times > MOST_ITEMS:
        return f"Take it as no gain: even {MOST_ITEMS} times as many items would not tell"
    return f"Add items to the suites: about {times} times as many would tell such a gain from none"


def _floor(
    database: Database, study: Study, split: OpenSplit, best: CandidateView
) -> Iterator[Finding]:
    """No more changed answers than the reference has against itself."""
    churn = best.metrics.get(ALL, {}).get("churn")
    floors = [f for f in noise.of_study(database, study, split) if f.changed is not None]
    if churn is None or churn.value is None or not floors:
        return
    worst = max(
        (noise.total([f for f in floors if f.variant == variant]) for variant in
         {f.variant for f in floors}),
        key=lambda t: t[1] / t[0],
    )  # fmt: skip
    if churn.value <= worst[1] / worst[0]:
        yield Finding(
            kind="within-noise",
            what=f"Trial {best.trial.number} changes {100 * churn.value:.1f} % of the answers, no "
            f"more than the reference computed in another way ({100 * worst[1] / worst[0]:.1f} %)",
            mend="Compute in float32 (docs/studies.md, noise floor), or leave such suites out",
        )


def _edge(study: Study, found: Columns) -> Iterator[Finding]:
    """The best candidate found stands at a bound other than 0, which only says: not used."""
    best = _best(study, found, ["search"])
    search = study.spec.search
    if best is None or search.space == "simplex":
        return
    base = study.pool.names.index(search.base or study.reference)
    rows = np.array(cut(best.trial.weights, len(study.pool.members)))
    at = {bound: (np.abs(rows - bound) <= AT_BOUND) for bound in search.box if bound != 0}
    edge = np.any(list(at.values()), axis=0) if at else np.zeros(rows.shape, bool)
    if search.space == "task":  # what the base weighs is the others' doing
        edge[:, base] = False
    names = [study.pool.names[i] for i in np.flatnonzero(edge.any(axis=0))]
    if names:
        low, high = search.box
        yield Finding(
            kind="at-the-edge",
            what=f"The best candidate found, trial {best.trial.number}, stands at the edge of the "
            f"space ({low:g} to {high:g}) with {', '.join(names)}",
            mend="Widen search.bounds: there may be better ones beyond",
        )


def _constraints(study: Study, found: Columns) -> Iterator[Finding]:
    """Nothing is feasible: which constraints are never kept, and how near the nearest came."""
    never = False
    for constraint in study.spec.constraints:
        nearest = {
            suite: min(missed_by(constraint, v) for v in _values(found, suite, constraint.measure))
            for suite in constrained(study, constraint)
        }
        suite = max(nearest, key=lambda name: nearest[name])
        if nearest[suite] <= 0:
            continue
        never = True
        name = f"{constraint.metric} of {suite}" if suite else constraint.metric
        yield Finding(
            kind="constraint",
            what=f"No candidate meets the constraint on {name} ({constraint.words}); the nearest "
            f"misses it by {nearest[suite]:.4f}",
            mend="Loosen it, lower its confidence, or add items (where they have clusters, of "
            "others)",
        )
    if not never:
        yield Finding(
            kind="constraint",
            what="Every constraint is met by some candidate, but by none all of them",
            mend="Loosen one, or search longer: searchers go on towards the least violation",
        )


def _values(found: Columns, suite: str, name: str) -> list[Value]:
    """A metric of everybody who has it; None where it is undefined."""
    one = found.metrics.get((suite, name))
    if one is None:
        return []
    some = np.flatnonzero(one.n)
    columns = [
        [None if np.isnan(x) else float(x) for x in array[some]]
        for array in (one.value, one.low, one.high)
    ]
    return [Value(*row) for row in zip(*columns, one.n[some].tolist(), strict=True)]


def _suites(study: Study, found: Columns) -> Iterator[Finding]:
    """Suites that tell candidates apart no more."""
    for suite in study.scored:
        scores = found.values(suite.name, "score")
        known = scores[~np.isnan(scores)]
        if not len(known):
            continue
        if known.min() > SATURATED:
            yield Finding(
                kind="saturated",
                what=f"Every candidate has more than {100 * SATURATED:.0f} % of {suite.name} right",
                mend="Take harder items, or leave the suite to a constraint",
            )
        elif (known.max() - known.min()) * suite.search_items < 1.5:
            yield Finding(
                kind="saturated",
                what=f"All candidates answer {suite.name} alike, but for one item at most",
                mend="Leave the suite out: it costs evaluations and decides nothing",
            )


def _twins(database: Database, study: Study) -> Iterator[Finding]:
    """Suites whose finalists are judged by what was searched on."""
    for health in suites_health(database, study):
        for split in ("validation", "test"):
            share = health.share_of_twins(split)
            if share >= TWINS:
                yield Finding(
                    kind="twins",
                    what=f"{100 * share:.0f} % of the {split} items of {health.suite} have a twin "
                    "in search",
                    mend=f"Remove one of each pair: remelt suite health {health.suite} lists them",
                )


def suites_health(database: Database, study: Study) -> list[suite_health.SuiteHealth]:
    """What the items of each of the study's suites say."""
    found = [suite_health.known(suite.name, suite.digest) for suite in study.suites]
    if all(found):
        return [one for one in found if one is not None]
    return [suite_health.of_items(suite) for suite in read.suites_with_items(database, study)]


def asked_epsilon(study: Study) -> float | None:
    """The difference that the spec says matters; None where it leaves that to the default."""
    judging = getattr(study.spec, "judging", None)
    if judging is None or "epsilon" not in type(judging).model_fields:
        return None
    default = type(judging).model_fields["epsilon"].default
    return None if judging.epsilon == default else float(judging.epsilon)


def _too_small(
    database: Database, study: Study, split: OpenSplit, epsilon: float | None
) -> Iterator[Finding]:
    """Suites that cannot show a difference which matters, as their models differ."""
    if epsilon is None or not study.scored:
        return
    with database.transaction() as connection:
        told = [t.id for t in load_trials(connection, study.id, split) if t.told]
        answers = predictions_of(connection, study, told[-MOST_COMPARED:], split)
    unseen = []
    for suite in study.scored:
        rows = [by[suite.name].correct for by in answers.values() if suite.name in by]
        share = discordance(np.stack([row for row in rows if row is not None])) if rows else None
        if share is None or share == 0:
            continue
        # models that differ by so much are told apart by as many items at least
        least = detectable_difference(suite.validation_items, max(share, epsilon))
        if least is None or least > epsilon:
            shown = "none does" if least is None else f"from {least:.3f} on"
            unseen.append(f"{suite.name} ({shown})")
    if unseen:
        yield Finding(
            kind="too-small",
            what=f"A difference of {epsilon:g} does not show on {', '.join(unseen)}: validation "
            "items are too few (power 80 %)",
            mend="Add items to these suites, or set a larger judging.epsilon",
        )


def _searcher(database: Database, study: Study) -> Iterator[Finding]:
    """What the method itself says: a model that does not predict, or how well it does."""
    if study.spec.search.method not in METHODS:
        return
    with database.transaction() as connection:
        trials = load_trials(connection, study.id, "search")
        evidence = gather(connection, study, trials)
    searcher = searcher_of(study, trials, evidence)
    seen = [observation(study, t, evidence) for t in trials if t.role == "search"]
    for remark in searcher.remarks(seen):
        kind, mend = ("searcher", "See docs/searchers.md") if remark.wrong else ("about", "")
        yield Finding(kind=kind, what=remark.what, mend=mend)
