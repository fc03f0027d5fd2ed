"""A report as Markdown: the same sections; plots are files beside it, or left out.

Everything that comes from users is escaped: marks of Markdown and HTML are shown as they are, and a
cell keeps to its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.report import words
from services.report.blocks import (
    Answers,
    Bars,
    Block,
    Cards,
    Code,
    Facts,
    Plot,
    Plots,
    Report,
    Section,
    Table,
    Text,
)

#: characters with a meaning anywhere in a line, and those with one where a line begins
_MARKS = re.compile(r"([\\`*_\[\]<>|~$&])")
_START = re.compile(r"^([#+=-]|\d+(?=[.)]))")
#: a fence is longer than any run of backticks in its text
FENCE = "```"


def page(report: Report, *, images: bool = True) -> str:
    """The whole text. `images`: plots are named as files, `NAME.svg`, beside it."""
    lines = [f"# {_plain(report.title)}", "", _line(report.subtitle), ""]
    for section in report.sections:
        lines += [*_section(section, images), ""]
    return "\n".join(lines).rstrip() + "\n"


def plots(report: Report) -> list[Plot]:
    """Every plot of a report, in order."""
    blocks = [block for section in report.sections for block in section.blocks]
    return [plot for block in blocks if isinstance(block, Plots) for plot in block.plots]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line, wherever it does not begin one."""
    shown = "".join(char for char in text if char.isprintable() or char.isspace())
    return _MARKS.sub(r"\\\1", " ".join(shown.split()))


def _line(text: str) -> str:
    """The same where a line begins."""
    return _START.sub(lambda found: _begun(found.group()), _plain(text))


def _begun(mark: str) -> str:
    # of a list's number the dot is escaped: digits cannot be
    return f"{mark}\\" if mark.isdigit() else f"\\{mark}"


def _section(section: Section, images: bool) -> Iterator[str]:
    yield f"## {_plain(section.title)}"
    for block in section.blocks:
        yield ""
        yield from _block(block, images)


def _block(block: Block, images: bool) -> Iterator[str]:
    if isinstance(block, Text):
        yield _line(block.text) if block.tone == "plain" else f"**{_plain(block.text)}**"
    elif isinstance(block, Cards):
        for card in block.cards:
            yield f"- {_plain(card.title)}: **{_plain(card.figure)}** ({_plain(card.beside)})"
    elif isinstance(block, Facts):
        yield from (f"- {_plain(name)}: {_plain(what)}" for name, what in block.facts)
    elif isinstance(block, Table):
        rows = [[_plain(words.cell(cell)) for cell in row] for row in block.rows]
        for number in block.marked:
            rows[number][0] = f"**{rows[number][0]}**"
        yield from _titled(block.title, _rows(block.columns, rows), block.note)
    elif isinstance(block, Code):
        yield from _titled(block.title, _fenced(block.text, block.language), "")
    elif isinstance(block, Answers):
        yield from _titled(block.title, _answers(block), block.note)
    else:
        for plot in block.plots:
            yield from _plot(plot, images)


def _titled(title: str, lines: Iterator[str], note: str) -> Iterator[str]:
    if title:
        yield f"### {_plain(title)}"
        yield ""
    yield from lines
    if note:
        yield ""
        yield f"*{_plain(note)}*"


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table; `plain` has escaped pipes and taken line breaks out."""
    yield f"| {' | '.join(_plain(name) for name in columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _fenced(text: str, language: str = "") -> Iterator[str]:
    fence = FENCE
    while fence in text:
        fence += "`"
    yield f"{fence}{language}"
    yield from text.rstrip().split("\n")
    yield fence


def _plot(plot: Plot, images: bool) -> Iterator[str]:
    if images:
        yield f"![{_plain(plot.alt or plot.title)}]({plot.name}.svg)"
        yield ""
    elif isinstance(plot, Bars):
        rows = [[_plain(name), words.weight(value)] for name, value in plot.bars]
        yield from _rows((plot.title, ""), rows)
        yield ""
    elif plot.alt:
        yield f"{_line(plot.title)}: {_plain(plot.alt)}"
        yield ""


def _answers(block: Answers) -> Iterator[str]:
    columns = ("item", "prompt", "gold", f"{block.old} said", f"{block.new} says")
    rows = [
        [
            f"{_plain(one.suite)} {_plain(one.item)}",
            _plain(one.prompt),
            _plain(one.gold),
            _plain(one.old) + _margin(one.old_margin),
            _plain(one.new) + _margin(one.new_margin),
        ]
        for one in block.answers
    ]
    yield from _rows(columns, rows)


def _margin(margin: float | None) -> str:
    return "" if margin is None else f" ({words.margin(margin)})"
