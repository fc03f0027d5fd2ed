"""Writers of reports: well-formed whatever the names and prompts are, and every text is shown."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.report import html, markdown, save, svg, words
from services.report.blocks import (
    Answers,
    Bars,
    Block,
    Card,
    Cards,
    Code,
    Curve,
    Facts,
    Number,
    Plots,
    Point,
    Report,
    Scatter,
    Section,
    Table,
    Text,
)
from services.studies.read import Flip

RUDE = (
    "</pre><script>alert('x')</script> \" | ``` ![i](http://e.x/p) *b* \x00\x1b\u202e\r\n&lt; <b>"
)
TAGS = {
    "html", "head", "meta", "title", "style", "body", "div", "section", "h1", "h2", "h3", "p", "b",
    "span", "small", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "pre",
    "details", "summary", "figure", "figcaption", "svg", "desc", "path", "text", "g", "rect",
    "circle", "img", "input", "label",
}  # fmt: skip
texts = st.one_of(st.text(max_size=40), st.just(RUDE))
finite = st.floats(-1e3, 1e3, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-3)


def everything(text: str) -> Report:
    """A report whose every text is this one."""
    number = Number(value=0.5, low=0.4, high=0.6, n=9)
    kinds = ("chosen", "reference", "parent", "soup", "front", "other", "infeasible")
    points = [
        Point(x=0.1 * i, y=0.02 * i, kind=kind, label=text)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    ]
    blocks: list[Block] = [
        Text(text=text, tone="good"),
        Cards(cards=[Card(title=text, figure=text, beside=text, tone="bad")]),
        Facts(facts=[(text, text)]),
        Table(columns=[text, text], rows=[[text, number], [None, 3]], title=text, note=text,
              marked=[0]),
        Code(text=text, title=text, language="yaml", folded=True),
        Answers(title=text, old=text, new=text, note=text, answers=[
            Flip(suite=text, item=text, kind="negative", prompt=text, gold=text, old=text, new=text,
                   old_margin=1.0, new_margin=None)]),
        Plots(plots=[
            Scatter(name="front", title=text, x=text, y=text, points=points, alt=text),
            Curve(name="curve", title=text, x=text, y=text, points=[(1, 2), (2, 3)], alt=text),
            Bars(name="bars", title=text, bars=[(text, 0.7), (text, -0.2)], alt=text),
        ]),
    ]  # fmt: skip
    section = Section(name="name", title=text, blocks=blocks)
    return Report(title=text, subtitle=text, sections=[section])


def tags(root: ET.Element) -> set[str]:
    return {element.tag.rpartition("}")[2] for element in root.iter()}


@settings(max_examples=60, deadline=None)
@given(texts)
def test_html_is_well_formed_and_lets_no_text_become_markup(text: str) -> None:
    report = everything(text)
    for shown in (html.page(report), html.page(report).replace("\n", "")):
        root = ET.fromstring(shown)
        assert tags(root) <= TAGS
    for element in root.iter():
        assert not any(
            name.startswith("on") or name in ("href", "srcset") for name in element.attrib
        )
        assert element.attrib.get("src", "data:").startswith("data:")
    assert ET.fromstring(html.body(report, images=True)) is not None


def test_html_shows_the_text_itself() -> None:
    shown = "".join(ET.fromstring(html.page(everything("<i>a</i> & b"))).itertext())
    # title of the page, head, subtitle, section, text, card, facts, table, code, answers, plots
    assert shown.count("<i>a</i> & b") > 25


def test_the_page_forbids_what_it_does_not_need() -> None:
    page = html.page(everything("x"))
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["']?(?!data:)http""", page)
    assert "@import" not in page
    assert "url(" not in page


def unescaped(line: str, mark: str) -> int:
    """How often a mark stands in a line with its meaning."""
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(mark)}", line))


@settings(max_examples=60, deadline=None)
@given(texts)
def test_markdown_keeps_rows_to_their_columns_and_shows_no_html(text: str) -> None:
    written = markdown.page(everything(text))
    # what stands between fences is shown as it is
    fences = re.compile(r"^(`{3,})yaml\n.*?^\1$", re.DOTALL | re.MULTILINE)
    assert len(fences.findall(written)) == 1
    outside = fences.sub("", written)
    assert unescaped(outside, "<") == 0
    rows = [line for line in outside.split("\n") if line.startswith("|")]
    assert {unescaped(line, "|") for line in rows} == {3, 6}


def inside(tokens: Sequence[Token]) -> Iterator[Token]:
    """All tokens, those of lines too."""
    for token in tokens:
        yield token
        yield from inside(token.children or ())


@settings(max_examples=100, deadline=None)
@given(texts.filter(lambda text: any(c.isprintable() and not c.isspace() for c in text)))
def test_a_reader_of_markdown_finds_our_structure_alone(text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = [token.type for token in inside(reader.parse(markdown.page(everything(text))))]
    assert not {"html_block", "html_inline", "link_open", "code_inline", "s_open"} & set(found)
    assert not {"blockquote_open", "ordered_list_open", "code_block", "hr"} & set(found)
    assert found.count("table_open") == 2
    assert found.count("tr_open") == 3 + 2
    assert found.count("image") == 3
    assert found.count("heading_open") == 2 + 3
    assert found.count("fence") == 1


def test_markdown_names_plots_as_files_or_writes_their_data() -> None:
    report = everything("x")
    assert "](bars.svg)" in markdown.page(report)
    without = markdown.page(report, images=False)
    assert ".svg" not in without
    assert "0.700" in without


def test_saved_files_are_all_there(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "deep" / "report"
    written = save(everything(RUDE), folder)
    assert [path.name for path in written[:2]] == ["index.html", "report.md"]
    for path in written:
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_text("utf-8")).attrib["color"]
        if path.suffix == ".md":
            for name in re.findall(r"\]\((\w[\w-]*\.svg)\)", path.read_text("utf-8")):
                assert (folder / name).exists()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=30),
    st.sampled_from(["share", "nats"]),
)
def test_scatters_stay_inside_and_labels_apart(
    places: list[tuple[float, float]], unit: str
) -> None:
    points = [Point(x=x, y=y, kind="parent", label=f"model-{i}") for i, (x, y) in enumerate(places)]
    scatter = Scatter(name="n", title="t", x="x", y="y", points=points, x_unit=unit)  # type: ignore[arg-type]
    root = ET.fromstring(svg.draw(scatter))
    rects = [e for e in root.iter() if e.tag.endswith("rect")]
    assert len(rects) == len(points) + 1  # and the legend's
    for rect in rects:
        assert 0 <= float(rect.attrib["x"]) <= svg.WIDTH - 8
    boxes = []
    for element in root.iter():
        if element.tag.endswith("}text") and (element.text or "").startswith("model-"):
            left, bottom = float(element.attrib["x"]), float(element.attrib["y"])
            width = len(element.text or "") * svg.FONT * svg.LETTER
            assert left >= 0
            assert left + width <= svg.WIDTH + 0.1
            boxes.append((left, bottom - 11, left + width, bottom + 3))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert (
                a[2] <= b[0] + 0.2 or b[2] <= a[0] + 0.2 or a[3] <= b[1] + 0.2 or b[3] <= a[1] + 0.2
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=20))
def test_bars_stay_inside(values: list[float]) -> None:
    bars = Bars(name="n", title="t", bars=[("name", value) for value in values])
    root = ET.fromstring(svg.draw(bars))
    for rect in (e for e in root.iter() if e.tag.endswith("rect")):
        left, width = float(rect.attrib["x"]), float(rect.attrib["width"])
        assert left >= 0
        assert left + width <= svg.WIDTH


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (Number(value=0.661, low=0.63, high=0.6912), "66.1\u00a0% [63.0, 69.1]"),
        (Number(value=-0.0281, low=-0.05, high=0.004, unit="points"),
         "−2.8\u00a0points [−5.0, +0.4]"),
        (Number(value=-0.0001, unit="points"), "0.0\u00a0points"),
        (Number(value=3.0514, low=2.9, high=3.2, unit="nats"),
         "3.051\u00a0nats/token [2.900, 3.200]"),
        (Number(value=None, n=0), "–"),
        (None, "–"),
        (7, "7"),
        ("a", "a"),
    ],
)  # fmt: skip
def test_cells(number: Number | None, shown: str) -> None:
    assert words.cell(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (47, "47 s"), (99.6, "2 min"), (3540, "59 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


def test_only_a_change_that_leaves_zero_out_is_settled() -> None:
    assert Number(value=0.1, low=0.01, high=0.2, unit="points").settled
    assert Number(value=-0.1, low=-0.2, high=-0.01, unit="points").settled
    assert not Number(value=0.1, low=0.0, high=0.2, unit="points").settled
    assert not Number(value=0.1, unit="points").settled
