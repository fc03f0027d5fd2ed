"""The arithmetic of a merge by torch's own operations: any dtype, any device, several passes.

This is the rule that every faster way has to give the same bytes as; how weights are used is
decided here too, once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: values formed at a time: small enough for a CPU's cache, large enough to feed a GPU
CPU_CHUNK, GPU_CHUNK = 2**16, 2**26
#: how far from 1 a sum of float32 weights may be that is 1 in exact arithmetic
SUM_TOLERANCE = 1e-6


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
    return terms_of(tuple(weights)).keeps


@dataclass(frozen=True)
class Terms:
    """One row of weights as it is used; `terms_of` makes it."""

    #: which parents have a weight other than 0
    used: tuple[int, ...]
    #: theirs, rounded to float32
    weights: tuple[float, ...]
    #: whether a value that they share is kept
    keeps: bool


@lru_cache(maxsize=4096)
def terms_of(weights: tuple[float, ...]) -> Terms:
    rounded = float32_weights(weights)
    used = tuple(i for i, weight in enumerate(rounded) if weight)
    return Terms(
        used=used,
        weights=tuple(rounded[i] for i in used),
        keeps=abs(math.fsum(rounded) - 1) <= SUM_TOLERANCE,
    )


@torch.inference_mode()
def form_by_steps(
    outs: Sequence[Tensor],
    parents: Sequence[Tensor],
    rows: Sequence[Terms],
    values: slice,
    chunk: int,
) -> list[bool]:
    """`optim.merge.linear_many_` for the values in a slice; which results are finite [L]."""
    finite = [True] * len(outs)
    for start in range(values.start, values.stop, chunk):
        part = slice(start, min(start + chunk, values.stop))
        for number, (out, row) in enumerate(zip(outs, rows, strict=True)):
            used = (parents[i][part].to(out.device, torch.float32, copy=True) for i in row.used)
            acc = _weighted_sum(used, row.weights, keeps=row.keeps)
            out[part].copy_(acc)
            finite[number] &= bool(out[part].isfinite().all())
    return finite


def _weighted_sum(values: Iterator[Tensor], weights: Sequence[float], *, keeps: bool) -> Tensor:
    """The rule of `linear_` on float32 values, which it may overwrite."""
    first = next(values)
    acc, same = first * weights[0], torch.ones_like(first, dtype=torch.bool)
    for term, weight in zip(values, weights[1:], strict=True):
        if keeps:
            same &= term.view(torch.int32) == first.view(torch.int32)
        acc.add_(term.mul_(weight))
    return torch.where(same, first, acc) if keeps else acc


@torch.inference_mode()
def linear_columns_(out: Tensor, parents: Sequence[Tensor], weights: Tensor) -> bool:
    """`linear_` with a weight per column: `out` and parents [R, C], `weights` [N, C] float32.

    The rule of `linear_` holds in every column by itself; a column whose weights are all 0 becomes
    +0. Whether all of the result is finite. Raises ValueError when the parts do not fit.
    """
    _check_columns(out, parents, weights)
    weights = weights.to(out.device)
    keeps = (weights.double().sum(0) - 1).abs() <= SUM_TOLERANCE
    chunk = CPU_CHUNK if out.device.type == "cpu" else GPU_CHUNK
    rows = max(chunk // max(out.shape[1], 1), 1)
    finite = True
    for start in range(0, out.shape[0], rows):
        part = slice(start, start + rows)
        acc = _columns_sum(out[part], [parent[part] for parent in parents], weights, keeps)
        out[part].copy_(acc)
        finite &= bool(out[part].isfinite().all())
    return finite


def _columns_sum(out: Tensor, parents: Sequence[Tensor], weights: Tensor, keeps: Tensor) -> Tensor:
    used = weights != 0
    # parents that a column does not use add -0, which changes nothing, and differ from nothing
    acc = torch.full_like(out, -0.0, dtype=torch.float32)
    first, same = torch.zeros_like(acc), torch.ones_like(acc, dtype=torch.bool)
    seen = torch.zeros_like(used[0])
    for parent, weight, mine in zip(parents, weights, used, strict=True):
        value = parent.to(out.device, torch.float32)
        first = torch.where(mine & ~seen, value, first)
        same &= ~mine | (value.view(torch.int32) == first.view(torch.int32))
        acc.add_(torch.where(mine, value * weight, -0.0))
        seen = seen | mine
    return torch.where(same & keeps, first, acc).masked_fill_(~seen, 0.0)


def _check_columns(out: Tensor, parents: Sequence[Tensor], weights: Tensor) -> None:
    if out.dim() != 2 or any(parent.shape != out.shape for parent in parents):
        raise ValueError(f"parents: not all of shape {tuple(out.shape)}, two axes")
    if weights.dtype != torch.float32 or weights.shape != (len(parents), out.shape[1]):
        raise ValueError(
            f"weights: {tuple(weights.shape)} {weights.dtype}, expected one float32 for each of "
            f"{len(parents)} parents and {out.shape[1]} columns"
        )
    if not bool(weights.isfinite().all()):
        raise ValueError("weights: not finite in float32")
