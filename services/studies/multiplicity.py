"""The near-best set of a study, and how differently its members answer.

Candidates about as good as the best could all have been chosen. What they answer differently is
decided by the choice, not by the pool: read from stored answers, on an open split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optim.multiplicity import near_best
from optim.selective import fewest_members
from services.db import Database
from services.errors import BadInput, NotFound
from services.studies import certainty
from services.studies.certainty import Optimism
from services.studies.clusters import clusters_of
from services.studies.figures import Figures, Table, figures_of, mean_churns, table_of
from services.studies.propose import BASELINES, merit, minimised
from services.studies.read import OpenSplit, refuse_test, suites_with_items
from services.studies.record import Study, Trial, load_trials, predictions_of
from services.studies.tell import ALL
from services.studies.unstable import UnstableItem, unstable_items

#: of a larger set the best are compared
MOST_MEMBERS = 400


@dataclass(frozen=True, kw_only=True)
class Multiplicity:
    """A study's near-best set on an open split."""

    study: int
    split: str
    #: the objective's label, or 'mean of the objectives'
    by: str
    epsilon: float
    #: feasible candidates that were looked at, each recipe once
    candidates: int
    best: int
    reference: int
    #: the study's choice, or the best where nothing is chosen yet
    chosen: int
    #: by number
    members: tuple[int, ...]
    #: mean churn of each member to the others, over all suites; () for one member
    mean_churn: tuple[float, ...]
    #: the member whose answers are most like the others'; None for one member
    typical: int | None
    #: members beyond the best 400, left out
    beyond: int
    alpha: float
    #: fewer members than this abstain always
    fewest_members: int
    optimism: Optimism | None
    figures: tuple[Figures, ...]
    #: items on which members disagree, least certain first, and how many there are
    unstable: tuple[UnstableItem, ...]
    unstable_count: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def multiplicity(
    database: Database,
    study: Study,
    *,
    epsilon: float | None = None,
    split: OpenSplit | None = None,
    most_items: int = 50,
) -> Multiplicity:
    """The near-best set, its figures for every scored suite and all together, unstable items.

    `epsilon`: the spec's, if None. `split`: validation once the study has chosen, else search.
    Raises BadInput for a study without scored suites or the test split, NotFound before a feasible
    candidate is told.
    """
    if not study.scored:
        raise BadInput(
            f"study {study.id} has text suites only, whose answers cannot differ",
            mend="Multiplicity needs a suite with right and wrong answers",
        )
    split = split or ("validation" if study.chosen_trial_id is not None else "search")
    refuse_test(split)
    judging = study.spec.judging
    epsilon = judging.epsilon if epsilon is None else epsilon
    with database.transaction() as connection:
        told = [t for t in load_trials(connection, study.id, split) if t.objectives is not None]
    reference = next((t for t in told if t.role == "reference"), None)
    feasible = _each_recipe_once([t for t in told if (t.violation or 0.0) <= 0])
    if reference is None or not feasible:
        raise NotFound(
            f"study {study.id} has no feasible candidate with results on the {split} split",
            mend="Wait for results, name another split, or loosen the constraints",
        )
    values = np.array([_value(study, t) for t in feasible])
    inside = near_best(values, epsilon)
    ordered = sorted(np.flatnonzero(inside), key=lambda i: (values[i], feasible[i].number))
    members = sorted((feasible[i] for i in ordered[:MOST_MEMBERS]), key=lambda t: t.number)
    best = feasible[ordered[0]]
    chosen = next((t for t in told if t.id == study.chosen_trial_id), best)
    tables = _tables(database, study, split, members, reference, chosen)
    about = (reference.number, chosen.number, tuple(t.number for t in members))
    figures = [figures_of([table], table.suite.name, about, judging.alpha) for table in tables]
    unstable = unstable_items(tables, split)
    churns = mean_churns(tables)
    return Multiplicity(
        study=study.id,
        split=split,
        by=judging.by or "mean of the objectives",
        epsilon=epsilon,
        candidates=len(feasible),
        best=best.number,
        reference=reference.number,
        chosen=chosen.number,
        members=about[2],
        mean_churn=tuple(churns),
        typical=about[2][churns.index(min(churns))] if churns else None,
        beyond=len(ordered) - len(members),
        alpha=judging.alpha,
        fewest_members=fewest_members(judging.alpha),
        optimism=certainty.optimism(database, study, split),
        figures=(*figures, figures_of(tables, ALL, about, judging.alpha)),
        unstable=tuple(unstable[:most_items]),
        unstable_count=len(unstable),
    )


def _value(study: Study, trial: Trial) -> float:
    """What is judged of a trial, smaller is better."""
    if study.spec.judging.by is None:
        return -merit(study, trial)
    labels = [axis.label for axis in study.spec.axes]
    return minimised(study, trial.objectives or ())[labels.index(study.spec.judging.by)]


def _each_recipe_once(trials: Sequence[Trial]) -> list[Trial]:
    """The same weights twice are one model; a baseline's name is kept."""
    found: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda t: (t.role not in BASELINES, t.number)):
        found.setdefault(trial.recipe_digest, trial)
    return list(found.values())


def _tables(
    database: Database,
    study: Study,
    split: OpenSplit,
    members: Sequence[Trial],
    reference: Trial,
    chosen: Trial,
) -> list[Table]:
    rows = [*members, reference, chosen]
    wanted = sorted({t.id for t in rows})
    with database.transaction() as connection:
        stored = predictions_of(connection, study, wanted, split, options=True, texts=True)
        clusters = clusters_of(connection, study, split)
    suites = [s for s in suites_with_items(database, study) if s.form != "text"]
    return [
        table_of(suite, split, [stored[t.id] for t in rows], clusters[suite.name])
        for suite in suites
    ]  # fmt: skip
