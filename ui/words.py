"""How numbers, times and weights are written for people, the same on every page.

Pure text. Shares are written in percent, and a number that has an interval never stands without it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.studies.read import Metric
from services.studies.record import Study
from services.studies.space import mean_of, rows_of
from services.studies.tell import Value
from services.words import DASH as DASH
from services.words import count as count
from services.words import duration as duration
from services.words import moment as date
from services.words import percent as percent

#: weights smaller than this are left out of short texts (never out of tables)
SMALL_WEIGHT = 0.005
UNITS = ("", "k", "M", "G", "T", "P", "E")
#: characters with a meaning in Streamlit's Markdown
MARKDOWN = r"\`*_{}[]()<>#+-.!|~:$^"


def amount(value: float | None, unit: str) -> str:
    """A value in its unit: '%' for shares, else the number with the unit behind it."""
    if value is None:
        return DASH
    return percent(value) if unit == "%" else f"{value:.3f} {unit}".strip()


def interval(metric: Metric | Value | None, unit: str) -> str:
    """The 95 % interval alone: `63.0–69.1 %`; a dash where there is none."""
    if metric is None or metric.low is None or metric.high is None:
        return DASH
    if unit == "%":
        return f"{100 * metric.low:.1f}–{100 * metric.high:.1f}\u00a0%"
    return f"{metric.low:.3f}–{metric.high:.3f} {unit}".strip()


def sure(value: Value) -> str:
    """A share with its 95 % interval: `12.3 % (10.1–14.9 %)`; a dash where it is undefined."""
    if value.value is None:
        return DASH
    return f"{percent(value.value)} ({interval(value, '%')})"


def large(number: float) -> str:
    """A number rounded to what a glance needs: `1.9 million`, `12 400`."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.1f} {name}"
    return count(number)


def short(number: float) -> str:
    """Three digits and a unit: `12.3 M`."""
    step = 0
    while number >= 1000 and step + 1 < len(UNITS):
        number, step = number / 1000, step + 1
    return f"{number:.3g}\u00a0{UNITS[step]}".strip()


def when(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago: `12 min ago`, or the date when it is more than a day."""
    if moment is None:
        return DASH
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds > 86_400:
        return date(moment)
    return f"{duration(seconds)} ago"


def weights(names: Sequence[str], values: Sequence[float], most: int = 5) -> str:
    """`trec 0.42, deployed 0.31, +3 more`, largest first."""
    if len(values) > 1 and max(values) - min(values) < 1e-12:
        return f"{values[0]:.3f} each"
    pairs = sorted(zip(names, values, strict=True), key=lambda pair: -abs(pair[1]))
    shown = [f"{name} {value:.2f}" for name, value in pairs if abs(value) >= SMALL_WEIGHT]
    more = [f"+{len(shown) - most} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + more)


def trial_weights(study: Study, values: Sequence[float], most: int = 5) -> str:
    """Weights of a trial as `weights` writes them; of groups, their mean."""
    groups = len(rows_of(study, values))
    mean = f" (mean of {groups} groups)" if groups > 1 else ""
    return weights(study.pool.names, mean_of(study, values), most) + mean


def stopped(race: Mapping[str, Any]) -> str:
    """Why a race stopped a candidate, and when: `stopped after 61 items: behind trial 4`."""
    items = count(sum(race["seen"].values()))
    by = race["by"]
    why = f"behind trial {by['trial']}" if "trial" in by else f"breaks {by['constraint']}"
    return f"stopped after {items} items: {why}"


def saved(racing: Mapping[str, Any]) -> str:
    """What racing saved: `racing stopped 12 of 40 candidates and saved 31 % of the items`."""
    stopped_ones = f"racing stopped {racing['stopped']} of {racing['candidates']} candidates"
    if racing["saved"] is None:
        return stopped_ones
    return f"{stopped_ones} and saved {percent(racing['saved'], 0)} of the items"


def sentence(text: str) -> str:
    """The first letter large and no other touched, as `str.capitalize` would those of names."""
    return text[:1].upper() + text[1:]


def plain(text: str) -> str:
    """Text for places that read Markdown, shown as it is."""
    escaped = "".join(f"\\{char}" if char in MARKDOWN else char for char in text)
    return " ".join(escaped.split())


def markup(text: str) -> str:
    """Text for places that read HTML (plots and own tables), shown as it is."""
    return html.escape(text, quote=True)
