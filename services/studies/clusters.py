"""Which items of a study's suites share a context, so that their errors are not independent.

Labels come from the suites' items. A suite never changes under its digest, so what was read once
is kept in this process: telling a study reads no items again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from services.db import Connection, row
from services.stored_suites import suite_from_row
from services.studies.record import Split, Study
from services.suites import SPLITS, Item

#: suites that are remembered
MOST_KNOWN = 256
#: by suite digest: labels by split, None where no two items share a cluster
_known: dict[str, dict[Split, np.ndarray | None]] = {}


def clusters_of(connection: Connection, study: Study, split: Split) -> dict[str, np.ndarray | None]:
    """int64 [N] by suite name: the cluster of each item of a split, in the split's order.

    None for a suite whose items are independent. An item without a cluster is one by itself.
    """
    found = {}
    for suite in study.suites:
        if suite.digest not in _known:
            while len(_known) >= MOST_KNOWN:
                _known.pop(next(iter(_known)))
            _known[suite.digest] = _read(connection, suite.id)
        found[suite.name] = _known[suite.digest][split]
    return found


def _read(connection: Connection, suite_id: int) -> dict[Split, np.ndarray | None]:
    stored = row(connection, "registry.suite_by_id", suite=suite_id)
    assert stored is not None
    # items are not parsed where the word does not even occur
    if b'"cluster"' not in zlib.decompress(stored["content"]):
        return dict.fromkeys(SPLITS)
    suite = suite_from_row(stored)
    return {split: labels(suite.split(split)) for split in SPLITS}


def labels(items: Sequence[Item]) -> np.ndarray | None:
    """int64 [N]: a number for each cluster; None where every item is one by itself."""
    index: dict[tuple[str, str], int] = {}
    keys = [("item", i.id) if i.cluster is None else ("cluster", i.cluster) for i in items]
    found = np.array([index.setdefault(key, len(index)) for key in keys], dtype=np.int64)
    return found if len(index) < len(items) else None


def of_text(clusters: np.ndarray | None) -> np.ndarray | None:
    """The clusters of a text suite; none where it is a single one, which has no interval, and a
    constraint may need one."""
    return None if clusters is None or not clusters.any() else clusters


def side_by_side(parts: Sequence[tuple[int, np.ndarray | None]]) -> np.ndarray | None:
    """Labels of several suites together, from (items, labels) of each: they have no cluster in
    common. None where no suite has any."""
    if all(labels is None for _, labels in parts):
        return None
    found, start = [], 0
    for items, labels in parts:
        own = np.arange(items) if labels is None else labels
        found.append(own + start)
        start += int(own.max(initial=-1)) + 1
    return np.concatenate(found)
