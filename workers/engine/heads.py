"""Keys and values of a head: a prefix that the rows of several batches continue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class Continued(DynamicCache):
    """Keys and values of a head that every row of a batch continues; what rows add is not kept."""

    def __init__(self, head: DynamicCache, length: int) -> None:
        super().__init__()
        self._of_head, self._length = head, length

    def of_layer(self, layer_idx: int) -> HeadOfLayer:
        """One layer's share."""
        layer: Any = self._of_head.layers[layer_idx]
        return HeadOfLayer(layer.keys, layer.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """The head's states of one layer, and the rows' own behind them."""
        return self.of_layer(layer_idx).update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the head."""
        return self._length


class HeadOfLayer:
    """Keys and values of a head of one layer, float [1, heads, H, D] each. Which one that is makes
    no difference to code that was compiled for one of them."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """The head's states, and the rows' own behind them."""
        rows = key_states.shape[0]
        return (
            torch.cat([self._keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self._values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )
