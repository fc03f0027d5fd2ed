"""Where the names of points go so that they do not cover each other.

A greedy choice among a few places around each point, on a canvas of assumed size; pure.
"""

from __future__ import annotations

from collections.abc import Sequence

#: pixels a plot's inside is assumed to have, its width on a telephone, and those of a character
CANVAS = (640.0, 380.0)
NARROW = 250.0
CHARACTER = (6.6, 15.0)
#: plotly's names of places around a point -> direction of the label's centre
PLACES = {
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
}
#: points beyond these are not looked at: placing stays quick
MOST_OBSTACLES = 500
Box = tuple[float, float, float, float]


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """A plotly textposition for each point, in order; earlier points choose first.

    `obstacles` are points that names should not cover, if that can be.
    """

    def pixel(point: tuple[float, float]) -> tuple[float, float]:
        return _scaled(point[0], x_range, CANVAS[0]), _scaled(point[1], y_range, CANVAS[1])

    pixels = [pixel(point) for point in points]
    blocks = [*map(pixel, obstacles[:MOST_OBSTACLES]), *pixels]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in blocks]
    found: list[str] = []
    for (x, y), name in zip(pixels, names, strict=True):
        costs = {where: _cost(x, y, name, way, taken) for where, way in PLACES.items()}
        best = min(costs, key=lambda where: costs[where])
        taken.append(_box(x, y, name, PLACES[best]))
        found.append(best)
    return found


def _scaled(value: float, bounds: tuple[float, float], size: float) -> float:
    low, high = bounds
    return size * (value - low) / (high - low) if high > low else size / 2


def _box(x: float, y: float, name: str, way: tuple[int, int]) -> Box:
    width, height = CHARACTER[0] * len(name), CHARACTER[1]
    gap = 9
    x += way[0] * (gap + width / 2)
    y += way[1] * (gap + height / 2 if way[0] == 0 else height / 2)
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _cost(x: float, y: float, name: str, way: tuple[int, int], taken: Sequence[Box]) -> float:
    """Overlap in pixels², and much more for what leaves the canvas, be it a telephone's."""
    box, narrow = _box(x, y, name, way), _box(x * NARROW / CANVAS[0], y, name, way)
    outside = max(0.0, -narrow[0]) + max(0.0, narrow[2] - NARROW)
    outside += max(0.0, -box[1]) + max(0.0, box[3] - CANVAS[1])
    covered = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    return covered + 100 * outside
