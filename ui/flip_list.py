"""Flips item by item as a table of our own: prompts are long and have lines, which grids cut off.

Pure: flips in, HTML out. Every text of an item is escaped; prompts come from users' files.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.studies.read import Flip
from ui import theme, words

PER_PAGE = 20
#: longer prompts are cut in the middle, the end is where the question stands
MOST_CHARACTERS = 1200
KINDS = {
    "negative": ("negative flip", theme.VERMILLION, "right before, wrong now"),
    "positive": ("positive flip", theme.GREEN, "wrong before, right now"),
    "both wrong": ("both wrong", theme.GREY, "wrong before and now, differently"),
}
STYLE = """
<style>
.flips { width: 100%; border-collapse: collapse; font-size: 0.875rem; }
.flips th { text-align: left; font-weight: 600; padding: 6px 10px; white-space: nowrap;
  border-bottom: 1px solid rgba(128, 128, 128, 0.5); }
.flips td { padding: 8px 10px; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.flips td:nth-child(n+3) { min-width: 5.5rem; }
.flips pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8125rem;
  background: none; padding: 0; border: 0; }
.flips .kind { color: white; border-radius: 4px; padding: 1px 7px; white-space: nowrap;
  font-size: 0.75rem; }
.flips .margin, .flips .item { opacity: 0.7; font-size: 0.75rem; white-space: nowrap; }
@media (max-width: 699px) {
  .flips thead { display: none; }
  .flips tr, .flips td { display: block; }
  .flips tr { padding: 8px 0; border-bottom: 1px solid rgba(128, 128, 128, 0.4); }
  .flips td { border: 0; padding: 3px 0; }
  .flips td[data-head]::before { content: attr(data-head); opacity: 0.7; font-size: 0.75rem; }
  /* prompts are as wide as they can be, what is short stands beside its head */
  .flips td:nth-child(n+3) { position: relative; padding-left: 7.5rem; min-height: 1.75rem; }
  .flips td:nth-child(n+3)::before { position: absolute; left: 0; top: 5px; width: 7rem;
    overflow-wrap: anywhere; }
}
</style>
"""


def matching(
    flips: Sequence[Flip], *, suites: Sequence[str], kinds: Sequence[str], text: str
) -> list[Flip]:
    """Flips of those suites and kinds (none named: all) whose texts hold `text`, in any case."""
    wanted = text.casefold().strip()
    return [
        flip
        for flip in flips
        if (not suites or flip.suite in suites)
        and (not kinds or flip.kind in kinds)
        and (
            not wanted
            or wanted
            in f"{flip.item}\n{flip.prompt}\n{flip.gold}\n{flip.old}\n{flip.new}".casefold()
        )
    ]


def flips_html(flips: Sequence[Flip], reference: str) -> str:
    """A table of flips: prompt, gold, the reference's answer, the candidate's answer, margins."""
    heads = ("", "Prompt", "Gold", f"{words.markup(reference)} said", "Candidate says")
    return table(heads, [_cells(flip) for flip in flips])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML cells below HTML heads; where there is little room each cell has its head beside it."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    marks = [f' data-head="{head}"' if head else "" for head in heads]
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'{STYLE}<table class="flips"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _cells(flip: Flip) -> Sequence[str]:
    name, colour, meaning = KINDS[flip.kind]
    kind = f'<span class="kind" style="background:{colour}" title="{meaning}">{name}</span>'
    item = f'<div class="item">{words.markup(flip.suite)} · {words.markup(flip.item)}</div>'
    return (
        kind + item,
        written(flip.prompt),
        written(flip.gold),
        written(flip.old) + _margin(flip.old_margin),
        written(flip.new) + _margin(flip.new_margin),
    )


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def written(text: str) -> str:
    """A prompt or an answer as it stands, its lines kept."""
    # the space that starts an answer is there for the tokenizer
    shown = words.markup(_cut(text.strip())) if text.strip() else "(nothing)"
    return f"<pre>{shown}</pre>"


def _margin(margin: float | None) -> str:
    if margin is None:
        return ""
    return f'<div class="margin">margin {margin:+.2f} nats</div>'
