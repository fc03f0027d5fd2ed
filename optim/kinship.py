"""How alike the checkpoints of a pool are: cosine, Pearson correlation and distance of their task
vectors, d = θ − θ_base (model kinship: Hu et al., 2410.12613).

One pass over the tensors, any number of checkpoints at once: every figure follows from the inner
products and sums of the vectors, added up in float64. Signs are kept: vectors that point away from
each other have negative kinship. Imports torch only where tensors are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: bytes of float64 task vectors that are held at a time, for all checkpoints together
HELD_BYTES = 2**25


@dataclass(frozen=True, kw_only=True, eq=False)
class Kinship:
    """Inner products of k task vectors of n values, and what follows; NaN where undefined."""

    n: int
    #: float64 [k, k]: Σ d_i d_j
    gram: np.ndarray
    #: float64 [k]: Σ d_i
    sums: np.ndarray

    @property
    def norms(self) -> np.ndarray:
        """float64 [k]: L2 length of each task vector."""
        return np.sqrt(np.diag(self.gram))

    @property
    def cosine(self) -> np.ndarray:
        """float64 [k, k]: d_i · d_j / (|d_i| |d_j|); NaN for a checkpoint that is the base."""
        return _normalised(self.gram)

    @property
    def pearson(self) -> np.ndarray:
        """float64 [k, k]: the cosine of the vectors less their means; NaN for a constant vector."""
        centred = self.gram - np.outer(self.sums, self.sums) / self.n
        # what rounding leaves of a constant vector is no direction
        rounding = 1e-12 * np.diag(self.gram)
        centred[np.diag_indices_from(centred)] *= np.diag(centred) > rounding
        return _normalised(centred)

    @property
    def distance(self) -> np.ndarray:
        """float64 [k, k]: |θ_i − θ_j|, to some 1e-8 of the longer of the two vectors."""
        squares = np.diag(self.gram)
        return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * self.gram, 0.0))


def _normalised(products: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    scale = np.outer(lengths, lengths)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip(products / np.where(scale > 0, scale, np.nan), -1.0, 1.0)
    np.fill_diagonal(found, np.where(lengths > 0, 1.0, np.nan))
    return found


class Adding:
    """Adds up inner products tensor by tensor."""

    def __init__(self, members: int) -> None:
        self.n = 0
        self._gram, self._sums = np.zeros((members, members)), np.zeros(members)
        self._step = max(1, HELD_BYTES // (8 * (members + 1)))

    def add(self, base: Tensor, others: Sequence[Tensor]) -> None:
        """Add one tensor of the base and of all others: the same number of values, any floating
        dtype, contiguous. Raises ValueError for other numbers of tensors or values."""
        import torch

        if len(others) != len(self._sums) or any(o.numel() != base.numel() for o in others):
            raise ValueError(
                f"tensors: {[o.numel() for o in others]} values for {len(self._sums)} checkpoints "
                f"of {base.numel()}"
            )
        flat, rest = base.view(-1), [other.view(-1) for other in others]
        for start in range(0, len(flat), self._step):
            part = slice(start, start + self._step)
            ground = flat[part].to(torch.float64)
            held = torch.empty((len(rest), len(ground)), dtype=torch.float64)
            for row, other in zip(held, rest, strict=True):
                torch.sub(other[part], ground, out=row)
            vectors = held.numpy()
            self._gram += vectors @ vectors.T
            self._sums += vectors.sum(axis=1)
        self.n += base.numel()

    def result(self) -> Kinship:
        """What was added so far. Raises ValueError for nothing."""
        if not self.n:
            raise ValueError("tensors: none was added")
        return Kinship(n=self.n, gram=self._gram.copy(), sums=self._sums.copy())
