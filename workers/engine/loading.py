"""Loading a pool: files are checked against their digests, and kept on the fastest tier that fits.

A tensor that is the same in all checkpoints is kept once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.checkpoints import Checkpoint, read_checkpoint
from services.errors import BadInput, IntegrityError
from services.mapped import map_tensors
from workers.engine.layout import ALIGNMENT, Cut, Layout
from workers.engine.resident import Parent, Pool
from workers.engine.tiers import Tier, plan_tier

#: bytes of two files compared at a time
COMPARE_BYTES = 2**20
#: checkpoints hashed at a time, and the pause between two calls of `progress` meanwhile
HASH_THREADS, TICK_SECONDS = min(8, os.cpu_count() or 1), 0.1


def load_pool(
    checkpoints: Sequence[tuple[str, Path]],
    *,
    device: torch.device,
    buffer_bytes_per_value: int,
    tier: Tier | None = None,
    fused: Sequence[Sequence[str]] = (),
    cuts: Mapping[str, Cut] | None = None,
    ranks: int = 1,
    progress: Callable[[int, int], None],
) -> Pool:
    """Read (digest, folder) pairs into the fastest tier that fits beside the model's own buffers.

    `buffer_bytes_per_value` is what the model needs per value of the layout; `tier` overrules the
    choice; `fused` and `cuts` are those of `Layout.of`, but cuts may name tensors that were left
    out as tied; `ranks` processes like this one share the machine's memory. Raises IntegrityError
    when a folder no longer holds the bytes of its digest, BadInput when the checkpoints have
    different tensors. `progress` gets (bytes done, bytes in all).
    """
    sizes = [sum(f.stat().st_size for f in path.glob("*.safetensors")) for _, path in checkpoints]
    # every file is read twice: to be hashed, and to be kept
    done, total = sum(sizes), 2 * sum(sizes)
    read = _all_verified(checkpoints, lambda hashed: progress(hashed, total))
    here = {name: cut for name, cut in (cuts or {}).items() if name in read[0].tensors}
    layout = Layout.of(read[0].tensors, fused=fused, cuts=here)
    for checkpoint in read[1:]:
        _check_layout(read[0], checkpoint)
    mapped = [map_tensors(checkpoint) for checkpoint in read]
    identical = _identical(mapped)
    bytes_of = _piece_bytes(layout, mapped, identical)
    plan = plan_tier(
        device,
        pool_bytes=sum(map(sum, bytes_of)),
        buffer_bytes=layout.size * buffer_bytes_per_value,
        ranks=ranks,
        told=tier,
    )
    shared: dict[str, Tensor] = {}
    parents = []
    for checkpoint, whole, size in zip(read, mapped, sizes, strict=True):
        pieces = _pieces(layout, whole, shared, plan.tier, device)
        shared = shared or {name: pieces[name] for name in identical}
        parents.append(Parent(checkpoint=checkpoint, pieces=pieces))
        done += size
        progress(done, total)
    line = f"{plan}; {len(identical)} of {len(layout.slots)} tensors are the same in all"
    return Pool(parents, layout, tier=plan.tier, plan=line, identical=identical)


def _all_verified(
    checkpoints: Sequence[tuple[str, Path]], progress: Callable[[int], None]
) -> list[Checkpoint]:
    """`_verified` for each, several at a time; `progress` gets the bytes hashed of all."""
    hashed, stopped = [0] * len(checkpoints), threading.Event()

    def one(number: int) -> Checkpoint:
        def tell(done: int, _: int) -> None:
            if stopped.is_set():
                raise InterruptedError("another one failed")
            hashed[number] = done

        return _verified(*checkpoints[number], tell)

    with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="verify") as executor:
        left = set(found := [executor.submit(one, number) for number in range(len(checkpoints))])
        try:
            while left:
                done, left = wait(left, timeout=TICK_SECONDS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress(sum(hashed))
        finally:
            stopped.set()
            executor.shutdown(cancel_futures=True)
        return [future.result() for future in found]


def _verified(digest: str, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
    checkpoint = read_checkpoint(path, check_values=False, progress=progress)
    if checkpoint.digest != digest:
        raise IntegrityError(
            f"its files have the digest {checkpoint.digest[:12]}…, registered was {digest[:12]}…",
            where=str(path),
            mend="Restore the files, or register the checkpoint anew",
        )
    return checkpoint


def _check_layout(first: Checkpoint, other: Checkpoint) -> None:
    mine = {name: info.shape for name, info in first.tensors.items()}
    theirs = {name: info.shape for name, info in other.tensors.items()}
    if different := sorted(set(mine.items()) ^ set(theirs.items())):
        raise BadInput(
            f"tensor {different[0][0]!r} is not the same as in {first.path}",
            where=str(other.path),
            mend="Only checkpoints of one architecture can be merged",
        )


def _identical(mapped: Sequence[Mapping[str, Tensor]]) -> frozenset[str]:
    first, *others = mapped
    return frozenset(
        name for name, t in first.items() if all(_same(t, other[name]) for other in others)
    )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same bits; ends at the first difference."""
    if a.dtype != b.dtype:
        return False
    left, right = (t.reshape(-1).view(torch.uint8).numpy() for t in (a, b))
    return all(
        np.array_equal(left[i : i + COMPARE_BYTES], right[i : i + COMPARE_BYTES])
        for i in range(0, len(left), COMPARE_BYTES)
    )


def _piece_bytes(
    layout: Layout, mapped: Sequence[Mapping[str, Tensor]], identical: frozenset[str]
) -> list[list[int]]:
    """Bytes of the pieces that each parent keeps; the first one keeps the identical tensors."""
    return [
        [
            slot.count * whole[slot.name].element_size()
            for slot in layout.slots
            if number == 0 or slot.name not in identical
        ]
        for number, whole in enumerate(mapped)
    ]


def _pieces(
    layout: Layout,
    whole: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    tier: Tier,
    device: torch.device,
) -> dict[str, Tensor]:
    """The held part of every tensor on its tier; those in `shared` are another parent's.

    Mapped parts that are no plain range of the file (columns of a matrix) are copied.
    """
    pieces = dict(shared)
    mine = [slot for slot in layout.slots if slot.name not in shared]
    if tier == "mapped":
        return pieces | {slot.name: slot.take(whole[slot.name]) for slot in mine}
    starts, size = [], 0
    for slot in mine:
        starts.append(size)
        used = slot.count * whole[slot.name].element_size()
        size += -(-used // ALIGNMENT) * ALIGNMENT
    buffer = torch.empty(
        size,
        dtype=torch.uint8,
        device=device if tier == "device" else "cpu",
        pin_memory=tier == "host" and device.type == "cuda",
    )
    for slot, start in zip(mine, starts, strict=True):
        values = slot.take(whole[slot.name])
        piece = buffer[start : start + values.nbytes].view(values.dtype)
        pieces[slot.name] = piece.copy_(values)
    return pieces
