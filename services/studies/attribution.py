"""What each parent of a candidate is worth to it, from evaluated merges of some of its parents.

The merges (`services.studies.coalitions`) are probes of the study on an open split; whatever it has
evaluated there is not evaluated again. Reading computes from stored predictions, at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optim import attribution as game
from optim.attribution import Design, Part
from optim.predictions import Predictions
from services.access import User
from services.db import Database
from services.errors import BadInput
from services.spec import Objective
from services.studies import probes
from services.studies.claims import Items
from services.studies.clusters import clusters_of
from services.studies.coalitions import Plan
from services.studies.probes import Standing
from services.studies.record import Study, load_trials, predictions_of

#: what one model answered, by suite name
Answers = Mapping[str, Predictions]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its 95 % interval; None while a merge is missing, or one bound is unknown."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class AxisFigures:
    """One objective, in its own unit and direction: how much each parent adds to it."""

    name: str
    direction: str
    #: of the candidate, and of no parent at all; None while it is not evaluated
    all: float | None
    empty: float | None
    #: by player
    leave_one_out: tuple[Figure, ...]
    shapley: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """What is known so far."""

    plan: Plan
    standing: Standing
    #: items of the split, all suites together
    n: int
    axes: tuple[AxisFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plan, design = self.plan, self.plan.design
        return {
            "candidate": plan.candidate,
            "split": plan.split,
            "n": self.n,
            "merges": asdict(self.standing),
            "permutations": design.permutations,
            "absent": "renormalised" if plan.base is None else plan.base,
            "empty": plan.empty,
            "objectives": [
                {
                    "name": axis.name,
                    "direction": axis.direction,
                    "all": axis.all,
                    "empty": axis.empty,
                    "parents": [
                        {
                            "name": player.name,
                            "weight": player.weight,
                            "leave_one_out": asdict(without),
                            "shapley": asdict(shapley),
                        }
                        for player, without, shapley in zip(
                            plan.players, axis.leave_one_out, axis.shapley, strict=True
                        )
                    ],
                }
                for axis in self.axes
            ],
        }


def submit(database: Database, study: Study, plan: Plan, *, by: User | None = None) -> Standing:
    """Ask for the merges that were not evaluated yet; how far all are. Raises BadInput before the
    study's choice, Forbidden for whoever may not steer the study."""
    probes.submit(database, study.id, plan.merges, plan.split, by=by)
    return probes.standing(database, study, plan.merges, plan.split)


def result(database: Database, study: Study, plan: Plan) -> Attribution:
    """What follows from the merges that were evaluated so far; nothing is asked for."""
    digests = [merge.recipe.digest for merge in plan.merges]
    with database.transaction() as connection:
        known = probes.look_up(connection, study, list(set(digests)), plan.split)
        trials = load_trials(connection, study.id, plan.split)
        reference = next((t for t in trials if t.role == "reference" and t.told), None)
        told = {digest: t.id for digest, t in known.items() if t.told}
        wanted = {*told.values(), *([reference.id] if reference else ())}
        stored = predictions_of(connection, study, sorted(wanted), plan.split)
        clusters = clusters_of(connection, study, plan.split)
    if reference is None:
        raise BadInput(
            f"study {study.id} has no results of its reference on {plan.split}",
            mend="Choose the other open split",
        )
    answers = [stored[told[d]] if d in told else None for d in digests]
    items = Items.of(study, stored[reference.id])
    return Attribution(
        plan=plan,
        standing=probes.standing(database, study, plan.merges, plan.split),
        n=sum(len(p) for p in stored[reference.id].values()),
        axes=tuple(
            _figures(study, i, plan.design, _parts(study, axis, items, answers, clusters))
            for i, axis in enumerate(study.spec.axes)
        ),
    )


def _parts(
    study: Study,
    axis: Objective,
    items: Items,
    answers: Sequence[Answers | None],
    clusters: Mapping[str, np.ndarray | None],
) -> list[Part]:
    """The values of every coalition in terms of single items."""
    if axis.suite is not None and study.form(axis.suite) == "text":
        one = next(a[axis.suite] for a in answers if a is not None) if any(answers) else None
        if one is None:
            return [Part(values=np.full((len(answers), 1), np.nan))]
        lost = np.full(len(one), np.nan)
        nll = np.stack([lost if a is None else _filled(a[axis.suite].nll) for a in answers])
        sizes, of_text = _filled(one.tokens), clusters.get(axis.suite)
        return [Part(values=nll.astype(np.float64), sizes=sizes, clusters=of_text)]
    weights = items.weights(axis.metric, axis.suite)
    gap = np.full(len(items), np.nan)
    table = np.stack([gap if a is None else items.values(axis.metric, a) for a in answers])
    return [
        Part(values=table[:, part], weight=float(weights[part].sum()), clusters=clusters.get(name))
        for name, part in items.parts.items()
        if weights[part].any()
    ]


def _filled(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _figures(study: Study, index: int, design: Design, parts: Sequence[Part]) -> AxisFigures:
    without, shapley = game.attribute(design, parts)
    values = game.values_of(parts)
    return AxisFigures(
        name=study.spec.axes[index].label,
        direction=study.direction(index),
        all=_known(values[-1]),
        empty=_known(values[0]),
        leave_one_out=_each(without),
        shapley=_each(shapley),
    )


def _each(figures: game.Figures) -> tuple[Figure, ...]:
    return tuple(
        Figure(value=_known(v), low=_known(low), high=_known(high))
        for v, low, high in zip(figures.estimate, figures.low, figures.high, strict=True)
    )


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
