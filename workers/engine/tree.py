"""Rows of tokens as forward passes in which a prefix that rows share is computed once.

Rows that branch from one another are packed into one sequence in which a token sees its own branch
only; a long prefix of many rows becomes a head, whose keys and values all of them read. Holds no
weights and runs no model; what is shared here changes the work, never the numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from workers.engine.forest import Forest, Packed, common

_keys = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What sharing a prefix is worth to a model, and how far it and a batch may go."""

    #: hidden size: sets the price of a token against that of attention
    width: int = 512
    #: rows of more tokens never share (a sliding window would cut them); None: no limit, 0: none
    limit: int | None = None
    #: whether a prefix may become a head, which no gradient goes through
    heads: bool = True
    #: values of the largest table of logits that one forward pass may make
    logits: int = 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A prefix of H tokens that several batches continue."""

    #: int64 [1, H]
    inputs: Tensor
    #: unlike any other's: what a store of activations is asked for
    key: int = field(default_factory=lambda: next(_keys))


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One forward pass: B sequences padded on the right to L tokens, logits wanted at M positions.

    Without `ends` the sequences are plain text: causal, and pads come after every real token. With
    `ends` they are trees in depth-first order: token i sees token j when j <= i < ends[j], and all
    of the head.
    """

    #: int64 [B, L]
    inputs: Tensor
    #: int64 [M], indices into the flattened B*L
    positions: Tensor
    #: (row, slots): logits slots[k] of the M are those of the row's k-th wanted position
    rows: tuple[tuple[int, np.ndarray], ...] = field(repr=False)
    #: real tokens, the head's included where this batch is its first
    tokens: int
    #: int64 [B, L], each: where a token's branch ends, and its place in the text
    ends: Tensor | None = None
    depths: Tensor | None = None
    head: Head | None = None
    key: int = field(default_factory=lambda: next(_keys))

    def mask(self) -> Tensor | None:
        """bool [B, 1, L, H + L] (True: is seen), or None for plain causal text."""
        if self.ends is None:
            return None
        at = torch.arange(self.inputs.shape[1])
        seen = (at[:, None] >= at) & (at[:, None] < self.ends[:, None, :])
        head = 0 if self.head is None else self.head.inputs.shape[1]
        return torch.nn.functional.pad(seen, (head, 0), value=True)[:, None]


def batch_rows(
    rows: Sequence[Sequence[int]],
    firsts: Sequence[int],
    *,
    batch_tokens: int,
    vocabulary: int,
    sharing: Sharing,
) -> list[Batch]:
    """Forward passes that give the logits of every row from position `firsts[row]` on.

    Rows must differ from each other.
    """
    limit = sharing.limit
    alone = [r for r in range(len(rows)) if limit is not None and len(rows[r]) > limit]
    shared = sorted(set(range(len(rows))) - set(alone), key=lambda r: tuple(rows[r]))
    forest = Forest(
        [rows[r] for r in shared], [firsts[r] for r in shared], sharing.width, heads=sharing.heads
    )
    plain = [(alone[i : i + 1], Packed(0, 1, 0, len(rows[alone[i]]))) for i in range(len(alone))]
    trees: list[tuple[list[int], Packed]] = []
    headed: list[tuple[int, list[Packed]]] = []
    for base, packs in forest.plan():
        if base:
            headed.append((base, packs))
        for pack in packs if not base else ():
            mine = shared[pack.low : pack.high]
            (plain if len(mine) == 1 else trees).append((mine, pack))
    maker = _Maker(rows, firsts, batch_tokens, sharing.logits // vocabulary)
    batches = [*maker.batches(plain, tree=False), *maker.batches(trees, tree=True)]
    for base, packs in headed:
        head = Head(inputs=torch.tensor([list(rows[shared[packs[0].low]][:base])]))
        members = [(shared[pack.low : pack.high], pack) for pack in packs]
        batches += maker.batches(members, tree=True, head=head)
    return batches


def forced_batches(
    rows: Sequence[Sequence[int]], firsts: Sequence[int], *, head: int
) -> tuple[Batch, Batch, Batch]:
    """Rows of a common start of `head` tokens as plain text, as one tree, and behind a head, be it
    cheaper or not."""
    order = sorted(range(len(rows)), key=lambda r: tuple(rows[r]))
    forest = Forest([rows[r] for r in order], [firsts[r] for r in order], 1)
    maker = _Maker(rows, firsts, 2**31, 2**31)
    n = len(rows)
    alone = [([r], Packed(0, 1, 0, len(rows[r]))) for r in order]
    whole, behind = (Packed(0, n, base, forest.tokens(0, n, base)) for base in (0, head))
    (plain,) = maker.batches(alone, tree=False)
    (tree,) = maker.batches([(order, whole)], tree=True)
    start = Head(inputs=torch.tensor([list(rows[0][:head])]))
    (headed,) = maker.batches([(order, behind)], tree=True, head=start)
    return plain, tree, headed


@dataclass(frozen=True)
class _Maker:
    """Packs into batches of similar length within the budget of tokens and scored positions."""

    rows: Sequence[Sequence[int]]
    firsts: Sequence[int]
    batch_tokens: int
    batch_positions: int

    def batches(
        self,
        members: Sequence[tuple[list[int], Packed]],
        *,
        tree: bool,
        head: Head | None = None,
    ) -> Iterator[Batch]:
        waiting: list[tuple[list[int], Packed]] = []
        scored, first = 0, head
        order = sorted(members, key=lambda member: (member[1].tokens, member[0]))
        for member in order:
            mine = sum(len(self.rows[r]) - self.firsts[r] for r in member[0])
            full = (len(waiting) + 1) * member[1].tokens > self.batch_tokens
            if waiting and (full or scored + mine > self.batch_positions):
                yield self._batch(waiting, tree, head, first)
                waiting, scored, first = [], 0, None
            waiting.append(member)
            scored += mine
        if waiting:
            yield self._batch(waiting, tree, head, first)

    def _batch(
        self,
        members: Sequence[tuple[list[int], Packed]],
        tree: bool,
        head: Head | None,
        first: Head | None,
    ) -> Batch:
        length = max(pack.tokens for _, pack in members)
        inputs = torch.zeros(len(members), length, dtype=torch.int64)
        ends = torch.arange(1, length + 1).repeat(len(members), 1)
        depths = torch.zeros_like(inputs)
        slots: dict[int, int] = {}
        found = []
        for index, (mine, pack) in enumerate(members):
            ids, end, depth, paths = _depth_first([self.rows[r] for r in mine], pack.base)
            inputs[index, : len(ids)] = torch.tensor(ids)
            ends[index, : len(ids)] = torch.tensor(end)
            depths[index, : len(ids)] = torch.tensor(depth)
            for row, path in zip(mine, paths, strict=True):
                wanted = path[self.firsts[row] - pack.base :]
                at = [slots.setdefault(index * length + p, len(slots)) for p in wanted]
                found.append((row, np.array(at, dtype=np.int64)))
        tokens = sum(pack.tokens for _, pack in members)
        return Batch(
            inputs=inputs,
            positions=torch.tensor(list(slots), dtype=torch.int64),
            rows=tuple(found),
            tokens=tokens + (0 if first is None else first.inputs.shape[1]),
            ends=ends if tree else None,
            depths=depths if tree else None,
            head=head,
        )


def _depth_first(
    rows: Sequence[Sequence[int]], base: int
) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """Sorted rows as one sequence: ids, ends, depths, and each row's way through it."""
    ids: list[int] = []
    depth: list[int] = []
    path: list[int] = []
    paths: list[list[int]] = []
    ends = [0] * sum(map(len, rows))
    before: Sequence[int] = ()
    for row in rows:
        shared = max(common(before, row) - base, 0) if paths else 0
        for at in path[shared:]:
            ends[at] = len(ids)
        path = path[:shared]
        for position in range(base + shared, len(row)):
            path.append(len(ids))
            ids.append(row[position])
            depth.append(position)
        paths.append(list(path))
        before = row
    for at in path:
        ends[at] = len(ids)
    return ids, ends[: len(ids)], depth, paths
