"""Forming a candidate: Σ w_i θ_i over flat tensors, and the digest of the result.

The arithmetic is fixed to the bit so that the same recipe gives the same bytes on every device and
with every number of threads. Never touches files and never allocates more than two chunks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

#: as safetensors spells them; only these can be merged
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
#: values formed at a time: small enough for a CPU's cache, large enough to feed a GPU
CPU_CHUNK, GPU_CHUNK = 2**18, 2**26
#: how far from 1 a sum of float32 weights may be that is 1 in exact arithmetic
SUM_TOLERANCE = 1e-6
#: bytes hashed at a time
DIGEST_CHUNK_BYTES = 2**26


def float32_weights(weights: Sequence[float]) -> list[float]:
    """The weights as they are used: rounded to float32. Raises ValueError when none is left."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = [float(np.float32(weight)) for weight in weights]
    if not all(map(math.isfinite, rounded)):
        raise ValueError(f"weights: not finite in float32: {list(weights)}")
    if not any(rounded):
        raise ValueError(f"weights: all zero in float32: {list(weights)}")
    return rounded


def sums_to_one(weights: Sequence[float]) -> bool:
    """Whether the weights as used sum to 1, up to the roundings of their float32 values."""
    return abs(math.fsum(float32_weights(weights)) - 1) <= SUM_TOLERANCE


@torch.inference_mode()
def linear_(
    out: Tensor, parents: Sequence[Tensor], weights: Sequence[float], *, chunk: int | None = None
) -> Tensor:
    """Write Σ w_i θ_i into `out` (1-D; float32, bfloat16 or float16) and return it.

    `parents` are 1-D of the same length, of any of these dtypes, on any device. Parents whose
    weight is 0 in float32 are skipped; acc = fl32(w_0·x_0), then acc = fl32(acc + fl32(w_i·x_i)) in
    the order of the parents: product and sum are rounded separately, because a fused multiply-add
    would make the bytes depend on the device. Where the weights sum to 1 (`sums_to_one`) and the
    parents that are not skipped hold the same bits in an element, the result is that value: what
    is the same everywhere stays as it is. At the end one round-to-nearest-even to `out.dtype`. A
    one-hot weight returns its parent bit for bit, -0.0 included. `chunk` (values formed at a time)
    never changes the result. Raises ValueError when the parts do not fit together.
    """
    _check_parts(out, parents, weights)
    terms = [
        (weight, parent)
        for weight, parent in zip(float32_weights(weights), parents, strict=True)
        if weight != 0
    ]
    exact = sums_to_one(weights)
    size = chunk or (CPU_CHUNK if out.device.type == "cpu" else GPU_CHUNK)
    for start in range(0, out.numel(), size):
        part = slice(start, min(start + size, out.numel()))
        first = terms[0][1][part].to(out.device, torch.float32, copy=True)
        acc, same = first * terms[0][0], torch.ones_like(first, dtype=torch.bool)
        for weight, parent in terms[1:]:
            term = parent[part].to(out.device, torch.float32, copy=True)
            if exact:
                same &= term.view(torch.int32) == first.view(torch.int32)
            acc.add_(term.mul_(weight))
        out[part].copy_(torch.where(same, first, acc) if exact else acc)
    return out


def _check_parts(out: Tensor, parents: Sequence[Tensor], weights: Sequence[float]) -> None:
    if not parents or len(parents) != len(weights):
        raise ValueError(f"weights: {len(weights)} for {len(parents)} parents")
    for name, tensor in [("out", out), *((f"parents[{i}]", p) for i, p in enumerate(parents))]:
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{name}: dtype {tensor.dtype} cannot be merged")
        if tensor.dim() != 1 or tensor.numel() != out.numel():
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected ({out.numel()},)")


@torch.inference_mode()
def all_finite(flat: Tensor, *, chunk: int | None = None) -> bool:
    """Whether a tensor holds neither NaN nor infinity; looks at `chunk` values at a time."""
    size = chunk or (CPU_CHUNK if flat.device.type == "cpu" else GPU_CHUNK)
    return all(bool(piece.isfinite().all()) for piece in flat.reshape(-1).split(size))


def weights_digest(
    tensors: Iterable[tuple[str, Tensor]], *, stop: Callable[[], bool] | None = None
) -> str:
    """SHA-256 (hex) that names the weights of a model: equal digests, equal tensors.

    Over the tensors in sorted name order: the line "name\\0dtype\\0shape\\n" (dtype as safetensors
    spells it, shape as 4,5) and then the hex SHA-256 of the raw little-endian bytes. `stop` is
    asked before each tensor; once it says True, InterruptedError is raised.
    """
    hashes = {}
    for name, tensor in tensors:
        if stop is not None and stop():
            raise InterruptedError("weights_digest: stopped")
        hashes[name] = tensor_hash(name, tensor)
    return digest_of(hashes)


def tensor_hash(name: str, tensor: Tensor) -> str:
    """What one tensor adds to the weights digest. Raises ValueError for other dtypes."""
    if tensor.dtype not in DTYPE_NAMES:
        raise ValueError(f"{name}: dtype {tensor.dtype} has no digest")
    shape = ",".join(map(str, tensor.shape))
    return f"{name}\0{DTYPE_NAMES[tensor.dtype]}\0{shape}\n{_bytes_digest(tensor)}"


def digest_of(hashes: Mapping[str, str]) -> str:
    """The weights digest of tensors whose `tensor_hash` is known, by name."""
    whole = hashlib.sha256()
    for _, text in sorted(hashes.items()):
        whole.update(text.encode())
    return whole.hexdigest()


def _bytes_digest(tensor: Tensor) -> str:
    one = hashlib.sha256()
    flat = tensor.detach().reshape(-1)
    for piece in flat.split(DIGEST_CHUNK_BYTES // flat.element_size()):
        one.update(piece.cpu().view(torch.uint8).numpy())
    return one.hexdigest()
