"""From the gradient of a merged tensor to those of its coefficients.

W = Σ c_i W_i, so dL/dc_i = ⟨dL/dW, W_i⟩: one gradient of the size of W is enough for any number of
parents, and nothing of that size is made here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: values multiplied at a time
CHUNK = 2**18


@torch.no_grad()
def coefficient_gradient(
    gradient: Tensor, parents: Sequence[Tensor], *, columns: int | None = None
) -> Tensor:
    """float64 [N, 1], or [N, columns] where every column (of rows of that length) counts by itself.

    `gradient` and `parents` are 1-D of one length, of any dtypes; parents may lie on another
    device. Products are float32, sums of them float64 from chunk to chunk.
    """
    width = columns or 1
    rows = max(CHUNK // width, 1)
    out = torch.zeros(len(parents), width, dtype=torch.float64, device=gradient.device)
    for start in range(0, gradient.numel(), rows * width):
        part = slice(start, start + rows * width)
        mine = gradient[part].float()
        values = (parent[part].to(gradient.device, torch.float32) for parent in parents)
        if columns is None:
            found = torch.stack([torch.dot(mine, value) for value in values])[:, None]
        else:
            found = torch.stack([(mine * value).view(-1, columns).sum(0) for value in values])
        out += found.double()
    return out
