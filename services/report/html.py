"""A report as one HTML page that needs nothing else: no network, no script.

Everything that comes from users is escaped here, and the page forbids scripts and foreign content
besides. What is written is also well-formed XML.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from services.report import svg, words
from services.report.blocks import (
    Answers,
    Block,
    Card,
    Cards,
    Cell,
    Code,
    Facts,
    Number,
    Plot,
    Report,
    Section,
    Table,
    Text,
)
from services.report.svg import escape

#: a plot in an image of its own cannot take the colour of the text around it
IMAGE_TEXT = "#767676"
#: of what stands inside a page, whatever is around it
STYLE = """
.report { font-size: 15px; line-height: 1.5; max-width: 1120px; margin: 0 auto; }
.report h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
.report h2 { font-size: 1.2rem; margin: 36px 0 10px; padding: 6px 0 0;
  border-top: 1px solid rgba(128,128,128,.35); }
.report h3 { font-size: .95rem; margin: 18px 0 6px; font-weight: 600; }
.report p { margin: 6px 0; max-width: 75ch; overflow-wrap: anywhere; }
.report .note { font-size: .8125rem; opacity: .75; margin: 4px 0 14px; max-width: 100ch; }
.report .tone { border-left: 4px solid #8A8F98; padding: 2px 0 2px 12px; font-size: 1.06rem; }
.report .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr));
  gap: 12px; margin: 14px 0; }
.report .card { border: 1px solid rgba(128,128,128,.35); border-left-width: 4px; border-radius: 6px;
  padding: 10px 14px; }
.report .good { border-left-color: #009E73; }
.report .bad { border-left-color: #D55E00; }
.report .unsure { border-left-color: #E69F00; }
.report .card b { display: block; font-size: 1.45rem; line-height: 1.3; }
.report .card span, .report .card small { display: block; font-size: .8125rem; opacity: .8; }
.report table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
.report th { text-align: left; font-weight: 600; padding: 5px 12px 5px 0; vertical-align: bottom;
  border-bottom: 1px solid rgba(128,128,128,.6); }
.report td { padding: 5px 12px 5px 0; vertical-align: top; overflow-wrap: break-word;
  border-bottom: 1px solid rgba(128,128,128,.18); }
.report td small { display: block; opacity: .7; white-space: nowrap; font-size: .75rem; }
.report tr.marked td { font-weight: 600; background: rgba(213,94,0,.09); }
.report tr.marked td small { font-weight: 400; }
.report dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 3px 18px;
  font-size: .875rem; margin: 8px 0; padding: 0; }
.report dt { font-weight: 600; }
.report dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.report .plots { display: grid; gap: 14px 26px; margin: 10px 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.report figure { margin: 0; min-width: 0; max-width: 520px; }
.report figure svg, .report figure img { width: 100%; height: auto; display: block; }
.report figcaption { font-size: .875rem; font-weight: 600; margin-bottom: 4px; }
.report pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem;
  unicode-bidi: plaintext; background: none; border: 0; padding: 0; }
.report pre.code { background: rgba(128,128,128,.12); border-radius: 6px; padding: 10px 12px; }
.report summary { cursor: pointer; font-weight: 600; font-size: .9rem; margin: 12px 0 6px; }
.report .table { overflow-x: auto; }
.report .fold { display: none; }
@media screen and (min-width: 841px) and (max-width: 1000px) {
  .report table { font-size: .75rem; }
  .report td, .report th { padding-right: 7px; }
  .report td small { font-size: .66rem; }
}
@media screen and (max-width: 840px) {
  .report h1 { font-size: 1.35rem; }
  .report h2 { margin: 14px 0 4px; }
  .report section { position: relative; }
  .report .fold { display: block; position: absolute; opacity: 0; }
  .report h2 label { display: flex; justify-content: space-between; cursor: pointer; }
  .report h2 label::after { content: "+"; opacity: .7; }
  .report .fold:checked ~ h2 label::after { content: "−"; }
  .report .fold:focus-visible ~ h2 label { outline: 2px solid; outline-offset: 2px; }
  .report .fold:not(:checked) ~ .content { display: none; }
  .report thead { display: none; }
  .report table, .report tbody, .report tr, .report td { display: block; }
  .report tr { padding: 8px 0; border-bottom: 1px solid rgba(128,128,128,.4); }
  .report td { border: 0; padding: 1px 0 1px 42%; min-height: 1.4em; position: relative; }
  .report td::before { content: attr(data-label); position: absolute; left: 0; width: 40%;
    opacity: .7; font-weight: 400; overflow-wrap: anywhere; font-size: .8125rem; }
  .report td:first-child { padding-left: 0; font-weight: 600; }
  .report td:first-child::before { display: none; }
  .report .answers td { padding-left: 0; }
  .report .answers td::before { position: static; display: block; width: auto; }
  .report dl { grid-template-columns: 1fr; gap: 0; }
  .report dd { margin-bottom: 6px; }
}
@media print {
  .report { font-size: .95rem; max-width: none; }
  .report .table { overflow: visible; }
  .report .plots { grid-template-columns: 1fr 1fr; }
  .report tr, .report figure, .report .card { break-inside: avoid; }
  .report h2, .report h3 { break-after: avoid; }
}
"""
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; padding: 28px 24px 60px; color: #1b1e23; background: #fff;
  font-family: system-ui, sans-serif; }
@media (max-width: 640px) { body { padding: 18px 16px 40px; } }
@media (prefers-color-scheme: dark) { body { color: #e4e6ea; background: #15181d; } }
@media print { html { font-size: 10.5px; } body { padding: 0; color: #000; background: #fff; } }
"""
FORBIDDEN = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Report) -> str:
    """The whole page."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{FORBIDDEN}"/>'
        f"<title>{escape(report.title)}</title>"
        f"<style>{PAGE_STYLE}{STYLE}</style></head><body>\n{body(report)}\n</body></html>\n"
    )


def body(report: Report, *, images: bool = False) -> str:
    """The report without a page around it, for places that have one. `images`: plots as images,
    where `<svg>` is not let through; then the style comes along too."""
    head = f"<h1>{escape(report.title)}</h1><p>{escape(report.subtitle)}</p>"
    parts = [_section(s, images, folds=number > 0) for number, s in enumerate(report.sections)]
    style = f"<style>{STYLE}</style>" if images else ""
    return f'<div class="report">{style}{head}' + "\n".join(parts) + "</div>"


def _section(section: Section, images: bool, *, folds: bool) -> str:
    """`folds`: where there is little room only the title is seen at first, until it is touched. A
    box that is ticked, for it works without a script, and neither print nor wide screens know it
    (`<details>` would be closed there too)."""
    blocks = "\n".join(_block(block, images) for block in section.blocks)
    name, title = escape(section.name), escape(section.title)
    box = ""
    if folds:
        box = f'<input type="checkbox" class="fold" id="fold-{name}"/>'
        title = f'<label for="fold-{name}">{title}</label>'
    return (
        f'<section id="{name}">{box}<h2>{title}</h2>\n<div class="content">{blocks}</div></section>'
    )


def _block(block: Block, images: bool) -> str:
    if isinstance(block, Text):
        tone = "" if block.tone == "plain" else f' class="tone {block.tone}"'
        return f"<p{tone}>{_prose(block.text)}</p>"
    if isinstance(block, Cards):
        return f'<div class="cards">{"".join(map(_card, block.cards))}</div>'
    if isinstance(block, Facts):
        facts = (f"<dt>{escape(n)}</dt><dd>{escape(what)}</dd>" for n, what in block.facts)
        return f"<dl>{''.join(facts)}</dl>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Code):
        return _code(block)
    if isinstance(block, Answers):
        return _answers(block)
    return f'<div class="plots">{"".join(_figure(plot, images) for plot in block.plots)}</div>'


def _card(card: Card) -> str:
    title, figure, beside = map(_prose, (card.title, card.figure, card.beside))
    tone = escape(card.tone)
    return (
        f'<div class="card {tone}"><span>{title}</span><b>{figure}</b><small>{beside}</small></div>'
    )


def _prose(text: str) -> str:
    """Escaped; a number keeps its sign of percent, and n what it is."""
    return escape(
        text.replace(" %", f"{words.HARD}%").replace("n = ", f"n{words.HARD}={words.HARD}")
    )


def _figure(plot: Plot, images: bool) -> str:
    drawn = svg.draw(plot)
    if images:
        drawn = f'<img alt="{escape(plot.alt or plot.title)}" src="{image(drawn)}"/>'
    return f"<figure><figcaption>{escape(plot.title)}</figcaption>{drawn}</figure>"


def image(drawn: str) -> str:
    """An SVG as the address of an image, its text in a grey that is read on black and white."""
    coloured = drawn.replace("<svg ", f'<svg color="{IMAGE_TEXT}" ', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(coloured.encode()).decode()}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        marked = ' class="marked"' if number in table.marked else ""
        rows.append(f"<tr{marked}>{_cells(table.columns, [_cell(c) for c in row])}</tr>")
    return (
        _title(table.title)
        + f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        + f"<tbody>{''.join(rows)}</tbody></table></div>"
        + _note(table.note)
    )


def _cells(columns: Sequence[str], cells: Sequence[str]) -> str:
    return "".join(
        f'<td data-label="{escape(name)}">{one}</td>'
        for name, one in zip(columns, cells, strict=True)
    )


def _cell(cell: Cell) -> str:
    if not isinstance(cell, Number):
        return escape(words.cell(cell))
    between = " to " if cell.unit in ("points", "nats change") else "–"
    around = words.interval(cell, between)
    return escape(words.figure(cell)) + (f"<small>{escape(around)}</small>" if around else "")


def _title(text: str) -> str:
    return f"<h3>{escape(text)}</h3>" if text else ""


def _note(text: str) -> str:
    return f'<p class="note">{_prose(text)}</p>' if text else ""


def _code(code: Code) -> str:
    text = f'<pre class="code">{escape(code.text.rstrip())}</pre>'
    if code.folded:
        return f"<details><summary>{escape(code.title)}</summary>{text}</details>"
    return _title(code.title) + text


def _answers(block: Answers) -> str:
    columns = ("Item", "Prompt", "Gold", f"{block.old} said", f"{block.new} says")
    rows = []
    for one in block.answers:
        cells = (
            f"{escape(one.suite)}<small>{escape(one.item)}</small>",
            _pre(one.prompt),
            _pre(one.gold),
            _pre(one.old) + _margin(one.old_margin),
            _pre(one.new) + _margin(one.new_margin),
        )
        rows.append(f"<tr>{_cells(columns, cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    return (
        _title(block.title)
        + f'<div class="table"><table class="answers"><thead><tr>{head}</tr></thead>'
        + f"<tbody>{''.join(rows)}</tbody></table></div>"
        + _note(block.note)
    )


def _pre(text: str) -> str:
    return f"<pre>{escape(text.strip()) or '(nothing)'}</pre>"


def _margin(margin: float | None) -> str:
    return "" if margin is None else f"<small>margin {words.margin(margin)}</small>"
