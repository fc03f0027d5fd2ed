"""Which coefficients a descent has, and the set they stay in.

A block is what some tensors of the model share: one coefficient per parent, or for one tensor one
per parent and column. All blocks lie in one vector. Nothing here knows a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from optim.descent.job import Grain, Job
from optim.recipe import Group, Recipe
from optim.space import GRID, Space
from optim.tensor_names import KINDS, kind_of, layer_of

#: halvings of the interval in which a projection's shift lies: to the last bit of a float64
HALVINGS = 64


@dataclass(frozen=True, kw_only=True)
class Block:
    """Coefficients [n, width] of the tensors of these names."""

    names: tuple[str, ...]
    #: columns of the one tensor, or 1
    width: int = 1
    by_column: bool = False
    #: `layers` or `kinds` of the group in a recipe; empty: what no other group covers
    conditions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """All blocks of a descent over n parents, as one vector x [size]."""

    n: int
    blocks: tuple[Block, ...]
    #: bounds of every parent's weight, whose sum is 1 in every column; None: coefficients are free
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None

    @classmethod
    def of(cls, job: Job, columns: Mapping[str, int]) -> Blocks:
        """The blocks for a job; `columns` gives the last axis of every tensor that is not the same
        in all parents. Those that are stay as they are."""
        if not columns:
            raise ValueError("job.parents: they do not differ in any tensor")
        if job.grain == "columns":
            blocks = [
                Block(names=(name,), width=width, by_column=True) for name, width in columns.items()
            ]
        else:
            blocks = _shared(job.grain, list(columns))
        return cls(n=len(job.parents), blocks=tuple(blocks), low=job.low, high=job.high)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each block begins in x, and the end."""
        sizes = [self.n * block.width for block in self.blocks]
        return tuple(int(start) for start in np.cumsum([0, *sizes]))

    @property
    def size(self) -> int:
        """How many coefficients there are."""
        return self.starts[-1]

    @cached_property
    def index(self) -> dict[str, int]:
        """The block of every tensor by name."""
        return {name: i for i, block in enumerate(self.blocks) for name in block.names}

    def view(self, x: np.ndarray, block: int) -> np.ndarray:
        """[n, width] of one block, without copying."""
        part = x[self.starts[block] : self.starts[block + 1]]
        return part.reshape(self.n, self.blocks[block].width)

    def start(self, weights: Sequence[float]) -> np.ndarray:
        """float64 [size]: the same weights [n] everywhere."""
        parts = [np.repeat(np.asarray(weights, dtype=float), b.width) for b in self.blocks]
        return self.project(np.concatenate(parts))

    @cached_property
    def _rows(self) -> np.ndarray:
        """int64 [columns of all blocks, n]: places in x whose coefficients weigh one column."""
        places = np.arange(self.size)
        return np.concatenate([self.view(places, i).T for i in range(len(self.blocks))])

    def project(self, x: np.ndarray) -> np.ndarray:
        """The nearest coefficients within the bounds that sum to 1 in every column; free ones stay
        as they are."""
        if self.low is None or self.high is None:
            return x
        out = np.empty_like(x)
        out[self._rows] = project_rows(x[self._rows], np.array(self.low), np.array(self.high))
        return out

    def tangent(self, gradient: np.ndarray) -> np.ndarray:
        """The part of a gradient that leaves the sums alone; all of it where these are free."""
        if self.low is None:
            return gradient
        out = np.empty_like(gradient)
        rows = gradient[self._rows]
        out[self._rows] = rows - rows.mean(axis=1, keepdims=True)
        return out

    def recipe(self, x: np.ndarray, parents: tuple[str, ...], dtype: str) -> Recipe:
        """What x says, on the grid of writable numbers."""
        if self.blocks[0].by_column:
            return Recipe(
                parents=parents,
                weights=(1.0 / self.n,) * self.n,
                columns={
                    block.names[0]: tuple(map(tuple, self._written(self.view(x, i)).tolist()))
                    for i, block in enumerate(self.blocks)
                },
                dtype=dtype,
            )
        assert self.low is not None
        assert self.high is not None
        space = Space(self.n, self.low, self.high)
        rows = [space.place(self.view(x, i)[:, 0]) for i in range(len(self.blocks))]
        rest = [
            row for row, block in zip(rows, self.blocks, strict=True) if not block.conditions
        ] or [space.place(np.mean(rows, axis=0))]
        return Recipe(
            parents=parents,
            weights=rest[0],
            groups=tuple(
                Group(weights=row, **block.conditions)
                for row, block in zip(rows, self.blocks, strict=True)
                if block.conditions
            ),
            dtype=dtype,
        )

    def _written(self, values: np.ndarray) -> np.ndarray:
        """Values [n, width] on the grid; where they sum to 1, they still do."""
        whole = np.rint(values * GRID)
        if self.low is not None:
            largest = whole.argmax(axis=0)
            whole[largest, np.arange(whole.shape[1])] += GRID - whole.sum(axis=0)
        return whole / GRID

    def mean(self, x: np.ndarray, counts: Mapping[str, int]) -> tuple[float, ...]:
        """One number per parent: its coefficients' mean over the values (`counts` by tensor) that
        they weigh."""
        masses = np.array([sum(counts[n] for n in block.names) for block in self.blocks], float)
        means = np.array([self.view(x, i).mean(axis=1) for i in range(len(self.blocks))])
        return tuple((masses @ means / masses.sum()).tolist())


def _shared(grain: Grain, names: Sequence[str]) -> list[Block]:
    """Blocks of several tensors; what no condition covers comes last."""
    if grain == "layers":
        numbers = sorted({n for name in names if (n := layer_of(name)) is not None})
        found = [
            Block(
                names=tuple(name for name in names if layer_of(name) == number),
                conditions={"layers": (number, number)},
            )
            for number in numbers
        ]
        rest = tuple(name for name in names if layer_of(name) is None)
        return [*found, Block(names=rest)] if rest else found
    if grain == "kinds":
        by_kind = {k: tuple(name for name in names if kind_of(name) == k) for k in KINDS}
        return [
            Block(names=mine, conditions={"kinds": (k,)}) for k, mine in by_kind.items() if mine
        ]
    return [Block(names=tuple(names))]


def project_rows(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """clip(row − t, low, high) with the one t that makes each of the rows [R, n] sum to 1."""
    below = (rows - high).min(axis=1, keepdims=True)
    above = (rows - low).max(axis=1, keepdims=True)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        large = np.clip(rows - middle, low, high).sum(axis=1, keepdims=True) > 1
        below, above = np.where(large, middle, below), np.where(large, above, middle)
    out = np.clip(rows - (below + above) / 2, low, high)
    inside = (out > low) & (out < high)
    # what rounding left of the sum
    out += np.where(
        inside,
        (1 - out.sum(axis=1, keepdims=True)) / np.maximum(inside.sum(axis=1, keepdims=True), 1),
        0,
    )
    return np.clip(out, low, high)


def regularised(
    blocks: Blocks, x: np.ndarray, *, similarity: float, l1: float, l2: float
) -> tuple[float, np.ndarray]:
    """What the coefficients themselves cost, and its gradient [size].

    `similarity` · mean over blocks and pairs of parents of the cosine of their coefficient vectors
    (DAM, 2410.08371), `l1` · mean |c|, `l2` · mean c².
    """
    cost = l1 * float(np.abs(x).mean()) + l2 * float((x**2).mean())
    gradient = (l1 * np.sign(x) + 2 * l2 * x) / len(x)
    if similarity:
        pairs = blocks.n * (blocks.n - 1) * len(blocks.blocks)
        for i in range(len(blocks.blocks)):
            c = blocks.view(x, i)
            norms = np.maximum(np.linalg.norm(c, axis=1, keepdims=True), 1e-12)
            units = c / norms
            total = units.sum(axis=0)
            cost += similarity * float(total @ total - blocks.n) / pairs
            slope = 2 * (total - (units @ total)[:, None] * units) / norms
            blocks.view(gradient, i)[...] += similarity / pairs * slope
    return cost, gradient
