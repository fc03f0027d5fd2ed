"""Which points are drawn, where more lie on top of each other than a screen can show. Pure."""

from __future__ import annotations

import numpy as np

#: below this many points all are drawn
FEW = 1500
#: cells of a plot's inside, across and up: about 14 pixels each, two points wide. A browser takes
#: as long for a thousand points as for all else of a page
CELLS = (64, 30)
Range = tuple[float, float]


def drawn(x: np.ndarray, y: np.ndarray, across: Range, up: Range, first: np.ndarray) -> np.ndarray:
    """bool [T]: one point for each cell of the shown range, that of the lowest `first`; all where
    there are few. Points outside of the range, and those that are not finite, are left out of many.
    """
    if len(x) <= FEW:
        return np.ones(len(x), bool)
    inside = (x >= across[0]) & (x <= across[1]) & (y >= up[0]) & (y <= up[1])
    places = np.flatnonzero(inside)
    places = places[np.argsort(first[places], kind="stable")]
    cells = _cell(x[places], across, CELLS[0]) * CELLS[1] + _cell(y[places], up, CELLS[1])
    found = np.zeros(len(x), bool)
    found[places[np.unique(cells, return_index=True)[1]]] = True
    return found


def _cell(values: np.ndarray, bounds: Range, count: int) -> np.ndarray:
    low, high = bounds
    share = (values - low) / (high - low or 1)
    return np.minimum((share * count).astype(np.int64), count - 1)
