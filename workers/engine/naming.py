"""Which tensors of a checkpoint make up which tensor of the model.

Mostly one and one, by the same name or without the base model's prefix. Where transformers stacks
tensors while it loads (the experts of a mixture), the model's tensor is several of the checkpoint's
behind each other in memory: the pool lays them out so, and the model's tensor is a view of them.
The rules are those of transformers; what is no stacking is left to be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    rename_source_key,
)

from workers.engine.layout import Cut


@dataclass(frozen=True, kw_only=True)
class Names:
    """The match between a checkpoint's tensors and a model's."""

    #: for every tensor of the model that the checkpoint fills: its parts in the order of memory
    parts: Mapping[str, tuple[str, ...]]
    #: tensors of the checkpoint that are not the model's
    strange: tuple[str, ...]

    @property
    def fused(self) -> tuple[tuple[str, ...], ...]:
        """Tensors that must lie behind each other."""
        return tuple(parts for parts in self.parts.values() if len(parts) > 1)

    def cuts(self, cuts: Mapping[str, Cut], counts: Mapping[str, int]) -> dict[str, Cut]:
        """Cuts of the model's tensors as cuts of the checkpoint's; `counts` are values of those.

        Raises ValueError for a tensor of several parts that is not cut along its flattened values.
        """
        found = {}
        for name, parts in self.parts.items():
            cut = cuts.get(name)
            if cut is None:
                continue
            if len(parts) == 1:
                found[parts[0]] = cut
                continue
            if cut.axis is not None or len(cut.ranges) != 1:
                raise ValueError(f"{name}: made of {len(parts)} tensors, cannot be cut by {cut}")
            [(low, high)] = cut.ranges
            ends = list(accumulate(counts[part] for part in parts))
            for part, end in zip(parts, ends, strict=True):
                start = end - counts[part]
                here = max(low, start) - start, min(high, end) - start
                found[part] = Cut(axis=None, ranges=(here if here[0] < here[1] else (0, 0),))
        return found


def match_names(model: Any, names: Iterable[str]) -> Names:
    """Match the tensors of a checkpoint with the state of a freshly built transformers model."""
    state = model.state_dict(keep_vars=True)
    rules: list[Any] = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    found: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    strange = []
    for name in names:
        key, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        order: tuple[int, ...] | None = ()
        if pattern is not None:
            order = _order(name, pattern, converters)
        if key not in state or order is None:
            strange.append(name)
        else:
            found.setdefault(key, []).append((order, name))
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    return Names(
        parts={key: tuple(name for _, name in sorted(parts)) for key, parts in found.items()},
        strange=tuple(n for n in strange if not any(re.search(rule, n) for rule in ignored)),
    )


def _order(
    name: str, pattern: str, converters: Iterable[WeightConverter]
) -> tuple[int, ...] | None:
    """Where a tensor stands among those that are put together; None: they are not just stacked.

    Stacking lists along a new first axis and then joining the stacks along the second puts all of
    expert 0 before all of expert 1, in the order of the patterns.
    """
    rule = next(rule for rule in converters if pattern in rule.source_patterns)
    kinds = [(type(step), getattr(step, "dim", None)) for step in rule.operations]
    source = rule.source_patterns.index(pattern)
    numbers = tuple(int(number) for number in re.findall(r"(?<=\.)\d+(?=\.)", name))
    if kinds == [(Concatenate, 0)]:
        return (source,)
    if kinds in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
        return (*numbers, source)
    return None


def shape_of(parts: Iterable[tuple[int, ...]], whole: tuple[int, ...]) -> tuple[int, ...] | None:
    """`whole` if parts of these shapes can make it up; None if not."""
    shapes = list(parts)
    if len(shapes) == 1:
        return whole if shapes[0] == whole else None
    fits = sum(map(prod, shapes)) == prod(whole) and all(s[-1] == whole[-1] for s in shapes)
    return whole if fits else None
