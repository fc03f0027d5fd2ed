"""Where a label may stand in a plot: beside its point, covering nothing. Pure geometry, in pixels
from the upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: from a point to its label, and how much further away a label may stand
GAP = 11
DISTANCES = (0, 10, 20, 32, 46, 62, 80)


@dataclass(frozen=True)
class Box:
    """An upright rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, r: float) -> Box:
        """The square of a mark."""
        return cls(x - r, y - r, x + r, y + r)

    def meets(self, other: Box) -> bool:
        """They have more than an edge in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """It stands in the other one."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another one."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def free(
    x: float, y: float, width: float, height: float, *, inside: Box, taken: Sequence[Box]
) -> tuple[Box, bool] | None:
    """The nearest place for a label of that size, and whether it stands apart from its point, so
    that a line should lead there; None where there is none."""
    for far in DISTANCES:
        for box in _places(x, y, width, height, GAP + far):
            if box.within(inside) and not any(box.meets(other) for other in taken):
                return box, far > 0
    return None


def _places(x: float, y: float, width: float, height: float, gap: float) -> Iterable[Box]:
    """Right, left, above, below, then the corners."""
    near = gap * 0.7
    right, left, middle = x + gap, x - gap - width, x - width / 2
    for at, top in (
        (right, y - height / 2), (left, y - height / 2),
        (middle, y - gap - height), (middle, y + gap),
        (x + near, y - near - height), (x - near - width, y - near - height),
        (x + near, y + near), (x - near - width, y + near),
    ):  # fmt: skip
        yield Box(at, top, at + width, top + height)
