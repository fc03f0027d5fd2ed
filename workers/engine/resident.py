"""The resident pool: every checkpoint's values kept where forming a candidate reads them fastest.

One layout serves the whole pool: all tensors in name order in one flat buffer. Checkpoints are read
as bytes, checked against the digest they were registered under, and never written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from optim.merge import linear_
from services.checkpoints import Checkpoint, TensorInfo, read_checkpoint
from services.checkpoints.files import open_regular
from services.errors import BadInput, IntegrityError

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
FILE_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
#: every tensor starts on a multiple of this many values, as matrix kernels want it
ALIGNMENT = 64
#: share of a device's free memory that pool and buffers may fill; the rest is for activations
DEVICE_SHARE, HOST_SHARE = 0.7, 0.5

#: `device`: beside the model; `host`: in this machine's memory; `mapped`: paged in from the files
Tier = Literal["device", "host", "mapped"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one tensor lies in the flat buffers: values [start, start + count)."""

    name: str
    shape: tuple[int, ...]
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All tensors of a pool's checkpoints in name order, with gaps that keep them aligned."""

    slots: tuple[Slot, ...] = field(repr=False)
    #: values of one flat buffer, gaps included
    size: int

    @classmethod
    def of(cls, tensors: Mapping[str, TensorInfo]) -> Layout:
        """The layout of one checkpoint; the others of its pool must have the same names, shapes."""
        slots, start = [], 0
        for name, info in sorted(tensors.items()):
            slots.append(Slot(name=name, shape=info.shape, start=start, count=info.count))
            start += math.ceil(info.count / ALIGNMENT) * ALIGNMENT
        return cls(slots=tuple(slots), size=start)

    def views(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) for every slot of a flat buffer, without copying."""
        for slot in self.slots:
            yield slot.name, flat[slot.start : slot.start + slot.count].view(slot.shape)


@dataclass(frozen=True, kw_only=True)
class Parent:
    """One checkpoint of the pool: a flat buffer, or one mapped tensor per slot."""

    checkpoint: Checkpoint
    flat: Tensor | None = None
    mapped: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def piece(self, slot: Slot) -> Tensor:
        """The 1-D values of one tensor."""
        if self.flat is None:
            return self.mapped[slot.name]
        return self.flat[slot.start : slot.start + slot.count]


class Pool:
    """Checkpoints by digest, in one layout, on one tier."""

    def __init__(self, parents: Sequence[Parent], layout: Layout, tier: Tier) -> None:
        self.parents = {parent.checkpoint.digest: parent for parent in parents}
        self.layout, self.tier = layout, tier

    def form_(self, out: Tensor, digests: Sequence[str], weights: Sequence[float]) -> None:
        """Write the linear combination into the flat buffer `out`; BadInput for unknown digests."""
        if missing := [digest for digest in digests if digest not in self.parents]:
            raise BadInput(
                f"parent {missing[0][:12]}… is not in the resident pool",
                where="recipe",
                mend="Load the pool that the recipe was made for",
            )
        parents = [self.parents[digest] for digest in digests]
        if all(parent.flat is not None for parent in parents):
            linear_(out, [p.flat for p in parents if p.flat is not None], weights)
            return
        for slot in self.layout.slots:
            piece = out[slot.start : slot.start + slot.count]
            linear_(piece, [parent.piece(slot) for parent in parents], weights)


def load_pool(
    checkpoints: Sequence[tuple[str, Path]],
    *,
    device: torch.device,
    buffer_bytes_per_value: int,
    tier: Tier | None = None,
    progress: Callable[[int, int], None],
) -> Pool:
    """Read (digest, folder) pairs into the fastest tier that fits beside the model's own buffers.

    `buffer_bytes_per_value` is what the model needs per value of the layout. Raises
    IntegrityError when a folder no longer holds the bytes of its digest, BadInput when the
    checkpoints have different tensors. `progress` gets (bytes done, bytes in all).
    """
    sizes = [sum(f.stat().st_size for f in path.glob("*.safetensors")) for _, path in checkpoints]
    # every file is read twice: to be hashed, and to be kept
    done, total = 0, 2 * sum(sizes)

    def hashed(some: int, _: int) -> None:
        progress(done + some, total)

    read = []
    for (digest, path), size in zip(checkpoints, sizes, strict=True):
        read.append(_verified(digest, path, hashed))
        done += size
    layout = Layout.of(read[0].tensors)
    for checkpoint in read[1:]:
        _check_layout(read[0], checkpoint)
    pool_bytes = sum(sizes)
    tier = tier or _fitting_tier(device, pool_bytes, layout.size * buffer_bytes_per_value)
    parents = []
    for checkpoint, size in zip(read, sizes, strict=True):
        parents.append(_resident(checkpoint, layout, tier, device))
        done += size
        progress(done, total)
    return Pool(parents, layout, tier)


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


def _fitting_tier(device: torch.device, pool_bytes: int, buffer_bytes: int) -> Tier:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if pool_bytes + buffer_bytes <= DEVICE_SHARE * free:
            return "device"
        buffer_bytes = 0
    return "host" if pool_bytes + buffer_bytes <= HOST_SHARE * available_memory() else "mapped"


def available_memory() -> int:
    """Bytes that this process may still take: what the machine has and the container allows."""
    bound = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        bound = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        bound = min(bound, int(limit.read_text()) - int(used.read_text()))
    return max(bound, 0)


def _resident(checkpoint: Checkpoint, layout: Layout, tier: Tier, device: torch.device) -> Parent:
    if tier == "mapped":
        return Parent(checkpoint=checkpoint, mapped=_mapped(checkpoint))
    kinds = {info.dtype for info in checkpoint.tensors.values()}
    # values of several dtypes meet exactly in float32
    dtype = FILE_DTYPES[kinds.pop()] if len(kinds) == 1 else torch.float32
    flat = torch.zeros(
        layout.size,
        dtype=dtype,
        device=device if tier == "device" else "cpu",
        pin_memory=tier == "host" and device.type == "cuda",
    )
    for slot in layout.slots:
        info = checkpoint.tensors[slot.name]
        flat[slot.start : slot.start + slot.count].copy_(_read(checkpoint, info))
    return Parent(checkpoint=checkpoint, flat=flat)


def _read(checkpoint: Checkpoint, info: TensorInfo) -> Tensor:
    values = torch.empty(info.count, dtype=FILE_DTYPES[info.dtype])
    with open_regular(checkpoint.path / info.file) as file:
        file.seek(info.start)
        got = file.readinto(values.view(torch.uint8).numpy())  # type: ignore[attr-defined]
    if got != info.end - info.start:
        raise IntegrityError(
            f"tensor {info.name!r} is cut short",
            where=str(checkpoint.path / info.file),
            mend="Restore the file",
        )
    return values


def _mapped(checkpoint: Checkpoint) -> dict[str, Tensor]:
    files = {
        name: torch.from_file(
            str(checkpoint.path / name), shared=False, size=entry.bytes, dtype=torch.uint8
        )
        for name, entry in checkpoint.files.items()
        if name.endswith(".safetensors")
    }
    pieces = {}
    for info in checkpoint.tensors.values():
        raw, dtype = files[info.file][info.start : info.end], FILE_DTYPES[info.dtype]
        # a view needs an aligned start, which the format does not promise
        aligned = info.start % dtype.itemsize == 0
        pieces[info.name] = raw.view(dtype) if aligned else raw.clone().view(dtype)
    return pieces
