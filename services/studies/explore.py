"""What lies around a candidate: small random moves of its weights, evaluated as probes, and how
many of them are as good while they answer otherwise.

The search stops at one point of what may be a plain of near-equal models; which of them is deployed
decides answers that no score decides (multiplicity, 2402.07745).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optim.moves import length_of, small_moves
from optim.predictions import Predictions
from optim.recipe import Recipe
from services.access import User
from services.db import Database
from services.errors import BadInput
from services.studies import probes, read
from services.studies.coalitions import candidate_of
from services.studies.probes import Probe, Standing
from services.studies.propose import minimised
from services.studies.read import OpenSplit
from services.studies.record import Study, Trial, predictions_of
from services.studies.space import make_recipe, space_of

#: of the way from one checkpoint to another
STEP = 0.05
#: by how much an objective may be worse than the candidate's
EPSILON = 0.01
MOST_MOVES = 1000
#: a right answer is the same answer, however it is written
RIGHT = np.uint64(2**64 - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The moves around one candidate."""

    #: number of the trial, and its weights
    candidate: int
    weights: tuple[float, ...]
    split: OpenSplit
    step: float
    #: the candidate itself first
    merges: tuple[Probe, ...]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move that was evaluated."""

    trial: int
    weights: tuple[float, ...]
    #: of the way from one checkpoint to another
    length: float
    objectives: tuple[float, ...]
    feasible: bool
    #: the most by which an objective is worse than the candidate's; below 0: all are better
    worse: float
    #: no objective is worse by more than epsilon, and no constraint is missed that was kept
    near: bool
    #: share of answers that differ from the candidate's; None without right and wrong answers
    churn: float | None


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What is known so far. Churn is over the near moves and the candidate, all scored suites."""

    candidate: int
    split: OpenSplit
    step: float
    epsilon: float
    standing: Standing
    #: items with right and wrong answers
    n: int
    moves: tuple[Move, ...]
    near: int
    #: mean and largest over pairs; None with no near move
    mean_churn: float | None
    largest_churn: float | None
    #: share of items on which some near move disagrees with the candidate
    ambiguity: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def plan(
    database: Database,
    study: Study,
    candidate: int | None = None,
    *,
    moves: int = 20,
    step: float = STEP,
    split: OpenSplit = "validation",
    seed: int = 0,
) -> Plan:
    """Moves around one trial, the chosen one by default, inside the study's space; nothing is
    stored. Raises NotFound, or BadInput for a candidate that is no point of the space."""
    read.refuse_test(split)
    if not 1 <= moves <= MOST_MOVES:
        raise BadInput(f"{moves} moves", where="--moves", mend=f"Use 1 to {MOST_MOVES}")
    if not 0 < step <= 1:
        raise BadInput(f"{step}", where="--step", mend="Use a share of the way, above 0, at most 1")
    number = candidate_of(database, study, candidate)
    detail, space = read.trial_detail(database, study, number), space_of(study)
    recipe, point = Recipe.from_dict(detail["recipe_data"]), tuple(detail["weights"])
    search, pool = study.spec.search, study.pool
    inside = space.contains(point, tolerance=1e-6)
    if not inside or make_recipe(search, pool, point).digest != recipe.digest:
        raise BadInput(
            f"trial {number} is no point of the study's space, so it has no moves there",
            where=f"study {study.id}",
            mend="Choose a candidate of the searcher or a baseline",
        )
    found = small_moves(space, point, moves, step=step, seed=seed)
    itself = Probe(recipe=recipe, weights=point, label=f"trial {number} itself")
    return Plan(
        candidate=number,
        weights=point,
        split=split,
        step=step,
        merges=(
            itself,
            *(
                Probe(
                    recipe=make_recipe(search, pool, moved),
                    weights=moved,
                    label=f"move {index} of trial {number}",
                )
                for index, moved in enumerate(found, start=1)
            ),
        ),
    )


def submit(database: Database, study: Study, plan: Plan, *, by: User | None = None) -> Standing:
    """Ask for the moves that were not evaluated yet; how far all are. Raises BadInput before the
    study's choice, Forbidden for whoever may not steer the study."""
    probes.submit(database, study.id, plan.merges, plan.split, by=by)
    return probes.standing(database, study, plan.merges, plan.split)


def result(database: Database, study: Study, plan: Plan, *, epsilon: float = EPSILON) -> Explored:
    """What follows from the moves that were evaluated so far; nothing is asked for."""
    if epsilon < 0:
        raise BadInput(f"{epsilon}", where="--epsilon", mend="Use 0 or more")
    digests = [merge.recipe.digest for merge in plan.merges]
    with database.transaction() as connection:
        known = probes.look_up(connection, study, digests, plan.split)
        told = [known[d] for d in digests if d in known and known[d].told]
        stored = predictions_of(connection, study, [t.id for t in told], plan.split)
    said = np.stack([_said(study, stored[t.id]) for t in told]) if told else np.zeros((0, 0))
    complete = bool(told) and told[0].recipe_digest == digests[0]
    weights = {d: m.weights for d, m in zip(digests, plan.merges, strict=True)}
    moves = (
        [
            _move(study, plan, epsilon, told[0], t, weights[t.recipe_digest], said[0], row)
            for t, row in zip(told[1:], said[1:], strict=True)
        ]
        if complete
        else []
    )
    near = said[[0, *(i for i, m in enumerate(moves, start=1) if m.near)]] if complete else said[:0]
    pairs = [(a != b).mean() for i, a in enumerate(near) for b in near[:i]] if near.size else []
    return Explored(
        candidate=plan.candidate,
        split=plan.split,
        step=plan.step,
        epsilon=epsilon,
        standing=probes.standing(database, study, plan.merges, plan.split),
        n=said.shape[1],
        moves=tuple(moves),
        near=max(len(near) - 1, 0),
        mean_churn=float(np.mean(pairs)) if pairs else None,
        largest_churn=float(np.max(pairs)) if pairs else None,
        ambiguity=float((near[1:] != near[0]).any(axis=0).mean()) if pairs else None,
    )


def _move(
    study: Study,
    plan: Plan,
    epsilon: float,
    candidate: Trial,
    trial: Trial,
    weights: Sequence[float],
    before: np.ndarray,
    after: np.ndarray,
) -> Move:
    assert candidate.objectives is not None
    assert trial.objectives is not None
    old, new = minimised(study, candidate.objectives), minimised(study, trial.objectives)
    worse = max(b - a for a, b in zip(old, new, strict=True))
    feasible = (trial.violation or 0.0) <= 0
    allowed = feasible or (candidate.violation or 0.0) > 0
    return Move(
        trial=trial.number,
        weights=tuple(weights),
        length=length_of(space_of(study), plan.weights, weights),
        objectives=trial.objectives,
        feasible=feasible,
        worse=worse,
        # a difference of shares of items is off by rounding
        near=worse <= epsilon + 1e-12 and allowed,
        churn=float((before != after).mean()) if before.size else None,
    )


def _said(study: Study, answers: Mapping[str, Predictions]) -> np.ndarray:
    """uint64 [N]: equal where two models gave the same answer, as in `optim.compatibility`."""
    found = [np.zeros(0, dtype=np.uint64)]
    for suite in study.scored:
        one = answers[suite.name]
        assert one.correct is not None
        assert one.answer is not None
        found.append(np.where(one.correct, RIGHT, one.answer))
    return np.concatenate(found)
