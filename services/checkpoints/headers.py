"""Safetensors headers: names, dtypes, shapes and byte ranges of every tensor of a checkpoint.

Parsed here rather than by a library so that a refusal can name the tensor and the mend; holds the
format's own rules (no holes, no overlaps, nothing after the last tensor) and a lower size limit.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.checkpoints.files import (
    INDEX_NAME,
    SHARD_NAME,
    belonging_files,
    open_regular,
    read_json,
)
from services.errors import CheckpointRefused

HEADER_MAX_BYTES = 10 * 10**6
#: bytes of one value; only these can be merged
FLOAT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies: bytes [start, end) of `file`, row-major, little-endian."""

    name: str
    #: as safetensors spells it: F32, BF16 or F16
    dtype: str
    shape: tuple[int, ...]
    #: bare name of the file, in the checkpoint's folder
    file: str
    start: int
    end: int

    @property
    def count(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


def read_tensors(folder: Path, names: Sequence[str] | None = None) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint in `folder`, by name, sorted; headers only.

    `names` are the folder's `belonging_files` where they are already known. Raises
    CheckpointRefused for shards that are missing, not in the index, or hold a tensor twice.
    """
    names = belonging_files(folder) if names is None else names
    shards = [name for name in names if name.endswith(".safetensors")]
    check_shards(folder, shards)
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for tensor in read_header(folder / shard):
            if tensor.name in tensors:
                raise CheckpointRefused(
                    f"tensor {tensor.name!r} is also in {tensors[tensor.name].file}",
                    where=str(folder / shard),
                    mend="Save the model again with save_pretrained",
                )
            tensors[tensor.name] = tensor
    if INDEX_NAME in names:
        _check_index(folder, tensors)
    return dict(sorted(tensors.items()))


def check_shards(folder: Path, shards: Sequence[str]) -> None:
    """Either one model.safetensors, or all of model-00001-of-N … model-N-of-N."""
    matches = [SHARD_NAME.fullmatch(shard) for shard in shards]
    counts = {match["count"] for match in matches if match}
    if len(counts) != 1:
        raise CheckpointRefused(
            f"holds more than one set of weights: {', '.join(shards[:4])}",
            where=str(folder),
            mend="Keep one: model.safetensors, or the shards of one export",
        )
    (count,) = counts
    if count is None:
        return
    expected = {f"model-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)}
    if missing := sorted(expected - set(shards)):
        raise CheckpointRefused(
            f"shard {missing[0]} is missing", where=str(folder), mend="Copy all shards"
        )
    if extra := sorted(set(shards) - expected):
        raise CheckpointRefused(
            f"there is no shard of that number among {count}",
            where=str(folder / extra[0]),
            mend="Remove it, or copy the checkpoint again",
        )
    if not (folder / INDEX_NAME).exists():
        raise CheckpointRefused(
            f"{INDEX_NAME} is missing, which transformers needs for shards",
            where=str(folder),
            mend="Copy it too, or save the model again with save_pretrained",
        )


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file in the order of their bytes; refuses malformed ones."""

    def refuse(what: str, mend: str = "Copy or export the file again") -> CheckpointRefused:
        return CheckpointRefused(what, where=str(path), mend=mend)

    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size < 8:
            raise refuse(f"is truncated: {size} bytes are no safetensors file")
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_MAX_BYTES:
            raise refuse(
                f"its header claims {length} bytes; the limit is {HEADER_MAX_BYTES // 10**6} MB"
            )
        if 8 + length > size:
            raise refuse("is truncated inside its header")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not a JSON object")
    header.pop("__metadata__", None)
    first = 8 + length
    tensors = [_tensor(path, name, entry, first) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    position = first
    for tensor in tensors:
        if tensor.start != position:
            raise refuse(f"tensor {tensor.name!r} does not start where the one before it ends")
        position = tensor.end
    if position > size:
        raise refuse(f"is truncated: {position - size} of {position} bytes are missing")
    if position < size:
        raise refuse(f"is padded: {size - position} bytes follow the last tensor")
    if not tensors:
        raise refuse("holds no tensors")
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice")
    return data


def _tensor(path: Path, name: str, entry: Any, first: int) -> TensorInfo:
    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)

    if (
        not isinstance(entry, dict)
        or not whole(entry.get("shape"))
        or not whole(entry.get("data_offsets"))
        or len(entry["data_offsets"]) != 2
    ):
        raise CheckpointRefused(
            f"header entry {name!r} has no valid shape and data_offsets",
            where=str(path),
            mend="Export the file again",
        )
    dtype, (start, end) = entry.get("dtype"), entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in FLOAT_BYTES:
        raise CheckpointRefused(
            f"tensor {name!r} is of dtype {dtype}, which cannot be merged",
            where=str(path),
            mend="Export the weights as float32, bfloat16 or float16; quantised weights and "
            "integer buffers are not merged",
        )
    shape = tuple(entry["shape"])
    if end - start != math.prod(shape) * FLOAT_BYTES[dtype]:
        raise CheckpointRefused(
            f"tensor {name!r} of shape {list(shape)} and dtype {dtype} cannot fill "
            f"{end - start} bytes",
            where=str(path),
            mend="Copy or export the file again",
        )
    return TensorInfo(
        name=name, dtype=dtype, shape=shape, file=path.name, start=first + start, end=first + end
    )


def _check_index(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    index = read_json(folder / INDEX_NAME)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    where, mend = str(folder / INDEX_NAME), "Save the model again with save_pretrained"
    if not isinstance(weight_map, dict):
        raise CheckpointRefused("has no weight_map", where=where, mend=mend)
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise CheckpointRefused(
                f"tensor {name!r} points to {str(file)[:200]!r}, not to a shard in this folder",
                where=where,
                mend=mend,
            )
        if name not in tensors or tensors[name].file != file:
            raise CheckpointRefused(
                f"tensor {name!r} is not in {file} as it says", where=where, mend=mend
            )
    if unlisted := sorted(set(tensors) - set(weight_map)):
        raise CheckpointRefused(
            f"does not list tensor {unlisted[0]!r} of {tensors[unlisted[0]].file}",
            where=where,
            mend=mend,
        )
