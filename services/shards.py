"""Forming a candidate's tensors piece by piece, straight into safetensors files.

The arithmetic is the engine's (`optim.merge`); what is in memory is one piece of every parent and
one of the result, however large the model is. Imports torch inside its functions only.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from optim.recipe import Recipe
from services.checkpoints import Checkpoint, TensorInfo
from services.checkpoints.files import open_regular
from services.checkpoints.headers import FLOAT_BYTES
from services.errors import IntegrityError, TrialRejected

if TYPE_CHECKING:
    from torch import Tensor

#: values of one tensor formed at a time
PIECE_VALUES = 2**20


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of the weights: its name, its header, and the tensors at their new places."""

    name: str
    header: bytes
    tensors: tuple[TensorInfo, ...]


def plan_shards(
    tensors: Mapping[str, TensorInfo], dtype: str, max_shard_bytes: int
) -> tuple[Shard, ...]:
    """Cut the tensors, in name order, into files of at most `max_shard_bytes` of values.

    A tensor is never cut, so one that is larger gets a file of its own.
    """
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for _, tensor in sorted(tensors.items()):
        size = tensor.count * FLOAT_BYTES[dtype]
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    return tuple(_shard(group, i, len(groups), dtype) for i, group in enumerate(groups, start=1))


def _shard(group: Sequence[TensorInfo], number: int, count: int, dtype: str) -> Shard:
    name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in group:
        end = position + tensor.count * FLOAT_BYTES[dtype]
        entries[tensor.name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map the values: keep them aligned
    first = 8 + len(text)
    placed = tuple(
        replace(
            tensor,
            dtype=dtype,
            file=name,
            start=first + entries[tensor.name]["data_offsets"][0],
            end=first + entries[tensor.name]["data_offsets"][1],
        )
        for tensor in group
    )
    return Shard(name=name, header=struct.pack("<Q", len(text)) + text, tensors=placed)


def combine_digest(shards: Sequence[Shard], hashes: Mapping[str, str]) -> str:
    """The weights digest, from the SHA-256 of every tensor; equals `optim.merge.weights_digest`."""
    whole = hashlib.sha256()
    for tensor in sorted((t for shard in shards for t in shard.tensors), key=lambda t: t.name):
        shape = ",".join(map(str, tensor.shape))
        whole.update(f"{tensor.name}\0{tensor.dtype}\0{shape}\n{hashes[tensor.name]}".encode())
    return whole.hexdigest()


def write_shard(
    path: Path,
    shard: Shard,
    recipe: Recipe,
    parents: Sequence[Checkpoint],
    tick: Callable[[int], None],
) -> dict[str, str]:
    """Form and write the tensors of one file; SHA-256 (hex) of each tensor's bytes by name."""
    import torch

    from optim.merge import all_finite
    from optim.steps import float32_weights

    weights = float32_weights(recipe.weights)
    used = [(parent, weight) for parent, weight in zip(parents, weights, strict=True) if weight]
    hashes = {}
    with path.open("xb") as file, ExitStack() as stack:
        file.write(shard.header)
        opened: dict[Path, IO[bytes]] = {}
        for tensor in shard.tensors:
            digest = hashlib.sha256()
            for piece in _pieces(tensor, used, recipe.dtype, opened, stack):
                if not all_finite(piece):
                    raise TrialRejected(
                        f"tensor {tensor.name!r} overflows {recipe.dtype}",
                        where=f"recipe {recipe.digest[:12]}…",
                        mend="Use smaller weights or a wider dtype",
                    )
                raw = piece.view(torch.uint8).numpy().data
                digest.update(raw)
                file.write(raw)
                tick(len(raw))
            hashes[tensor.name] = digest.hexdigest()
        file.flush()
        os.fsync(file.fileno())
    return hashes


def _pieces(
    tensor: TensorInfo,
    used: Sequence[tuple[Checkpoint, float]],
    dtype: str,
    opened: dict[Path, IO[bytes]],
    stack: ExitStack,
) -> Iterator[Tensor]:
    """The merged tensor as 1-D pieces in order; a piece lives until the next one is asked for."""
    import torch

    from optim.merge import linear_

    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    out = torch.empty(min(PIECE_VALUES, tensor.count), dtype=getattr(torch, dtype))
    sources = [(parent, parent.tensors[tensor.name]) for parent, _ in used]
    buffers = [torch.empty(out.numel(), dtype=kinds[info.dtype]) for _, info in sources]
    for start in range(0, tensor.count, PIECE_VALUES):
        count = min(PIECE_VALUES, tensor.count - start)
        for (parent, info), buffer in zip(sources, buffers, strict=True):
            path = parent.path / info.file
            if path not in opened:
                opened[path] = stack.enter_context(open_regular(path))
            file, size = opened[path], FLOAT_BYTES[info.dtype]
            file.seek(info.start + start * size)
            view = buffer[:count].view(torch.uint8).numpy().data
            if file.readinto(view) != count * size:  # type: ignore[attr-defined]
                raise IntegrityError(
                    f"tensor {tensor.name!r} is cut short",
                    where=str(path),
                    mend="Restore the file from its source",
                )
        linear_(out[:count], [b[:count] for b in buffers], [weight for _, weight in used])
        yield out[:count]
