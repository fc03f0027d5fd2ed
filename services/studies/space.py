"""Which weights a study may try: its space, its groups of tensors, and the recipe of a point in it.

A point is a flat vector, one row of weights after another, one row for each group. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from optim.recipe import Group, Recipe, Row, group_label
from optim.space import Space
from services.errors import SpecRefused
from services.registry import Pool
from services.spec import Groups, Search
from services.studies.record import Study

#: kinds of modules that get weights of their own with `kinds`
KINDS = ("attention", "mlp")
#: the last row: tensors that are in no other group
REST = "the rest"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One group of tensors with weights of its own, as in `optim.recipe.Group`."""

    layers: tuple[int, int] | None = None
    kinds: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """For people."""
        return group_label(self.layers, self.kinds)


def parts_of(groups: Groups, pool: Pool) -> tuple[Part, ...]:
    """The groups before the rest. Raises SpecRefused for more stretches than there are layers."""
    stretches: list[tuple[int, int] | None] = [None]
    if groups.layers is not None:
        if pool.layers is None or groups.layers > pool.layers:
            known = (
                "does not say how many layers it has"
                if pool.layers is None
                else (f"has {pool.layers} layers")
            )
            raise SpecRefused(
                f"{groups.layers} stretches of layers, but the model {known}",
                where="spec: search.groups.layers",
                mend="Leave layers out" if pool.layers is None else f"At most {pool.layers}",
            )
        edges = [i * pool.layers // groups.layers for i in range(groups.layers + 1)]
        stretches = [(a, b - 1) for a, b in pairwise(edges)]
    kinds: list[tuple[str, ...] | None] = [(k,) for k in KINDS] if groups.kinds else [None]
    found = [Part(layers=layers, kinds=kind) for layers in stretches for kind in kinds]
    return tuple(part for part in found if part != Part())


def make_space(search: Search, pool: Pool, reference: str) -> Space:
    """The space of a search over a pool. Raises SpecRefused naming the field that does not fit."""
    n, (lower, upper) = len(pool.members), search.box
    rows = len(parts_of(search.groups, pool)) + 1
    try:
        if search.space != "task":
            return Space(n, lower, upper, groups=rows)
        base = search.base or reference
        if base not in pool.names:
            raise SpecRefused(
                f"{base!r} is not in pool {pool.name!r}",
                where="spec: search.base",
                mend=f"Name one of: {', '.join(pool.names)}",
            )
        return replace(Space.task(n, pool.names.index(base), lower, upper), groups=rows)
    except ValueError as error:
        raise SpecRefused(
            str(error), where="spec: search.bounds", mend="Widen the bounds"
        ) from error


def make_recipe(search: Search, pool: Pool, weights: Sequence[float]) -> Recipe:
    """The recipe of a point of the space. Where all groups have the same weights it has none, so
    that a baseline is the same candidate whatever the groups are."""
    parts, rows = parts_of(search.groups, pool), cut(weights, len(pool.members))
    if len(set(rows)) == 1:
        return Recipe(parents=pool.digests, weights=rows[0], dtype=pool.dtype)
    return Recipe(
        parents=pool.digests,
        weights=rows[-1],
        groups=tuple(
            Group(weights=row, layers=part.layers, kinds=part.kinds)
            for part, row in zip(parts, rows[:-1], strict=True)
        ),
        dtype=pool.dtype,
    )


def space_of(study: Study) -> Space:
    """The study's space."""
    return make_space(study.spec.search, study.pool, study.reference)


def cut(weights: Sequence[float], n: int) -> tuple[Row, ...]:
    """A flat vector as its rows of n weights."""
    return tuple(tuple(weights[i : i + n]) for i in range(0, len(weights), n))


def labels_of(study: Study) -> list[str]:
    """Names of the groups in the order of a vector's rows; [''] for whole models."""
    parts = parts_of(study.spec.search.groups, study.pool)
    return [*(part.label for part in parts), REST] if parts else [""]


def rows_of(study: Study, weights: Sequence[float]) -> Mapping[str, Row]:
    """The rows of a trial's weights by the name of their group; one, named '', where all tensors
    have the same weights."""
    rows = cut(weights, len(study.pool.members))
    if len(set(rows)) == 1:
        return {"": rows[0]}
    return dict(zip(labels_of(study), rows, strict=True))


def mean_of(study: Study, weights: Sequence[float]) -> Row:
    """One weight per checkpoint: the mean over the groups."""
    rows = cut(weights, len(study.pool.members))
    if len(set(rows)) == 1:
        return rows[0]
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
