"""What to evaluate next in the search phase: the named baselines first, then the searcher.

A pure function of the study and its trials on the search split; it never sees another split. A
study continued after a crash therefore makes the suggestions of one that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optim.descent import DESCENTS
from optim.recipe import Recipe
from optim.search import METHODS, Observation, Searcher, make_searcher, quality
from optim.search.baselines import greedy_next, greedy_order, single_weights, uniform
from optim.space import Space
from services.studies.record import Study, Trial

BASELINES = ("reference", "single", "uniform")
#: of trials that a searcher starts from
START_ROLES = (*BASELINES, "warm")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial to be: its role, its place in the search, and its weights over the pool."""

    role: str
    slot: str
    label: str
    weights: tuple[float, ...]
    #: where weights do not say all: those of a descent have some of their own for layers or columns
    recipe: Recipe | None = None


def baselines(study: Study) -> list[Candidate]:
    """The reference first (flips need it), then the other checkpoints, then the uniform soup."""
    names = study.pool.names
    order = sorted(range(len(names)), key=lambda i: (names[i] != study.reference, i))
    found = [
        Candidate(
            role="reference" if names[i] == study.reference else "single",
            slot=f"single.{names[i]}",
            label=names[i],
            weights=single_weights(len(names), i),
        )
        for i in order
    ]
    soup = Candidate(
        role="uniform", slot="uniform", label="uniform soup", weights=uniform(len(names))
    )
    return [*found, soup]


def minimised(study: Study, objectives: Sequence[float]) -> tuple[float, ...]:
    """Objectives in the user's directions -> all to be minimised."""
    return tuple(s * value for s, value in zip(study.signs, objectives, strict=True))


def merit(study: Study, trial: Trial) -> float:
    """Mean of the objectives, each turned so that higher is better: the scalar of the choice."""
    assert trial.objectives is not None
    values = minimised(study, trial.objectives)
    return -sum(values) / len(values)


def next_candidates(
    study: Study, trials: Sequence[Trial], room: int, *, closing: bool = False
) -> list[Candidate]:
    """Up to `room` candidates not asked before; `closing` asks the searcher for no more."""
    by_slot = {trial.slot: trial for trial in trials}
    fixed = [c for c in baselines(study) if c.slot not in by_slot]
    if fixed:
        return fixed[:room]
    if not all(trial.closed for trial in trials if trial.role in BASELINES):
        return []
    found = _greedy(study, by_slot)[:room]
    asked = sum(trial.role == "search" for trial in trials)
    left = min(room - len(found), study.spec.budget.trials - asked)
    # candidates of descents come when these end
    if left > 0 and not closing and study.spec.search.method not in DESCENTS:
        found += _searched(study, trials, left)
    return found


def search_is_over(study: Study, trials: Sequence[Trial], *, out_of_time: bool) -> bool:
    """Everything asked is closed and nothing more would be asked."""
    if not all(trial.closed for trial in trials):
        return False
    return not next_candidates(study, trials, 1, closing=out_of_time)


def _greedy(study: Study, by_slot: dict[str, Trial]) -> list[Candidate]:
    """The next step of the greedy soup, once the last one has been told."""
    singles = [by_slot[f"single.{name}"] for name in study.pool.names]
    order = greedy_order([quality(_observation(study, trial)) for trial in singles])
    if singles[order[0]].objectives is None:
        return []
    results = {
        trial.weights: quality(_observation(study, trial))
        for trial in by_slot.values()
        if trial.role not in ("warm", "search") and trial.closed
    }
    weights = greedy_next(order, results)
    steps = [trial for trial in by_slot.values() if trial.role == "greedy"]
    if weights is None or any(trial.weights == weights for trial in steps):
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


def searcher_of(study: Study, trials: Sequence[Trial]) -> Searcher:
    """The study's searcher; where it can, it starts from the baselines, best first."""
    search = study.spec.search
    lower, upper = search.box
    options: dict[str, Any] = dict(search.options)
    if any(option.name == "start" for option in METHODS[search.method].options):
        told = [t for t in trials if t.role in START_ROLES and t.objectives is not None]
        told.sort(key=lambda t: (max(t.violation or 0.0, 0.0), -merit(study, t), t.number))
        options.setdefault("start", [list(t.weights) for t in told])
    return make_searcher(
        search.method,
        space=Space(len(study.pool.members), lower, upper),
        objectives=study.axes,
        seed=search.seed,
        options=options,
    )


def _searched(study: Study, trials: Sequence[Trial], count: int) -> list[Candidate]:
    observations = [_observation(study, trial) for trial in trials if trial.role == "search"]
    return [
        Candidate(role="search", slot=s.slot, label=s.slot, weights=s.weights)
        for s in searcher_of(study, trials).ask(observations, count)
    ]


def _observation(study: Study, trial: Trial) -> Observation:
    if trial.objectives is not None:
        return Observation(
            slot=trial.slot,
            weights=trial.weights,
            values=minimised(study, trial.objectives),
            violation=trial.violation or 0.0,
            state="complete",
        )
    return Observation(
        slot=trial.slot,
        weights=trial.weights,
        values=None,
        violation=0.0,
        state="failed" if trial.closed else "pending",
    )
