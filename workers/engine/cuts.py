"""Which part of each tensor DeepSpeed leaves to this rank: asked from its own code, never worked
out again here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.module_inject.layers import TensorParallel_Layer
from torch import nn

from workers.engine.layout import Cut


def flat_cut(parameter: Any, rank: int) -> Cut:
    """ZeRO-3 cuts the flattened values into equal parts and pads the last ones."""
    size = parameter.ds_tensor.numel()
    start = min(rank * size, parameter.ds_numel)
    end = min(start + size, parameter.ds_numel)
    return Cut(axis=None, ranges=((start, end),))


def tensor_cuts(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Cut]:
    """What AutoTP left of each tensor on this rank, found by letting its layers cut indices."""
    cuts = {}
    for prefix, layer in model.named_modules():
        if not isinstance(layer, TensorParallel_Layer):
            continue
        for name in ("weight", "bias"):
            key = f"{prefix}.{name}"
            if getattr(layer, name, None) is None:
                continue
            cut = _cut_of(layer, name, key, shapes)
            if cut is not None:
                cuts[key] = cut
            found = tuple(getattr(layer, name).shape)
            wanted = shapes[key] if cut is None else cut.shape(shapes[key])
            if found != wanted:
                raise AssertionError(f"{key}: AutoTP made {found}, its indices say {wanted}")
    return cuts


def _cut_of(layer: Any, name: str, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Cut | None:
    """The cut of one parameter; None when all of it is here.

    The layer cuts a tensor that holds each value's index along one axis; such a tensor takes no
    memory before it is cut, and none after where the layer only slices.
    """
    found = None
    prefix = key.removesuffix(name)
    for axis, size in enumerate(shapes[key]):
        probes = [
            None if getattr(layer, one, None) is None else _indices(shapes[prefix + one], axis)
            for one in ("weight", "bias")
        ]
        layer._tp_partition(probes)
        probe: Any = probes[0 if name == "weight" else 1]
        line = probe.data
        for other in reversed(range(line.dim())):
            if other != axis and line.shape[other]:
                line = line.select(other, 0)
        kept = line.reshape(-1).tolist()
        if kept != list(range(size)) and line.dim() == 1:
            if found is not None:
                raise AssertionError(f"{key}: cut along two axes")
            found = Cut(axis=axis, ranges=_runs(kept))
    return found


def _indices(shape: tuple[int, ...], axis: int) -> nn.Parameter:
    """A tensor whose values are their own index along `axis` (the last one, if it has fewer)."""
    axis = min(axis, len(shape) - 1)
    line = torch.arange(shape[axis]).view([-1 if i == axis else 1 for i in range(len(shape))])
    return nn.Parameter(line.expand(shape), requires_grad=False)


def _runs(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Indices as ranges [start, stop); an empty one where there are none."""
    runs: list[tuple[int, int]] = [] if indices else [(0, 0)]
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(runs)
