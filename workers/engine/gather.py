"""The weights digest of a candidate whose parts lie on several ranks.

Tensors are put together on rank 0 one after another, hashed there while the next one arrives, and
forgotten; no rank ever holds two whole models' worth of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from optim.merge import bytes_digest, weights_digest
from workers.engine.group import Group
from workers.engine.layout import Cut, Layout, Slot


class GatheredDigest:
    """`optim.merge.weights_digest` of all ranks' parts together; same use as `BackgroundDigest`."""

    def __init__(
        self,
        layout: Layout,
        stored: Tensor,
        group: Group,
        known: dict[str, str],
    ) -> None:
        """`known` has the SHA-256 of tensors that have not changed since an earlier digest, by name
        (on other ranks than 0: only the names); it gets those of the others once all are known."""
        self._layout, self._stored, self._group = layout, stored, group
        self._known = known

    def result(self, tick: Callable[[], None]) -> str:
        """The digest on rank 0, an empty string on the others; all ranks call it together.

        `tick` is called once for every tensor that is not known, on every rank.
        """
        cuts, ranks = self._cuts(), _host_group()
        new = [slot for slot in self._layout.slots if slot.name not in self._known]
        hashes: dict[str, Future[str]] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as hasher:
            last: Future[str] | None = None
            for slot in new:
                tick()
                whole = self._whole(slot, cuts, ranks)
                if whole is not None:
                    if last is not None:
                        last.result()  # at most two tensors at a time
                    last = hashes[slot.name] = hasher.submit(bytes_digest, whole)
        self._known.update({slot.name: "" for slot in new})
        self._known.update({name: found.result() for name, found in hashes.items()})
        if self._group.rank > 0:
            return ""
        # every hash is known: only names, dtypes and shapes are looked at
        dtype = self._stored.dtype
        shapes = ((slot.name, slot.whole) for slot in self._layout.slots)
        empty = ((name, torch.empty(shape, dtype=dtype, device="meta")) for name, shape in shapes)
        return weights_digest(empty, known=self._known)

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

    def _whole(
        self, slot: Slot, cuts: list[dict[str, Cut]], ranks: dist.ProcessGroup | None
    ) -> Tensor | None:
        """The whole tensor on the CPU of rank 0; the others send their parts."""
        part = self._stored[slot.start : slot.start + slot.count].view(slot.shape)
        if slot.cut is None:
            return part if self._group.rank == 0 else None
        if self._group.rank > 0:
            if slot.count:
                dist.send(_bytes(part), 0, group=ranks)
            return None
        whole = torch.empty(slot.whole, dtype=self._stored.dtype)
        put(whole, slot.cut, part)
        for rank in range(1, self._group.world):
            cut = cuts[rank][slot.name]
            part = torch.empty(cut.shape(slot.whole), dtype=whole.dtype)
            if part.numel():
                dist.recv(_bytes(part), rank, group=ranks)
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
    """The ranks as they exchange host memory; all of them make it at the same time."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
