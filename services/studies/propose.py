"""What to evaluate next in the search phase: the named baselines first, then the searcher.

A pure function of the study, its trials on the search split and the evidence of these; it never
sees another split. A study continued after a crash therefore makes the suggestions of one that
never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optim.descent import DESCENTS
from optim.recipe import Recipe
from optim.search import METHODS, Observation, Searcher, make_searcher, quality
from optim.search.base import State
from optim.search.baselines import greedy_next, greedy_order, single_weights, uniform
from services.studies.record import Study, Trial
from services.studies.space import space_of

if TYPE_CHECKING:
    from services.studies.earlier import EarlierResult
    from services.studies.evidence import Evidence

BASELINES = ("reference", "single", "uniform")
#: of trials that a searcher starts from
START_ROLES = (*BASELINES, "warm")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial to be: its role, its place in the search, and its weights, a point of the space."""

    role: str
    slot: str
    label: str
    weights: tuple[float, ...]
    #: where weights do not say all: those of a descent have some of their own for layers or columns
    recipe: Recipe | None = None


def baselines(study: Study) -> list[Candidate]:
    """The reference first (flips need it), then the other checkpoints, then the uniform soup."""
    names, space = study.pool.names, space_of(study)
    order = sorted(range(len(names)), key=lambda i: (names[i] != study.reference, i))
    found = [
        Candidate(
            role="reference" if names[i] == study.reference else "single",
            slot=f"single.{names[i]}",
            label=names[i],
            weights=space.repeated(single_weights(len(names), i)),
        )
        for i in order
    ]
    soup = space.repeated(uniform(len(names)))
    return [*found, Candidate(role="uniform", slot="uniform", label="uniform soup", weights=soup)]


def minimised(study: Study, objectives: Sequence[float]) -> tuple[float, ...]:
    """Objectives in the user's directions -> all to be minimised."""
    return tuple(s * value for s, value in zip(study.signs, objectives, strict=True))


def merit(study: Study, trial: Trial) -> float:
    """Mean of the objectives, each turned so that higher is better: the scalar of the choice."""
    assert trial.objectives is not None
    values = minimised(study, trial.objectives)
    return -sum(values) / len(values)


def next_candidates(
    study: Study, trials: Sequence[Trial], room: int, *, evidence: Evidence, left: int
) -> list[Candidate]:
    """Up to `room` candidates not asked before, at most `left` of them from the searcher."""
    by_slot = {trial.slot: trial for trial in trials}
    fixed = [c for c in baselines(study) if c.slot not in by_slot]
    if fixed:
        return fixed[:room]
    if not _baselines_closed(trials):
        return []
    found = _greedy(study, by_slot)[:room]
    wanted = min(room - len(found), left)
    # candidates of descents come when these end
    if wanted > 0 and study.spec.search.method not in DESCENTS:
        found += _searched(study, trials, evidence, wanted)
    return found


def greedy_steps_left(study: Study, trials: Sequence[Trial]) -> int:
    """How many more soups the greedy baseline may ask for, at most."""
    steps = [trial for trial in trials if trial.role == "greedy"]
    if _baselines_closed(trials) and all(trial.closed for trial in steps):
        by_slot = {trial.slot: trial for trial in trials}
        if all(c.slot in by_slot for c in baselines(study)) and not _greedy(study, by_slot):
            return 0
    return len(study.pool.members) - 1 - len(steps)


def _baselines_closed(trials: Sequence[Trial]) -> bool:
    return all(trial.closed for trial in trials if trial.role in BASELINES)


def _greedy(study: Study, by_slot: dict[str, Trial]) -> list[Candidate]:
    """The next step of the greedy soup, once the last one has been told."""
    singles = [by_slot[f"single.{name}"] for name in study.pool.names]
    order = greedy_order([quality(observation(study, trial)) for trial in singles])
    if singles[order[0]].objectives is None:
        return []
    # soups are of whole models: the row of one group says it all
    results = {
        trial.weights[: len(order)]: quality(observation(study, trial))
        for trial in by_slot.values()
        if trial.role not in ("warm", "search") and trial.closed
    }
    row = greedy_next(order, results)
    weights = () if row is None else space_of(study).repeated(row)
    steps = [trial for trial in by_slot.values() if trial.role == "greedy"]
    if not weights or any(trial.weights == weights for trial in steps):
        return []
    number = len(steps) + 1
    return [
        Candidate(
            role="greedy",
            slot=f"greedy.{number:02d}",
            label=f"greedy soup, step {number}",
            weights=weights,
        )
    ]


def searcher_of(study: Study, trials: Sequence[Trial], evidence: Evidence) -> Searcher:
    """The study's searcher. It knows the baselines and what earlier studies found and, where it
    can, starts from the baselines."""
    search = study.spec.search
    told = [t for t in trials if t.role in BASELINES and t.objectives is not None]
    options: dict[str, Any] = dict(search.options)
    if any(option.name == "start" for option in METHODS[search.method].options):
        begin = [t for t in trials if t.role in START_ROLES and t.objectives is not None]
        begin.sort(key=lambda t: (max(t.violation or 0.0, 0.0), -merit(study, t), t.number))
        options.setdefault("start", [list(t.weights) for t in begin])
    if any(option.name == "reference" for option in METHODS[search.method].options):
        index = study.pool.names.index(study.reference)
        options.setdefault("reference", single_weights(len(study.pool.names), index))
    return make_searcher(
        search.method,
        space=space_of(study),
        objectives=study.axes,
        seed=search.seed,
        options=options,
        question=evidence.question,
        known=[
            *(observation(study, t, evidence) for t in told),
            *(_earlier(study, one, evidence) for one in evidence.earlier),
        ],
    )


def _searched(
    study: Study, trials: Sequence[Trial], evidence: Evidence, count: int
) -> list[Candidate]:
    observations = [observation(study, t, evidence) for t in trials if t.role == "search"]
    return [
        Candidate(role="search", slot=s.slot, label=s.slot, weights=s.weights)
        for s in searcher_of(study, trials, evidence).ask(observations, count)
    ]


def _earlier(study: Study, one: EarlierResult, evidence: Evidence) -> Observation:
    signal, changed = evidence.answers.get(one.trial_id, (None, None))
    return Observation(
        slot=f"study{one.study}.{one.slot}",
        weights=one.weights,
        values=minimised(study, one.objectives),
        violation=one.violation,
        state="complete",
        signal=signal,
        changed=changed,
    )


def observation(study: Study, trial: Trial, evidence: Evidence | None = None) -> Observation:
    """A trial as searchers see it, with what it answered where the evidence has that."""
    answers = evidence.answers if evidence is not None else {}
    signal, changed = answers.get(trial.id, (None, None))
    if trial.state == "stopped" and trial.race is not None:
        return Observation(
            slot=trial.slot,
            weights=trial.weights,
            violation=trial.race["violation"],
            state="stopped",
            estimate=minimised(study, [o["estimate"] for o in trial.race["objectives"]]),
            signal=signal,
            changed=changed,
        )
    if trial.objectives is None:
        state: State = "failed" if trial.closed else "pending"
        return Observation(slot=trial.slot, weights=trial.weights, state=state)
    return Observation(
        slot=trial.slot,
        weights=trial.weights,
        values=minimised(study, trial.objectives),
        violation=trial.violation or 0.0,
        state="complete",
        signal=signal,
        changed=changed,
    )
