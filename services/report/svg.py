"""Plots as SVG text of our own: nothing to load, nothing to run, readable in print.

Colours are those of Okabe and Ito, told apart with any colour vision, and every kind of point has a
shape of its own. Lines and text take the colour of the text around them. All text is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.report import words
from services.report.blocks import Bars, Curve, Kind, Plot, Point, Scatter, Unit
from services.report.places import Box, free

WIDTH = 440
HEIGHT = 330
FONT = 12
#: width of a letter, as a share of the font's size: rather too wide than too narrow
LETTER = 0.58
LEFT, RIGHT, TOP = 62, 14, 14
#: room under the axis for its numbers and title, and for each line of the legend
BOTTOM, LEGEND_LINE = 42, 18
ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8A8F98",
)  # fmt: skip
COLOURS: dict[Kind, str] = {
    "chosen": RED, "reference": ORANGE, "parent": SKY, "soup": PURPLE, "front": BLUE,
    "other": GREY, "infeasible": GREY,
}  # fmt: skip
MEANINGS: dict[Kind, str] = {
    "chosen": "this candidate", "reference": "reference", "front": "on the front",
    "parent": "checkpoint", "soup": "soup", "other": "dominated",
    "infeasible": "breaks a constraint",
}  # fmt: skip
#: drawn in this order, so that what matters lies on top
ORDER: tuple[Kind, ...] = (
    "infeasible", "other", "parent", "soup", "front", "reference", "chosen",
)  # fmt: skip


def draw(plot: Plot) -> str:
    """One plot as an `<svg>` element; everything in it is well-formed XML."""
    if isinstance(plot, Scatter):
        return _scatter(plot)
    return _curve(plot) if isinstance(plot, Curve) else _bars(plot)


def escape(text: str) -> str:
    """Text for XML; what cannot be shown, or turns the reading direction, is shown as a mark."""
    return html.escape("".join(map(_visible, text)), quote=True)


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or (code >= 32 and not 127 <= code < 160):
        turns = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F)
        unfit = 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)
        return "\ufffd" if turns or unfit else char
    return "\ufffd"


@dataclass(frozen=True)
class _Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the axis."""
        step = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(step))
        step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= step * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(high) * 0.05, 1e-3)
    return _Axis(low - room, high + room, start, end)


def _tick(value: float, unit: Unit | None) -> str:
    if unit in ("share", "points"):
        return f"{round(100 * value, 6):g}"
    return f"{round(value, 6):g}"


def _open(plot: Plot, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="{FONT}" fill="currentColor">',
        f"<title>{escape(plot.title)}</title><desc>{escape(plot.alt)}</desc>",
    ]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", more: str = "", room: float = 0
) -> str:
    shown = _short(text, room) if room else text
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(shown)}</text>'


def _short(text: str, room: float) -> str:
    """No wider than so many pixels."""
    most = max(3, int(room / (FONT * LETTER)))
    return text if len(text) <= most else text[: most - 1] + "…"


def _frame(
    x: _Axis, y: _Axis, x_unit: Unit | None, y_unit: Unit | None, titles: tuple[str, str]
) -> Iterable[str]:
    """Grid, numbers and titles of both axes."""
    grid = ' stroke="currentColor" stroke-opacity="0.13"'
    for value in x.ticks():
        at = x.at(value)
        yield f'<path d="M{at:.1f} {y.start:.1f}V{y.end:.1f}"{grid}/>'
        yield _text(at, y.start + 15, _tick(value, x_unit), anchor="middle")
    for value in y.ticks():
        at = y.at(value)
        yield f'<path d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"{grid}/>'
        yield _text(x.start - 6, at + 4, _tick(value, y_unit), anchor="end")
    corner = f"M{x.start} {y.end}V{y.start}H{x.end}"
    yield f'<path d="{corner}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>'
    middle, centre = (x.start + x.end) / 2, (y.start + y.end) / 2
    yield _text(middle, y.start + 33, titles[0], anchor="middle", room=x.end - x.start)
    turned = f' transform="rotate(-90 14 {centre:.1f})"'
    yield _text(14, centre, titles[1], anchor="middle", more=turned, room=y.start - y.end)


def _scatter(plot: Scatter) -> str:
    kinds = [kind for kind in MEANINGS if any(p.kind == kind for p in plot.points)]
    lines = _legend_lines(kinds)
    bottom = HEIGHT - BOTTOM
    height = HEIGHT + 6 + LEGEND_LINE * len(lines)
    ends_x = [v for p in plot.points for v in (p.x, *(p.x_range or ()))]
    ends_y = [v for p in plot.points for v in (p.y, *(p.y_range or ()))]
    x = _axis(ends_x, LEFT, WIDTH - RIGHT)
    y = _axis(ends_y, bottom, TOP)
    out = [*_open(plot, height), *_frame(x, y, plot.x_unit, plot.y_unit, (plot.x, plot.y))]
    ranked = sorted(plot.points, key=lambda p: ORDER.index(p.kind))
    out += [_whiskers(p, x, y) for p in ranked if p.x_range or p.y_range]
    out += [
        f"<g>{mark(p.kind, x.at(p.x), y.at(p.y))}"
        + (f"<title>{escape(p.label)}</title>" if p.label else "")
        + "</g>"
        for p in ranked
    ]
    out += _labels(plot.points, x, y)
    for number, line in enumerate(lines):
        at = HEIGHT + 14 + number * LEGEND_LINE
        for kind, left in line:
            out.append(mark(kind, left, at - 4) + _text(left + 12, at, MEANINGS[kind]))
    return "".join([*out, "</svg>"])


def _legend_lines(kinds: Sequence[Kind]) -> list[list[tuple[Kind, float]]]:
    lines: list[list[tuple[Kind, float]]] = [[]]
    left = 16.0
    for kind in kinds:
        width = 28 + len(MEANINGS[kind]) * FONT * LETTER
        if left + width > WIDTH and lines[-1]:
            lines.append([])
            left = 16.0
        lines[-1].append((kind, left))
        left += width
    return lines


def _whiskers(point: Point, x: _Axis, y: _Axis) -> str:
    path = ""
    if point.x_range is not None:
        path += f"M{x.at(point.x_range[0]):.1f} {y.at(point.y):.1f}H{x.at(point.x_range[1]):.1f}"
    if point.y_range is not None:
        path += f"M{x.at(point.x):.1f} {y.at(point.y_range[0]):.1f}V{y.at(point.y_range[1]):.1f}"
    strong = "0.9" if point.kind in ("chosen", "reference") else "0.3"
    return f'<path d="{path}" stroke="{COLOURS[point.kind]}" stroke-opacity="{strong}"/>'


def mark(kind: Kind, x: float, y: float) -> str:
    """The shape of one kind of point."""
    colour = COLOURS[kind]
    edge = 'stroke="currentColor" stroke-width="0.7"'
    if kind == "reference":
        return f'<path d="{_star(x, y, 8)}" fill="{colour}" {edge}/>'
    if kind == "parent":
        place = f'x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
        return f'<rect {place} fill="{colour}" {edge}/>'
    if kind == "soup":
        d = f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
        return f'<path d="{d}" fill="{colour}" {edge}/>'
    if kind == "infeasible":
        d = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
        return f'<path d="{d}" stroke="{colour}" stroke-width="1.3" fill="none"/>'
    if kind == "chosen":
        ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{colour}" '
        ring += 'stroke-width="2"/>'
        return ring + f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    radius, opacity = (4, 1) if kind == "front" else (3, 0.55)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="{opacity}"/>'
    )


def _star(x: float, y: float, r: float) -> str:
    corners = []
    for k in range(10):
        size = r if k % 2 == 0 else r * 0.42
        angle = math.pi * (k / 5 - 0.5)
        corners.append(f"{x + size * math.cos(angle):.1f} {y + size * math.sin(angle):.1f}")
    return f"M{'L'.join(corners)}z"


def _labels(points: Sequence[Point], x: _Axis, y: _Axis) -> Iterable[str]:
    """Every label where it covers neither a mark nor another label; left out where it has no
    such place (the table beside the plot names all)."""
    taken = [box for point in points for box in _covered(point, x, y)]
    inside = Box(x.start + 1, 0, x.end + RIGHT, y.start)
    for point in sorted(points, key=lambda p: -ORDER.index(p.kind)):
        text = _short(point.label, 130)
        px, py = x.at(point.x), y.at(point.y)
        width = len(text) * FONT * LETTER
        found = free(px, py, width, FONT + 2, inside=inside, taken=taken) if text else None
        if found is None:
            continue
        box, apart = found
        taken.append(box)
        if apart:
            to_x, to_y = box.nearest(px, py)
            line = f"M{px:.1f} {py:.1f}L{to_x:.1f} {to_y:.1f}"
            yield f'<path d="{line}" stroke="currentColor" stroke-opacity="0.4"/>'
        yield _text(box.left, box.bottom - 3, text, more=' font-size="11"')


def _covered(point: Point, x: _Axis, y: _Axis) -> Iterable[Box]:
    """What a point's mark covers, and the whiskers of those that matter most."""
    strong = point.kind in ("chosen", "reference")
    px, py = x.at(point.x), y.at(point.y)
    yield Box.around(px, py, 10 if strong else 5)
    if strong and point.x_range:
        yield Box(x.at(point.x_range[0]), py - 1, x.at(point.x_range[1]), py + 1)
    if strong and point.y_range:
        yield Box(px - 1, y.at(point.y_range[1]), px + 1, y.at(point.y_range[0]))


def _curve(plot: Curve) -> str:
    x = _axis([p[0] for p in plot.points], LEFT, WIDTH - RIGHT)
    y = _axis([p[1] for p in plot.points], HEIGHT - BOTTOM, TOP)
    out = [*_open(plot, HEIGHT), *_frame(x, y, None, None, (plot.x, plot.y))]
    path = ""
    for number, (px, py) in enumerate(plot.points):
        path += f"H{x.at(px):.1f}V{y.at(py):.1f}" if number else f"M{x.at(px):.1f} {y.at(py):.1f}"
    out.append(f'<path d="{path}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    return "".join([*out, "</svg>"])


def _bars(plot: Bars) -> str:
    row, right = 24, 56
    names = min(150.0, 8 + max(len(name) for name, _ in plot.bars) * FONT * LETTER)
    height = 12 + row * len(plot.bars)
    values = [value for _, value in plot.bars]
    low, high = min(0.0, *values), max(0.0, *values)
    if high == low:
        high = low + 1.0
    # a negative bar's number stands on its left
    left = names + (right if low < 0 else 4)
    axis = _Axis(low, high, left, WIDTH - right)
    zero = axis.at(0)
    out = _open(plot, height)
    for number, (name, value) in enumerate(plot.bars):
        top = 6 + number * row
        start, end = sorted((zero, axis.at(value)))
        colour = BLUE if value >= 0 else RED
        out.append(_text(names - 4, top + 16, name, anchor="end", room=names - 8))
        size = f'width="{max(end - start, 0.5):.1f}" height="{row - 8}"'
        out.append(f'<rect x="{start:.1f}" y="{top + 4}" {size} fill="{colour}"/>')
        at, anchor = (end + 5, "start") if value >= 0 else (start - 5, "end")
        out.append(_text(at, top + 16, words.weight(value), anchor=anchor))
    line = f"M{zero:.1f} 4V{height - 4}"
    out.append(f'<path d="{line}" stroke="currentColor" stroke-opacity="0.5"/></svg>')
    return "".join(out)
