"""How counts, times, rates and roles are written for people, wherever they read. Pure text."""

from __future__ import annotations

from datetime import datetime

#: where there is nothing to say
DASH = "–"
#: a space that does not break
HARD = "\u00a0"
#: rate -> what people call it
RATE_TITLES = {
    "negative_flip_rate": "negative flips",
    "positive_flip_rate": "positive flips",
    "churn": "churn",
    "inconsistency": "inconsistency",
    "backward_trust": "backward trust",
    "backward_error": "backward error",
    "over_refusal": "over-refusal",
    "unsafe_compliance": "unsafe compliance",
}
#: role of a candidate -> what people call it
ROLES = {
    "reference": "reference",
    "single": "checkpoint",
    "uniform": "uniform soup",
    "greedy": "greedy soup",
    "warm": "found by gradients",
    "search": "found",
    "probe": "evaluated after the choice",
}


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent, with a space that does not break: `66.1 %`; a dash where undefined."""
    return DASH if value is None else f"{100 * value:.{digits}f}{HARD}%"


def count(number: int | float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """`0.4 s`, `40 s`, `12 min`, `3 h 20 min`; a dash where nobody knows."""
    if seconds is None:
        return DASH
    seconds = max(seconds, 0)
    if seconds < 60:
        return f"{round(seconds, 1):g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def moment(at: datetime | None) -> str:
    """Date and minute, in UTC."""
    return DASH if at is None else f"{at:%Y-%m-%d %H:%M} UTC"
