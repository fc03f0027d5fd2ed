"""What a study has used of its budget, and how many more candidates the rest pays for.

The budget is the search's: validation and test come on top. Item evaluations count every item that
a model answered on the search split, baselines included. A candidate that is under way counts as if
it were scored whole, so the searcher is never asked for one that the rest does not pay for, and
a study that stops candidates early has more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.db import Connection, row
from services.errors import NotFound
from services.spec import Budget
from services.words import count


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the search has used."""

    #: candidates asked of the searcher
    trials: int
    #: evaluations that have not ended, of baselines too
    open: int
    #: items that ended evaluations have scored
    items: int
    #: items of one candidate
    items_each: int
    #: since the study was submitted
    seconds: float


def spent(connection: Connection, study_id: int) -> Spent:
    """What a study's search has used; raises NotFound."""
    found = row(connection, "studies.spent", study=study_id)
    if found is None:
        raise NotFound(f"no study has the number {study_id}", mend="List them: remelt study list")
    return Spent(**found)


def affordable(budget: Budget, used: Spent, *, reserved: int = 0) -> int:
    """How many candidates the searcher may still be asked for, whichever limit comes first.

    `reserved`: baselines that are still to come, which go before them.
    """
    if budget.wall_minutes is not None and used.seconds > budget.wall_minutes * 60:
        return 0
    left = budget.trials - used.trials
    if budget.item_evaluations is not None:
        rest = budget.item_evaluations - used.items - (used.open + reserved) * used.items_each
        left = min(left, rest // max(used.items_each, 1))
    return max(left, 0)


def used_text(budget: Budget, used: Spent) -> list[str]:
    """Every limit that is set with what is used of it: `37 of 100 candidates`."""
    parts = [f"{count(used.trials)} of {count(budget.trials)} candidates"]
    if budget.item_evaluations is not None:
        parts.append(f"{count(used.items)} of {count(budget.item_evaluations)} item evaluations")
    if budget.wall_minutes is not None:
        parts.append(f"{used.seconds / 60:.0f} of {budget.wall_minutes:g} minutes")
    return parts
