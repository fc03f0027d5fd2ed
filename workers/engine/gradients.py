"""Gradients of parameters, each handed on as soon as it is there and let go of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from workers.engine.layout import Slot


@dataclass(frozen=True, kw_only=True, eq=False)
class Moving:
    """A tensor that differs between the parents."""

    slot: Slot
    block: int
    #: held parts in the order of the coefficients
    pieces: list[Tensor]


@dataclass(frozen=True, eq=False)
class Hook:
    """Hands a parameter's gradient on, tensor by tensor of the checkpoint, and lets it go."""

    parts: Sequence[Slot]
    moving: Mapping[str, Moving]
    take: Callable[[Moving, Tensor], None]

    def __call__(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        flat, start = parameter.grad.reshape(-1), 0
        parameter.grad = None
        # ZeRO-3 gathers the whole tensor, of which a rank holds a part
        whole = flat.numel() == sum(prod(part.whole) for part in self.parts)
        for part in self.parts:
            size = prod(part.whole) if whole else part.count
            mine = flat[start : start + size]
            start += size
            if part.name in self.moving:
                held = part.take(mine.view(part.whole)) if whole else mine
                self.take(self.moving[part.name], held)
