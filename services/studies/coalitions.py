"""Which merges the attribution of a candidate to its parents rests on: the players, their
coalitions, and the recipe of each. Stores and evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optim import attribution as game
from optim.attribution import Design
from optim.coalition import can_renormalise, coalition
from optim.recipe import Recipe
from optim.search.baselines import uniform
from services.db import Database
from services.errors import BadInput
from services.studies import read
from services.studies.probes import Probe
from services.studies.read import OpenSplit
from services.studies.record import Study
from services.studies.space import make_recipe, space_of

#: parents that weigh less than this everywhere play as one
LEAST_WEIGHT = 0.01
#: names that a label has room for
SHORT = 3

#: what no parent at all is worth
Empty = Literal["reference", "base", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Player:
    """A parent, or those that weigh little, together."""

    name: str
    #: places in the pool
    parents: tuple[int, ...]
    #: in the candidate; the mean over its groups
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The merges that an attribution rests on."""

    #: number of the trial
    candidate: int
    split: OpenSplit
    players: tuple[Player, ...]
    design: Design
    #: one for each coalition of the design
    merges: tuple[Probe, ...]
    #: takes the weights of absent parents; None: the shares of the present ones are renormalised
    base: str | None
    empty: Empty


def plan(
    database: Database,
    study: Study,
    candidate: int | None = None,
    *,
    split: OpenSplit = "validation",
    empty: Empty | None = None,
    permutations: int | None = None,
) -> Plan:
    """The merges for one trial, the chosen one by default; nothing is stored.

    Up to 5 parents of some weight: every coalition. More: random orders of joining, `permutations`
    of them, rounded up to whole circles (`optim.attribution.sampled`). Absent parents' weights are
    renormalised away where no weight is below 0, else the base takes them: `search.base`, or the
    reference. `empty` is what no parent is worth, by default the base or the reference. Raises
    NotFound, or BadInput.
    """
    read.refuse_test(split)
    number = candidate_of(database, study, candidate)
    recipe = Recipe.from_dict(read.trial_detail(database, study, number)["recipe_data"])
    names = study.pool.names
    of_space = study.spec.search.base or study.reference
    base = None if _shares_apply(study, recipe) else of_space
    players = _players(recipe, names, None if base is None else names.index(base))
    if not players:
        raise BadInput(
            f"trial {number} is the base {base!r} itself: no other parent has a weight in it",
            where=f"study {study.id}",
            mend="Choose another candidate",
        )
    large = [p for p in players if len(p.parents) == 1]
    design = (
        game.exact(len(players))
        if len(large) <= game.EXACT_PLAYERS
        else _sampled(len(players), permutations, study.spec.search.seed)
    )
    nobody: Empty = empty or ("reference" if base is None else "base")
    return Plan(
        candidate=number,
        split=split,
        players=players,
        design=design,
        merges=tuple(
            _merge(study, recipe, players, c, number, base, nobody) for c in design.coalitions
        ),
        base=base,
        empty=nobody,
    )


def candidate_of(database: Database, study: Study, candidate: int | None) -> int:
    """A trial's number, or that of the chosen one; raises BadInput where none was chosen."""
    if candidate is not None:
        return candidate
    chosen = read.study_summary(database, study.id)["chosen"]
    if chosen is None:
        raise BadInput(
            f"study {study.id} has chosen no candidate", mend="Name one with --candidate"
        )
    return int(chosen)


def _sampled(players: int, permutations: int | None, seed: int) -> Design:
    try:
        return game.sampled(players, permutations=permutations, seed=seed)
    except ValueError as error:
        raise BadInput(
            str(error), where="--permutations", mend="Leave it out, or use 1 or more"
        ) from error


def _shares_apply(study: Study, recipe: Recipe) -> bool:
    return study.spec.search.space != "task" and can_renormalise(recipe)


def _players(recipe: Recipe, names: Sequence[str], base: int | None) -> tuple[Player, ...]:
    rows = [np.asarray(row) for row in recipe.rows]
    rows += [column for table in recipe.columns.values() for column in np.asarray(table).T]
    largest, mean = np.abs(rows).max(axis=0), np.mean(rows, axis=0)
    used = [i for i in range(len(names)) if largest[i] > 0 and i != base]
    least = min(LEAST_WEIGHT, largest[used].max() / 2) if used else 0.0
    large = [i for i in used if largest[i] >= least]
    small = tuple(i for i in used if largest[i] < least)
    found = [Player(name=names[i], parents=(i,), weight=float(mean[i])) for i in large]
    found.sort(key=lambda player: -abs(player.weight))
    if small:
        name = names[small[0]] if len(small) == 1 else f"{len(small)} of little weight"
        found.append(Player(name=name, parents=small, weight=float(mean[list(small)].sum())))
    return tuple(found)


def _merge(
    study: Study,
    recipe: Recipe,
    players: Sequence[Player],
    present: int,
    number: int,
    base: str | None,
    empty: Empty,
) -> Probe:
    """The merge of one coalition."""
    names = study.pool.names
    here = [p for i, p in enumerate(players) if present >> i & 1]
    gone = [p.name for p in players if p not in here]
    if not here:
        found, label = _nobody(study, empty), f"{empty}: no parent of trial {number}"
    elif not gone:
        found, label = recipe, f"trial {number} itself"
    else:
        inside = [i for p in here for i in p.parents]
        found = coalition(recipe, inside, base=None if base is None else names.index(base))
        label = f"{len(here)} of {len(players)} parents of trial {number}"
        if len(gone) <= SHORT <= len(here):
            label = f"trial {number} without {', '.join(gone)}"
        elif len(here) <= SHORT:
            label = f"{', '.join(p.name for p in here)} of trial {number}"
    return Probe(recipe=found, weights=weights_of(study, found), label=label)


def _nobody(study: Study, empty: Empty) -> Recipe:
    pool, search = study.pool, study.spec.search
    if empty == "uniform":
        soup = space_of(study).repeated(uniform(len(pool.members)))
        return make_recipe(search, pool, soup)
    name = study.reference if empty == "reference" else search.base or study.reference
    return Recipe.one_hot(pool.digests, pool.names.index(name), pool.dtype)


def weights_of(study: Study, recipe: Recipe) -> tuple[float, ...]:
    """A recipe's weights as a trial keeps them: a point of the space, or one mean per parent."""
    space = space_of(study)
    if not recipe.columns and len(recipe.rows) == space.groups:
        return tuple(w for row in recipe.rows for w in row)
    if not recipe.columns and not recipe.groups:
        return space.repeated(recipe.weights)
    return tuple(np.mean(recipe.rows, axis=0).tolist())
