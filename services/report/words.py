"""How a report writes numbers, metrics and times. Pure text, escaped by nobody."""

from __future__ import annotations

from services.report.blocks import Cell, Number, Unit
from services.spec import Constraint, Objective
from services.words import DASH as DASH
from services.words import HARD as HARD
from services.words import RATE_TITLES
from services.words import ROLES as ROLES
from services.words import count as count
from services.words import duration as duration
from services.words import moment as moment
from services.words import percent as percent

MINUS = "−"
TITLES = {
    "macro": "mean score",
    **RATE_TITLES,
}


def cell(value: Cell) -> str:
    """A cell in one line: `66.1 % [63.0, 69.1]`."""
    if value is None:
        return DASH
    if isinstance(value, int):  # of items
        return count(value)
    if not isinstance(value, Number):
        return value
    around = interval(value)
    return f"{figure(value)} [{around}]" if around else figure(value)


def figure(number: Number) -> str:
    """The value alone, in its unit."""
    if number.value is None:
        return DASH
    return f"{bare(number.value, number.unit)}{HARD}{SIGNS[number.unit]}"


def interval(number: Number, between: str = ", ") -> str:
    """The two ends of the 95 % interval; '' where there is none."""
    if number.low is None or number.high is None or number.value is None:
        return ""
    return between.join(bare(end, number.unit) for end in (number.low, number.high))


#: what stands behind a value
SIGNS: dict[Unit, str] = {
    "share": "%",
    "points": "points",
    "nats": "nats/token",
    "nats change": "nats/token",
}


def bare(value: float, unit: Unit) -> str:
    """A value without its sign of unit; changes carry + or −."""
    digits = 1 if unit in ("share", "points") else 3
    shown = 100 * value if unit in ("share", "points") else value
    text = f"{abs(shown):.{digits}f}"
    if float(text) == 0:
        return text
    plus = "+" if unit in ("points", "nats change") else ""
    return f"{MINUS}{text}" if shown < 0 else f"{plus}{text}"


def short(value: float) -> str:
    """A number with as many digits as it needs."""
    return f"{value:g}".replace("-", MINUS)


def margin(nats: float) -> str:
    """How much likelier than the best other answer the right one was."""
    return f"{nats:+.2f} nats".replace("-", MINUS)


def weight(value: float) -> str:
    """A weight of a checkpoint."""
    return f"{value:.3f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """`p = 0.031`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def many(number: int, word: str) -> str:
    """`1 item`, `12 items`."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def metric(name: str, suite: str) -> str:
    """`mean score`, `negative flips of trec`; a suite's score is called by the suite."""
    if name == "score":
        return f"score of {suite}" if suite else "score"
    return f"{TITLES[name]} of {suite}" if suite else TITLES[name]


def objective(axis: Objective, direction: str) -> str:
    """`mean score (higher is better)`."""
    way = "higher" if direction == "maximize" else "lower"
    return f"{metric(axis.metric, axis.suite or '')} ({way} is better)"


def constraint(one: Constraint) -> str:
    """`negative flips at most 0.05, with 95 % confidence`, or `score of xstest at most 0.02 worse
    than the reference, …`."""
    suite = "every suite" if one.suite == "each" else (one.suite or "")
    side = "at most" if one.upper else "at least"
    worse = "" if one.at_most_worse is None else " worse than the reference"
    sure = "" if one.confidence is None else f", with {100 * one.confidence:g}{HARD}% confidence"
    return f"{metric(one.metric, suite)} {side} {one.limit:g}{worse}{sure}"


def sentence(text: str) -> str:
    """Beginning with a capital, ending with a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
