"""Results of earlier studies that a study starts from, with `search.reuse`.

Which ones is written down when it is submitted; what they are worth to it, once its reference has
been evaluated. Nothing is evaluated again, and no split but search is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optim.space import Space
from services.db import Connection, row, rows
from services.studies.clusters import clusters_of
from services.studies.record import (
    Study,
    Trial,
    load_predictions,
    load_study,
    predictions_of,
)
from services.studies.space import cut, make_recipe, space_of
from services.studies.tell import measure, objective_values, violation

#: the newest results that a study starts from
MOST = 300
#: how many are looked at to find these: some are double, or no points of the space
MOST_LOOKED_AT = 3000


@dataclass(frozen=True, kw_only=True)
class EarlierResult:
    """One candidate of an earlier study, judged as this study would have judged it."""

    trial_id: int
    study: int
    slot: str
    #: a point of this study's space
    weights: tuple[float, ...]
    #: in the user's directions
    objectives: tuple[float, ...]
    violation: float


def choose(connection: Connection, study_id: int) -> None:
    """Write down which results a new study starts from, and say so among its events."""
    study = load_study(connection, study_id)
    if not study.spec.search.reuse:
        return
    space = space_of(study)
    seen: set[str] = set()
    studies: set[int] = set()
    for found in rows(connection, "earlier.fitting", study=study_id, most=MOST_LOOKED_AT):
        if len(seen) == MOST:
            break
        digest = found["recipe_digest"]
        if digest in seen or not _is_point(study, space, found["weights"], digest):
            continue
        rows(connection, "earlier.insert", study=study_id, position=len(seen), trial=found["id"])
        seen.add(digest)
        studies.add(found["study_id"])
    text = "found no results of earlier studies to start from"
    if seen:
        named = ("study " if len(studies) == 1 else "studies ") + ", ".join(
            map(str, sorted(studies))
        )
        text = f"starts from {len(seen)} results of {named}"
    rows(connection, "studies.event", study=study_id, text=text)


def _is_point(study: Study, space: Space, weights: Sequence[float], digest: str) -> bool:
    """Whether these weights lie in the space and mean, in this study, the recipe of that digest."""
    point = _point(space, weights)
    if not space.contains(point):
        return False
    return make_recipe(study.spec.search, study.pool, point).digest == digest


def _point(space: Space, weights: Sequence[float]) -> tuple[float, ...]:
    """Weights as this space writes them: those of whole models are the same in every group."""
    rows = cut(weights, space.n)
    return space.repeated(rows[0]) if len(set(rows)) == 1 else tuple(weights)


def tell(connection: Connection, study: Study, trials: Sequence[Trial]) -> None:
    """Judge what was chosen, once the reference is told; then there is nothing left to do."""
    reference = next((t for t in trials if t.role == "reference" and t.told), None)
    if reference is None or not study.spec.search.reuse:
        return
    untold = rows(connection, "earlier.untold", study=study.id)
    if not untold:
        return
    old = load_predictions(connection, study, reference.id, "search")
    wanted = [one["trial_id"] for one in untold]
    stored = predictions_of(connection, study, wanted, "search")
    clusters = clusters_of(connection, study, "search")
    for one in untold:
        measured = measure(study, old, stored[one["trial_id"]], clusters)
        row(
            connection,
            "earlier.tell",
            study=study.id,
            position=one["position"],
            objectives=list(objective_values(study, measured)),
            violation=violation(study, measured),
        )


def load(connection: Connection, study: Study) -> list[EarlierResult]:
    """The results that a study starts from, newest first; none before its reference is told."""
    if not study.spec.search.reuse:
        return []
    space = space_of(study)
    return [
        EarlierResult(
            trial_id=found["trial_id"],
            study=found["study"],
            slot=found["slot"],
            weights=_point(space, found["weights"]),
            objectives=tuple(found["objectives"]),
            violation=found["violation"],
        )
        for found in rows(connection, "earlier.told", study=study.id)
    ]
