"""The weights digest of a candidate whose parts lie on several ranks.

Tensors are put together on rank 0 one after another, hashed there while the next one arrives, and
forgotten; no rank ever holds two whole models' worth of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from optim.merge import digest_of, tensor_hash
from workers.engine.group import Group
from workers.engine.layout import Cut, Layout, Slot


class GatheredDigest:
    """`optim.merge.weights_digest` of all ranks' parts together; same use as `BackgroundDigest`."""

    def __init__(
        self,
        layout: Layout,
        stored: Tensor,
        shapes: Mapping[str, tuple[int, ...]],
        group: Group,
    ) -> None:
        self._layout, self._stored, self._shapes, self._group = layout, stored, shapes, group

    def result(self, tick: Callable[[], None]) -> str:
        """The digest on rank 0, an empty string on the others; all ranks call it together.

        `tick` is called once per tensor, on every rank.
        """
        cuts = self._cuts()
        hashes: dict[str, Future[str]] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as hasher:
            last: Future[str] | None = None
            for slot in self._layout.slots:
                tick()
                whole = self._whole(slot, cuts)
                if whole is not None:
                    if last is not None:
                        last.result()  # at most two tensors at a time
                    last = hashes[slot.name] = hasher.submit(tensor_hash, slot.name, whole)
        return digest_of({name: found.result() for name, found in hashes.items()})

    def stop(self) -> None:
        """Nothing runs beside the ranks' main threads."""

    def _cuts(self) -> list[dict[str, Cut]]:
        """Every rank's cuts, on rank 0."""
        mine = {s.name: [s.cut.axis, s.cut.ranges] for s in self._layout.slots if s.cut is not None}
        return [
            {
                name: Cut(axis=axis, ranges=tuple((start, stop) for start, stop in ranges))
                for name, (axis, ranges) in cuts.items()
            }
            for cuts in self._group.collect(mine)
        ]

    def _whole(self, slot: Slot, cuts: list[dict[str, Cut]]) -> Tensor | None:
        """The whole tensor on the CPU of rank 0; the others send their parts."""
        part = self._stored[slot.start : slot.start + slot.count].view(slot.shape)
        if slot.cut is None:
            return part if self._group.rank == 0 else None
        if self._group.rank > 0:
            if slot.count:
                dist.send(_bytes(part), 0, group=_host_group())
            return None
        shape = self._shapes[slot.name]
        whole = torch.empty(shape, dtype=self._stored.dtype)
        put(whole, slot.cut, part)
        for rank in range(1, self._group.world):
            cut = cuts[rank][slot.name]
            part = torch.empty(cut.shape(shape), dtype=whole.dtype)
            if part.numel():
                dist.recv(_bytes(part), rank, group=_host_group())
                put(whole, cut, part)
        return whole


def put(whole: Tensor, cut: Cut, part: Tensor) -> None:
    """Write a part back to where `cut.take` takes it from."""
    target, axis = (whole.view(-1), 0) if cut.axis is None else (whole, cut.axis)
    done = 0
    for start, stop in cut.ranges:
        target.narrow(axis, start, stop - start).copy_(part.narrow(axis, done, stop - start))
        done += stop - start


def _bytes(part: Tensor) -> Tensor:
    """The values as bytes in host memory, which is all that every back end can send."""
    return part.reshape(-1).cpu().view(torch.uint8)


@lru_cache(maxsize=1)
def _host_group() -> dist.ProcessGroup | None:
    """Ranks that exchange host memory; all of them make it at the same time, at the first tensor
    that is cut."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
