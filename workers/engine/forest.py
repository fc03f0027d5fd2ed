"""Which prefixes that rows share are worth computing once: the cheapest plan over their tree.

Counts tokens and prices only; `workers.engine.tree` makes the forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: a shorter prefix is cheaper computed again than kept as a head
HEAD_MIN = 16
#: longest packed sequence: every token looks at all of it, seen or masked
PACKED_MAX = 512
#: masked attention costs more than the causal kernel, by about this much
MASK_PENALTY = 1.15
#: prefixes nested deeper than this are not looked into
NESTED_MAX = 64


@dataclass(frozen=True)
class Packed:
    """Rows [low, high) of the sorted order in one sequence, from depth `base` on."""

    low: int
    high: int
    base: int
    tokens: int


#: (cost, packs behind the head, plans with heads of their own: their base and packs)
_Option = tuple[float, list[Packed], list[tuple[int, list[Packed]]]]


class Forest:
    """Sorted rows as a tree of shared prefixes, and the cheapest way to compute it.

    A plan is a list of (base, packs): base 0 computes the packs by themselves, a larger base gives
    them a head of that many tokens. Costs are in units of 4·width multiplications a layer.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        firsts: Sequence[int],
        width: int,
        *,
        heads: bool = True,
    ) -> None:
        self.rows, self.firsts, self.width, self.heads = rows, firsts, width, heads
        # what a row has in common with the one before it
        self.lcp = [0 if i == 0 else common(rows[i - 1], rows[i]) for i in range(len(rows))]
        new = [len(row) - common for row, common in zip(rows, self.lcp, strict=True)]
        self.sums = np.concatenate([[0], np.cumsum(new)])

    def plan(self) -> list[tuple[int, list[Packed]]]:
        """The cheapest plan of all rows."""
        if not self.rows:
            return []
        alone: list[Packed] = []
        plans: list[tuple[int, list[Packed]]] = []
        for low, high in self._children(0, len(self.rows), 0):
            _, here, heads = self._best(low, high, 0)
            alone += here
            plans += heads
        return [(0, alone), *plans]

    def tokens(self, low: int, high: int, base: int) -> int:
        """Distinct tokens of rows [low, high) beyond their first `base`."""
        return int(self.sums[high] - self.sums[low + 1]) + len(self.rows[low]) - base

    def _best(self, low: int, high: int, base: int, level: int = 0) -> _Option:
        """(cost, packs behind the head of `base` tokens, plans with heads of their own)."""
        pack = Packed(low, high, base, self.tokens(low, high, base))
        if high - low == 1:
            return self._price(pack), [pack], []
        whole = self._price(pack) if pack.tokens <= PACKED_MAX else np.inf
        depth = min(self.lcp[low + 1 : high])
        children = self._children(low, high, depth)
        if level >= NESTED_MAX:
            children = ((i, i + 1) for i in range(low, high))
        parts = [self._best(a, b, base, level + 1) for a, b in children]
        split = sum(cost for cost, _, _ in parts)
        options: list[_Option] = [(whole, [pack], [])] if whole < np.inf else []
        apart = [p for _, packs, _ in parts for p in packs]
        options.append((split, apart, [h for *_, heads in parts for h in heads]))
        # what a head computes is not scored: its last token's logits belong to its continuations
        head = min(depth, *self.firsts[low:high])
        if self.heads and base == 0 and head >= HEAD_MIN and pack.tokens > head + HEAD_MIN:
            headed = self._headed(low, high, depth, head, level)
            if headed is not None:
                options.append(headed)
        return min(options, key=lambda option: option[0])

    def _headed(self, low: int, high: int, depth: int, head: int, level: int) -> _Option | None:
        saved = (high - low - 1) * head
        if saved < HEAD_MIN * 4:
            return None
        packs, cost = [], head * (3.0 * self.width + head / 2)
        for a, b in self._children(low, high, depth):
            more, behind, _ = self._best(a, b, head, level + 1)
            cost += more
            packs += behind
        return cost, [], [(head, packs)]

    def _children(self, low: int, high: int, depth: int) -> Iterator[tuple[int, int]]:
        """Intervals of rows that share more than `depth` tokens."""
        start = low
        for i in range(low + 1, high):
            if self.lcp[i] <= depth:
                yield start, i
                start = i
        yield start, high

    def _price(self, pack: Packed) -> float:
        n = pack.tokens
        if pack.high - pack.low == 1 and not pack.base:
            return n * (3.0 * self.width + n / 2)
        return n * (3.0 * self.width + MASK_PENALTY * (n + pack.base))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
