"""Forming a candidate tensor by tensor, and sending a pool's pieces to a GPU meanwhile.

`sent` has not run on a GPU yet: it relies on nothing but streams, events and torch's caching
allocator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.merge import linear_
from optim.steps import linear_columns_
from workers.engine.layout import Slot

#: bytes of one set of pieces; up to three sets are on the GPU at a time
SENT_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part of one tensor that is formed by one call."""

    name: str
    out: Tensor
    pieces: list[Tensor]
    weights: Sequence[float]
    #: [N, C] where every column has a weight of its own
    columns: Tensor | None

    def form_(self, pieces: list[Tensor]) -> bool:
        """Form it from `pieces`, copies of its own where it is; whether it is finite."""
        if self.columns is None:
            return linear_(self.out, pieces, self.weights)
        shape = (-1, self.columns.shape[1])
        shaped = [piece.view(shape) for piece in pieces]
        return linear_columns_(self.out.view(shape), shaped, self.columns)


def works_of(
    slot: Slot,
    out: Tensor,
    pieces: Sequence[Tensor],
    weights: Sequence[float],
    columns: Sequence[Sequence[float]] | None,
) -> list[Work]:
    """The works that form one slot of `out`: several where its pieces are sent to a GPU."""
    spread, row, size = None, 1, slot.count
    if columns is not None:
        spread = slot.columns(torch.tensor(columns, dtype=torch.float32))
        row = spread.shape[1]
    if out.device != pieces[0].device:
        size = max(SENT_BYTES // (4 * len(pieces)) // row, 1) * row
    target = out[slot.start : slot.start + slot.count]
    if size == slot.count:
        return [
            Work(name=slot.name, out=target, pieces=list(pieces), weights=weights, columns=spread)
        ]
    return [
        Work(
            name=slot.name,
            out=target[start : start + size],
            pieces=[piece[start : start + size] for piece in pieces],
            weights=weights,
            columns=spread,
        )
        for start in range(0, slot.count, max(size, 1))
    ]


def sent(sets: Sequence[Sequence[Tensor]], device: torch.device) -> Iterator[list[Tensor]]:
    """Every set of tensors copied to `device`, in order, for the current stream.

    A set is on its way, on a stream of its own, while the caller works on the one before it.
    Copies from memory that is not pinned are made without overlap.
    """
    stream = torch.cuda.Stream(device)

    def send(tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        with torch.cuda.stream(stream):
            copies = [tensor.to(device, non_blocking=True) for tensor in tensors]
            return copies, stream.record_event()

    def arrive(copies: list[Tensor], event: torch.cuda.Event) -> list[Tensor]:
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for copy in copies:
            # the allocator must not give this memory away before the current stream is done
            copy.record_stream(current)
        return copies

    under_way: tuple[list[Tensor], torch.cuda.Event] | None = None
    for tensors in sets:
        following = send(tensors)
        if under_way is not None:
            yield arrive(*under_way)
        under_way = following
    if under_way is not None:
        yield arrive(*under_way)
