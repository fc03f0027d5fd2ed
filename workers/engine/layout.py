"""Where every tensor of a pool lies in one flat buffer, and which part of it a rank holds.

A candidate is formed in such a buffer and the live model's parameters are views of it. Pure
arithmetic on names, shapes and ranges: opens no file, allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.checkpoints import TensorInfo

#: every tensor starts on a multiple of this many values, as matrix kernels want it
ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The part of a tensor that one rank holds: half-open ranges that follow each other.

    Along `axis`, or of the flattened values where `axis` is None (the part is then 1-D).
    """

    axis: int | None
    ranges: tuple[tuple[int, int], ...]

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the part of a tensor of shape `whole`. Raises ValueError when it has no such."""
        if self.axis is not None and not 0 <= self.axis < len(whole):
            raise ValueError(f"cut.axis: {self.axis} of a tensor of shape {list(whole)}")
        length = math.prod(whole) if self.axis is None else whole[self.axis]
        if not all(0 <= start <= stop <= length for start, stop in self.ranges):
            raise ValueError(f"cut.ranges: {self.ranges} of {length} values, shape {list(whole)}")
        size = sum(stop - start for start, stop in self.ranges)
        if self.axis is None:
            return (size,)
        return (*whole[: self.axis], size, *whole[self.axis + 1 :])

    def take(self, tensor: Tensor) -> Tensor:
        """The part of `tensor`; a view of it where the part is one range."""
        flat, axis = (tensor.reshape(-1), 0) if self.axis is None else (tensor, self.axis)
        parts = [flat.narrow(axis, start, stop - start) for start, stop in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one tensor lies in the flat buffers: values [start, start + count)."""

    name: str
    #: of the part that is held here
    shape: tuple[int, ...]
    start: int
    count: int
    #: None: all of the tensor is held
    cut: Cut | None = None

    def take(self, whole: Tensor) -> Tensor:
        """The held part of the whole tensor, as 1-D values without gaps."""
        return (whole if self.cut is None else self.cut.take(whole)).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The tensors of a pool's checkpoints in name order, with gaps that keep them aligned."""

    slots: tuple[Slot, ...] = field(repr=False)
    #: values of one flat buffer, gaps included
    size: int

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, TensorInfo],
        *,
        fused: Sequence[Sequence[str]] = (),
        cuts: Mapping[str, Cut] | None = None,
    ) -> Layout:
        """The layout of one checkpoint; the others of its pool must have the same names, shapes.

        `fused` lists names that lie directly behind each other, in the order given, where the
        first of them has its place: what a model keeps in one tensor. `cuts` says which part of a
        tensor is held here. Raises ValueError for names that are unknown or fused twice.
        """
        cuts = cuts or {}
        groups = {group[0]: tuple(group) for group in fused if group}
        joined = [name for group in groups.values() for name in group]
        if unknown := sorted((set(joined) | set(cuts)) - set(tensors)):
            raise ValueError(f"layout: tensor {unknown[0]!r} is not in the checkpoint")
        if len(set(joined)) != len(joined) or len(groups) != len([g for g in fused if g]):
            raise ValueError("layout.fused: a tensor is fused twice")
        slots, start = [], 0
        for first in sorted(set(tensors) - set(joined) | set(groups)):
            for name in groups.get(first, (first,)):
                whole, cut = tensors[name].shape, cuts.get(name)
                shape = whole if cut is None else cut.shape(whole)
                count = math.prod(shape)
                slots.append(Slot(name=name, shape=shape, start=start, count=count, cut=cut))
                start += count
            start = math.ceil(start / ALIGNMENT) * ALIGNMENT
        return cls(slots=tuple(slots), size=start)

    def views(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) for every slot of a flat buffer, without copying."""
        for slot in self.slots:
            yield slot.name, flat[slot.start : slot.start + slot.count].view(slot.shape)
