"""The noise floor: what changes in one model's answers when only the way of computing them does.

A candidate's flips mean something where there are more of them than the reference has against
itself. Never measured on the test split. Compares and stores; what computes is `workers.noise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
from psycopg.types.json import Jsonb

from optim.compatibility import compare
from optim.intervals import wilson
from optim.predictions import Predictions
from services.db import Database
from services.studies.record import Study
from services.suites import Suite
from services.version import code_version

#: batching: other batches, and every row by itself; dtype: another dtype of the forward pass
Variant = Literal["batching", "dtype"]
#: predictions, and their margins before rounding, float32 [N]; None where the form has none
Answers = tuple[Predictions, np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """One suite's answers, computed in the usual way and in another."""

    suite: str
    split: str
    variant: Variant
    #: how both were computed: "usual" and "other", each with batch_tokens, dtype, plain, device, …
    settings: dict[str, Any]
    #: items
    n: int
    #: items whose answer became wrong, became right, changed at all; None for text suites
    negative: int | None = None
    positive: int | None = None
    changed: int | None = None
    #: largest change of a margin, or of a text's log-likelihood, nats; None for generated answers
    largest: float | None = None
    #: every changed answer: item, kind, and the margins before and after
    flips: list[dict[str, Any]] = field(default_factory=list)
    code_version: str = field(default_factory=code_version)
    measured_at: datetime | None = None

    @property
    def how(self) -> str:
        """What was done otherwise, for people."""
        other = self.settings["other"]["dtype"]
        return "with other batching" if self.variant == "batching" else f"in {other}"


def compared(
    suite: Suite,
    split: Literal["search", "validation"],
    variant: Variant,
    settings: dict[str, Any],
    usual: Answers,
    other: Answers,
) -> NoiseFloor:
    """The floor of one suite from what it got in both ways.

    Raises ValueError when the two are not of the same items.
    """
    (old, old_margin), (new, new_margin) = usual, other
    counts = compare(old, new)
    before, after = (old.nll, new.nll) if suite.form == "text" else (old_margin, new_margin)
    known = before is not None and after is not None
    about: dict[str, Any] = {"suite": suite.name, "split": split, "variant": variant}
    about |= {"settings": settings, "n": len(old)}
    about["largest"] = _largest(before, after) if known else None
    if suite.form == "text":
        return NoiseFloor(**about)
    return NoiseFloor(
        **about,
        negative=counts.negative,
        positive=counts.positive,
        changed=counts.changed,
        flips=_flips([item.id for item in suite.split(split)], usual, other),
    )


def _largest(before: np.ndarray | None, after: np.ndarray | None) -> float:
    assert before is not None
    assert after is not None
    return float(np.abs(after.astype(np.float64) - before).max(initial=0.0))


def _flips(items: Sequence[str], usual: Answers, other: Answers) -> list[dict[str, Any]]:
    (old, old_margin), (new, new_margin) = usual, other
    assert old.correct is not None
    assert new.correct is not None
    found = []
    for i in map(int, np.flatnonzero(old.answer != new.answer)):
        was, now = bool(old.correct[i]), bool(new.correct[i])
        if was and now:
            continue  # two right answers are one answer
        kind = "negative" if was else "positive" if now else "both wrong"
        margins = {
            "before": None if old_margin is None else float(old_margin[i]),
            "after": None if new_margin is None else float(new_margin[i]),
        }
        found.append({"item": items[i], "kind": kind, **margins})
    return found


def save(database: Database, checkpoint: str, suite: Suite, floor: NoiseFloor) -> NoiseFloor:
    """Store the floor of a registered checkpoint (by digest) on a registered suite; the floor with
    the time at which it was stored."""
    stored = database.row(
        "noise.insert",
        checkpoint=checkpoint,
        suite=suite.name,
        suite_digest=suite.digest,
        split=floor.split,
        variant=floor.variant,
        settings=Jsonb(floor.settings),
        n=floor.n,
        negative=floor.negative,
        positive=floor.positive,
        changed=floor.changed,
        largest=floor.largest,
        flips=Jsonb(floor.flips),
        code_version=floor.code_version,
    )
    assert stored is not None
    return replace(floor, measured_at=stored["measured_at"])


def of_study(database: Database, study: Study, split: str) -> list[NoiseFloor]:
    """The newest floors of the study's reference on its suites: on `split`, else on another one."""
    digest = study.pool.member(study.reference).digest
    suites = [suite.id for suite in study.suites]
    found = [
        NoiseFloor(**r) for r in database.rows("noise.newest", checkpoint=digest, suites=suites)
    ]
    for wanted in (split, "validation", "search"):
        if here := [floor for floor in found if floor.split == wanted]:
            return here
    return []


def line(database: Database, study: Study, split: str) -> str | None:
    """The floor of a study's reference in one line for people; None before it was measured."""
    scored = [f for f in of_study(database, study, split) if f.changed is not None]
    parts: list[str] = []
    for how in dict.fromkeys(floor.how for floor in scored):
        mine = [floor for floor in scored if floor.how == how]
        verb = "" if parts else " answers change"
        parts.append(_part(mine, verb, [suite.name for suite in study.scored]))
    if not parts:
        return None
    where = f"{study.reference}, {scored[0].split} split"
    return f"noise floor of the reference ({where}): {'; '.join(parts)}"


def _part(floors: Sequence[NoiseFloor], verb: str, suites: Sequence[str]) -> str:
    n, changed, negative = total(floors)
    low, high = wilson(changed, n)
    measured = [floor.suite for floor in floors]
    only = "" if set(measured) == set(suites) else f" on {', '.join(measured)}"
    return (
        f"{changed} of {n}{verb} {floors[0].how}{only} "
        f"(95 % {100 * low:.1f}–{100 * high:.1f} %; {negative} negative)"
    )


def total(floors: Sequence[NoiseFloor]) -> tuple[int, int, int]:
    """Items, changed answers and negative flips of suites that have answers, summed."""
    return (
        sum(floor.n for floor in floors),
        sum(floor.changed or 0 for floor in floors),
        sum(floor.negative or 0 for floor in floors),
    )
