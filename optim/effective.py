"""What items in clusters are worth: as many independent items, by the design effect.

Items of one cluster share a context, so n of them say less than n items that have none in common.
The design effect is by how much the variance of a mean is larger where whole clusters are drawn;
n divided by it is the effective size (Kish 1965), and counts divided by it can be judged by the
rules for independent items (Rao & Scott 1992). Sums alone are needed: of all clusters, of clusters
that are drawn several times, and of several suites together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

#: what a single cluster is worth: it says nothing, but it is there
NOTHING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterSums:
    """Sums over clusters c of m_c items whose values add up to x_c; arrays that broadcast."""

    #: clusters that hold an item
    clusters: Any
    #: Σ m
    n: Any
    #: Σ m²
    sizes: Any
    #: Σ x
    total: Any
    #: Σ x²
    squares: Any
    #: Σ x·m
    products: Any
    #: Σ value² over all items
    items: Any

    @classmethod
    def of_shares(cls, hits: np.ndarray, items: np.ndarray) -> ClusterSums:
        """From the hits and items of each cluster: [C] each."""
        x, m = hits.astype(np.float64), items.astype(np.float64)
        return cls(
            clusters=np.count_nonzero(m), n=m.sum(), sizes=m @ m, total=x.sum(), squares=x @ x,
            products=x @ m, items=x.sum(),
        )  # fmt: skip

    @classmethod
    def of_values(cls, values: np.ndarray, at: np.ndarray) -> ClusterSums:
        """From the value of each item and the number of its cluster: [N] each."""
        x, m = np.bincount(at, values), np.bincount(at).astype(np.float64)
        return cls(
            clusters=np.count_nonzero(m), n=m.sum(), sizes=m @ m, total=x.sum(), squares=x @ x,
            products=x @ m, items=values.astype(np.float64) @ values,
        )  # fmt: skip

    def __add__(self, other: ClusterSums) -> ClusterSums:
        """Of two suites together, which have no cluster in common."""
        return ClusterSums(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def shares(self) -> np.ndarray:
        """The effective size, where values are 0 or 1.

        For the spread alone, two clusters more are wholly hit and two wholly missed, as Agresti &
        Coull (1998) add two items of each: clusters that no item was hit in say nothing of how they
        vary, and the bound would be too good. With two, bounds up to 97.5 % rise with the first
        hits.
        """
        mean = self.total / np.maximum(self.n, 1)
        return self._size(_four_of_shares(mean))

    def differences(self) -> np.ndarray:
        """The effective size, where values are −1, 0 or 1: with a cluster more at either end."""
        mean = self.total / np.maximum(self.n, 1)
        return self._size(_two_of_differences(mean))

    def _size(self, more: np.ndarray) -> np.ndarray:
        """`more`: Σ (value − mean)² of one item of each cluster that is added."""
        n = np.maximum(self.n, 1)
        mean, typical = self.total / n, np.maximum(self.sizes / n, 1)
        between = self.squares - 2 * mean * self.products + mean**2 * self.sizes
        within = self.items - n * mean**2
        return np.where(
            self.clusters > 1, n / design_effect(typical, between, within, more), NOTHING
        )


def _four_of_shares(mean: Any) -> Any:
    """Σ (value − mean)² of one item of each cluster that is added: two of 1, two of 0."""
    return 2 * (mean**2 + (1 - mean) ** 2)


def _two_of_differences(mean: Any) -> Any:
    """The same for one cluster of 1 and one of −1."""
    return (1 - mean) ** 2 + (1 + mean) ** 2


def design_effect(typical: Any, between: Any, within: Any, more: Any) -> np.ndarray:
    """At least 1: `between` clusters per `within` items, sums of squares, with `more` added of
    clusters of `typical` size, which is that of the cluster that an item is in on average."""
    whole = more * typical
    return np.maximum((whole * typical + between) / (whole + within), 1.0)


def typical_size(items: np.ndarray, clusters: np.ndarray) -> float:
    """How many of some items, bool [N], are in the cluster of one of them, on average; 1 for none.
    `clusters`: the number of each item's cluster."""
    sizes = np.bincount(clusters, items)
    return float(sizes @ sizes / sizes.sum()) if sizes.any() else 1.0


def best_share(share: Any, n: int, typical: float) -> np.ndarray:
    """The effective size of a share of n items at best: spread evenly over the clusters."""
    within = n * share * (1 - share)
    return n / design_effect(typical, 0.0, within, _four_of_shares(share))


def best_difference(negative: Any, positive: Any, n: int, typical: float) -> np.ndarray:
    """The same for a difference of shares by so many flips to wrong and to right."""
    mean = (negative - positive) / n
    within = np.maximum(negative + positive - n * mean**2, 0)
    return n / design_effect(typical, 0.0, within, _two_of_differences(mean))


def wilson_ends(share: Any, size: Any, z: float) -> tuple[Any, Any]:
    """Both ends of Wilson's (1927) interval of a share of an effective size, which is no whole
    number and may be next to nothing: then (0, 1). Arrays that broadcast."""
    hits, z2 = share * size, z * z
    half = z * np.sqrt(np.maximum(hits * (1 - share), 0) + z2 / 4)
    low, high = (hits + z2 / 2 - half) / (size + z2), (hits + z2 / 2 + half) / (size + z2)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def size_of(share: float, low: float, high: float, z: float) -> float:
    """The effective size whose Wilson interval has these ends, by the one that is further away."""
    end = high if high - share >= share - low else low
    return z * z * end * (1 - end) / max((end - share) ** 2, NOTHING**2)
