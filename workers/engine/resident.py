"""The resident pool: every checkpoint's values kept where forming a candidate reads them fastest.

Checkpoints are mapped, checked against the digest they were registered under, and never written. A
tensor that is the same in all of them is kept once, and formed once.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optim.recipe import Recipe
from optim.steps import float32_weights, sums_to_one
from services.checkpoints import Checkpoint, read_checkpoint
from services.errors import BadInput, IntegrityError
from services.mapped import map_tensors
from workers.engine.layout import ALIGNMENT, Cut, Layout, Slot
from workers.engine.tiers import Tier, plan_tier
from workers.engine.work import Work, sent, works_of

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: bytes of two files compared at a time
COMPARE_BYTES = 2**20
#: checkpoints hashed at a time, and the pause between two calls of `progress` meanwhile
HASH_THREADS, TICK_SECONDS = min(8, os.cpu_count() or 1), 0.1


@dataclass(frozen=True, kw_only=True)
class Parent:
    """One checkpoint of the pool: the held part of every tensor, 1-D, in the file's dtype."""

    checkpoint: Checkpoint
    pieces: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Formed:
    """What one call of `Pool.form_` did to its buffer."""

    #: the slots that were written; the others hold what they held
    written: tuple[Slot, ...]
    #: the first tensor that is not finite in the buffer's dtype
    infinite: str | None


class Pool:
    """Checkpoints by digest, in one layout, on one tier."""

    def __init__(
        self,
        parents: Sequence[Parent],
        layout: Layout,
        *,
        tier: Tier,
        plan: str,
        identical: frozenset[str],
    ) -> None:
        self.parents = {parent.checkpoint.digest: parent for parent in parents}
        self.layout, self.tier = layout, tier
        #: what was chosen and why, for people
        self.plan = plan
        #: tensors that are the same bit for bit in every checkpoint, judged on whole tensors
        self.identical = identical
        self._formed: weakref.ref[Tensor] | None = None
        #: identical tensors that the buffer `_formed` holds as they are in the checkpoints
        self._held: set[str] = set()

    def form_(self, out: Tensor, recipe: Recipe) -> Formed:
        """Write the candidate into the flat buffer `out`, all of it but what it holds already.

        That is a tensor that is identical in all checkpoints, written by an earlier call with the
        same buffer: nobody else may write to it. Raises BadInput for unknown parents.
        """
        parents = self.parents_of(recipe)
        if self._formed is None or self._formed() is not out:
            self._formed, self._held = weakref.ref(out), set()
        written, works = [], []
        for slot in self.layout.slots:
            same = self.stays(slot.name, recipe)
            if same and slot.name in self._held:
                continue
            written.append(slot)
            (self._held.add if same else self._held.discard)(slot.name)
            weights = (1.0,) if same else recipe.weights_of(slot.name)
            pieces = [parent.pieces[slot.name] for parent in (parents[:1] if same else parents)]
            works += works_of(slot, out, pieces, weights, recipe.columns.get(slot.name))
        infinite = None
        for work, pieces in zip(works, self._beside(out, works), strict=True):
            if not work.form_(pieces):
                # so that the next candidate fails by it too
                self._held.discard(work.name)
                infinite = infinite or work.name
        return Formed(written=tuple(written), infinite=infinite)

    def stays(self, name: str, recipe: Recipe) -> bool:
        """Whether the candidate's tensor is the one that all checkpoints hold."""
        if name not in self.identical or name in recipe.columns:
            return False
        return sums_to_one(recipe.weights_of(name))

    def _beside(self, out: Tensor, works: Sequence[Work]) -> Iterator[list[Tensor]]:
        """The pieces of each work where `out` is, the next ones under way while these are used."""
        pieces = [work.pieces for work in works]
        return (
            iter(pieces)
            if self.tier == "device" or out.device.type == "cpu"
            else sent(pieces, out.device)
        )

    def parents_of(self, recipe: Recipe) -> list[Parent]:
        """The parents in the recipe's order; BadInput where it is not one for this pool."""
        for digest in recipe.parents:
            if digest not in self.parents:
                raise BadInput(
                    f"parent {digest[:12]}… is not in the resident pool",
                    where="recipe",
                    mend="Load the pool that the recipe was made for",
                )
        try:
            recipe.check_tensors({slot.name: slot.whole for slot in self.layout.slots})
            for row in recipe.rows:
                float32_weights(row)
        except ValueError as error:
            raise BadInput(str(error), where="recipe", mend="Correct its weights") from error
        return [self.parents[digest] for digest in recipe.parents]


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
