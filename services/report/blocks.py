"""What a report is made of: sections of plain data, which every writer can draw.

No text here is escaped: names, prompts and answers are as they were found. Writers escape
everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.studies.read import Flip

#: share: 0.661 is 66.1 %; points: a change of a share; nats: per token; nats change: a change of it
Unit = Literal["share", "points", "nats", "nats change"]
#: how a sentence or a card is meant
Tone = Literal["plain", "good", "bad", "unsure"]
#: of points in a scatter
Kind = Literal["chosen", "reference", "parent", "soup", "front", "other", "infeasible"]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A figure with its 95 % interval and the items it rests on; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    #: items; None where the table says it elsewhere
    n: int | None = None
    unit: Unit = "share"

    @property
    def settled(self) -> bool:
        """The interval of a change leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


Cell = str | int | Number | None


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One large figure: what it is, the figure, and what stands beside it."""

    title: str
    figure: str
    beside: str
    tone: Tone = "plain"


@dataclass(frozen=True, kw_only=True)
class Cards:
    """A few large figures in a row."""

    cards: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with what they are."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; the first column names the row. `marked` rows are those that matter most."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    #: what must stand beside the numbers: split, items, what is compared
    note: str = ""
    marked: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to be copied, such as a recipe."""

    text: str
    title: str = ""
    language: str = ""
    #: shown only when asked for, where the medium can
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Items side by side: what was asked, what was said before, what is said now."""

    answers: Sequence[Flip]
    old: str
    new: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A candidate in a scatter."""

    x: float
    y: float
    kind: Kind
    #: written beside it; '' for none
    label: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Candidates over two measures, in the units of `Number` (shares are drawn as percent)."""

    #: short name, of a file too
    name: str
    title: str
    x: str
    y: str
    points: Sequence[Point]
    x_unit: Unit = "share"
    y_unit: Unit = "share"
    #: what a reader who cannot see it is told
    alt: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One value after another; steps, since it is known only at the points."""

    name: str
    title: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]
    alt: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Named values from the left, negative ones too."""

    name: str
    title: str
    bars: Sequence[tuple[str, float]]
    alt: str = ""


Plot = Scatter | Curve | Bars


@dataclass(frozen=True, kw_only=True)
class Plots:
    """Plots side by side, where there is room."""

    plots: Sequence[Plot]


Block = Text | Cards | Facts | Table | Code | Answers | Plots


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands under it."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page about one candidate of one study."""

    title: str
    subtitle: str
    sections: Sequence[Section]
