"""Forming a candidate's tensors piece by piece, straight into safetensors files.

The arithmetic is the engine's (`optim.merge`). Parents are mapped, so what is in memory is a few
pieces of the result, however large the model is. Imports torch inside its functions only.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optim.recipe import Recipe
from services.checkpoints import Checkpoint, FileInfo, TensorInfo
from services.checkpoints.headers import FLOAT_BYTES
from services.errors import TrialRejected
from services.mapped import map_tensors

if TYPE_CHECKING:
    from torch import Tensor

#: values of one tensor formed at a time
PIECE_VALUES = 2**21


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
) -> tuple[dict[str, str], FileInfo]:
    """Form and write the tensors of one file, hashing what is written in two more threads.

    Gives the SHA-256 (hex) of each tensor's bytes by name, and that of the file. The file is not
    flushed to the disk. `tick` is told the bytes of each piece.
    """
    used = recipe.used(tensor.name for tensor in shard.tensors)
    mapped = {number: map_tensors(parents[number]) for number in used}
    digests, whole = {t.name: hashlib.sha256() for t in shard.tensors}, hashlib.sha256(shard.header)
    size = len(shard.header)
    with path.open("xb") as file, _thread() as by_tensor, _thread() as by_file:
        file.write(shard.header)
        pieces = _Pieces(recipe.dtype)
        for tensor in shard.tensors:
            sources = {number: tensors[tensor.name] for number, tensors in mapped.items()}
            for raw in pieces.formed(tensor, recipe, sources):
                pieces.busy(
                    by_tensor.submit(digests[tensor.name].update, raw),
                    by_file.submit(whole.update, raw),
                )
                file.write(raw)
                size += len(raw)
                tick(len(raw))
    hashes = {name: digest.hexdigest() for name, digest in digests.items()}
    return hashes, FileInfo(sha256=whole.hexdigest(), bytes=size)


def _thread() -> ThreadPoolExecutor:
    """One thread, which does what it is given in order and is waited for at the end."""
    return ThreadPoolExecutor(1, thread_name_prefix="hash")


class _Pieces:
    """A few buffers in turn: a piece is hashed while the next ones are formed."""

    def __init__(self, dtype: str) -> None:
        import torch

        self._buffers = [torch.empty(PIECE_VALUES, dtype=getattr(torch, dtype)) for _ in range(4)]
        self._waiting: deque[tuple[Future[None], ...]] = deque()

    def busy(self, *tasks: Future[None]) -> None:
        """The piece given last may be written again when these are done."""
        self._waiting.append(tasks)

    def formed(
        self, tensor: TensorInfo, recipe: Recipe, sources: Mapping[int, Tensor]
    ) -> Iterator[memoryview[int]]:
        """The merged tensor as pieces of bytes, in order; `sources` are parents by their number."""
        import torch

        columns = recipe.columns.get(tensor.name)
        # whole rows, where every column has a weight of its own
        row = tensor.shape[-1] if columns and tensor.shape else 1
        values = max(PIECE_VALUES // row, 1) * row
        flat = {number: source.reshape(-1) for number, source in sources.items()}
        for start in range(0, tensor.count, values):
            stop = min(start + values, tensor.count)
            while len(self._waiting) >= len(self._buffers):
                for task in self._waiting.popleft():
                    task.result()
            self._buffers.append(self._buffers.pop(0))
            if self._buffers[-1].numel() < stop - start:
                self._buffers[-1] = torch.empty(values, dtype=self._buffers[-1].dtype)
            out = self._buffers[-1][: stop - start]
            parts = {number: source[start:stop] for number, source in flat.items()}
            if not _form(out, parts, recipe, tensor, row):
                raise TrialRejected(
                    f"tensor {tensor.name!r} overflows {recipe.dtype}",
                    where=f"recipe {recipe.digest[:12]}…",
                    mend="Use smaller weights or a wider dtype",
                )
            yield out.view(torch.uint8).numpy().data


def _form(
    out: Tensor, parts: Mapping[int, Tensor], recipe: Recipe, tensor: TensorInfo, row: int
) -> bool:
    import torch

    from optim.merge import linear_
    from optim.steps import linear_columns_

    columns = recipe.columns.get(tensor.name)
    if columns:
        rows = torch.tensor([columns[number] for number in parts], dtype=torch.float32)
        shaped = [part.view(-1, row) for part in parts.values()]
        return linear_columns_(out.view(-1, row), shaped, rows)
    weights = recipe.weights_of(tensor.name)
    return linear_(out, list(parts.values()), [weights[number] for number in parts])
