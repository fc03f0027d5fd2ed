"""The recipe of some parents of a recipe: what remains of a merge when others stay away.

Either their shares are renormalised to what all parents weighed together, or a base takes what the
absent ones weighed, as in task arithmetic. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from optim.recipe import Recipe, Row
from optim.space import Space

#: shares of parents that together weigh less than this cannot be renormalised
LEAST_SUM = 1e-6
#: wider than any row that can be formed
BEYOND = 1e3


def can_renormalise(recipe: Recipe) -> bool:
    """Whether every coalition has shares: no weight below 0, and no columns of free ones."""
    return not recipe.columns and all(w >= 0 for row in recipe.rows for w in row)


def coalition(recipe: Recipe, inside: Collection[int], *, base: int | None = None) -> Recipe:
    """The recipe without the parents that are not `inside` (indices of parents).

    With a base that parent takes their weights; without one, each row is renormalised, and a group
    in which no parent inside has a weight takes their mean shares. Rows that sum to 1 are rounded
    to the grid of `optim.space`. Raises ValueError where nothing is left, or cannot be
    renormalised.
    """
    if base is None and not can_renormalise(recipe):
        raise ValueError("recipe: has negative weights or columns, so give a base")
    if base is None:
        mean = np.mean(recipe.rows, axis=0)
        rows = [_shares(np.asarray(row), mean, inside) for row in recipe.rows]
    else:
        rows = [_rebased(row, inside, base) for row in recipe.rows]
    if not recipe.columns and len(set(rows)) == 1:
        return Recipe(parents=recipe.parents, weights=rows[0], dtype=recipe.dtype)
    groups = [replace(g, weights=row) for g, row in zip(recipe.groups, rows, strict=False)]
    columns = {
        name: _rebased_columns(table, inside, base) for name, table in recipe.columns.items()
    }
    return replace(recipe, weights=rows[-1], groups=tuple(groups), columns=columns)


def _shares(row: np.ndarray, mean: np.ndarray, inside: Collection[int]) -> Row:
    mask = np.isin(np.arange(len(row)), list(inside))
    kept = np.where(mask, row, 0.0)
    if kept.sum() < LEAST_SUM:
        kept = np.where(mask, mean, 0.0)
    if kept.sum() < LEAST_SUM:
        raise ValueError(f"recipe: parents {sorted(inside)} have no weight")
    return _on_grid(kept * (row.sum() / kept.sum()))


def _rebased(row: Row, inside: Collection[int], base: int) -> Row:
    kept = np.array([w if i in inside or i == base else 0.0 for i, w in enumerate(row)])
    kept[base] += sum(row) - kept.sum()
    return _on_grid(kept)


def _on_grid(row: np.ndarray) -> Row:
    if abs(row.sum() - 1) > LEAST_SUM:
        return tuple(row.tolist())
    used = row != 0
    low, high = np.where(used, -BEYOND, 0.0), np.where(used, BEYOND, 0.0)
    return Space(len(row), tuple(low.tolist()), tuple(high.tolist())).round(row)


def _rebased_columns(
    table: tuple[Row, ...], inside: Collection[int], base: int | None
) -> tuple[Row, ...]:
    assert base is not None
    found = np.array(table)
    out = [i for i in range(len(found)) if i not in inside and i != base]
    found[base] += found[out].sum(axis=0)
    found[out] = 0.0
    return tuple(map(tuple, found.tolist()))
