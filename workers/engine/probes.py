"""A few tokens in three shapes: plain rows, one tree, and branches behind a head.

They ask the same question three times, so a model that answers alike may share prefixes; and code
that was compiled for a shape is tried on them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from workers.engine.tree import Batch, forced_batches


def probes(vocabulary: int) -> tuple[Batch, Batch, Batch]:
    """The same rows plain, as a tree, and behind a head; `in_row_order` makes them comparable."""
    return forced_batches(_rows(vocabulary), [6, 6, 6], head=6)


def probe_of(tree: bool, single: bool, headed: bool, *, vocabulary: int) -> Batch:
    """Plain rows or trees, behind a head or not, one in the batch or several. Rows, tokens of a
    row and tokens of the head all differ, also from the usual numbers of attention heads."""
    plain, whole, behind = probes(vocabulary)
    if not tree:
        rows = _rows(vocabulary)[:1]
        return forced_batches(rows, [6], head=6)[0] if single else plain
    batch = behind if headed else whole
    assert batch.ends is not None
    assert batch.depths is not None
    if single:
        return batch
    # the logits of one of them will do
    ids, ends, depths = (t.repeat(7, 1) for t in (batch.inputs, batch.ends, batch.depths))
    return replace(batch, inputs=ids, ends=ends, depths=depths)


def _rows(vocabulary: int) -> list[list[int]]:
    head = [1 + 7 * i % (vocabulary - 1) for i in range(6)]
    tails = [[1 + (step * i + 3) % (vocabulary - 1) for i in range(5)] for step in (5, 11)]
    rows = [[*head, *tail] for tail in tails]
    rows.append([*rows[0][:8], *rows[1][6:9]])
    return rows


def in_row_order(batch: Batch, logits: Tensor) -> Tensor:
    """Logits [positions of row 0, of row 1, ...; V], whatever the batch's own order."""
    slots = [torch.from_numpy(at) for _, at in sorted(batch.rows, key=lambda row: row[0])]
    return logits[torch.cat(slots).to(logits.device)].float()
