"""A few candidates of one study against each other, from their stored answers.

Open splits only; nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optim.compatibility import Compatibility, compare, pooled
from services.db import Database
from services.errors import BadInput, NotFound
from services.studies.read import OpenSplit, refuse_test
from services.studies.record import Study, load_trials, predictions_of

FEWEST, MOST = 2, 6


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What changes for users from each candidate to each other one."""

    #: numbers of the trials that have answers on the split, in the order asked for
    numbers: tuple[int, ...]
    #: (from, to) -> counts over all suites with right and wrong answers
    counts: dict[tuple[int, int], Compatibility]
    #: asked for, but without answers on this split
    missing: tuple[int, ...]


def pairs(
    database: Database, study: Study, numbers: Sequence[int], split: OpenSplit = "search"
) -> Pairs:
    """Compare `FEWEST` to `MOST` trials pairwise.

    Raises BadInput for fewer, more, doubled ones or the test split, NotFound for an unknown one.
    """
    refuse_test(split)
    if not FEWEST <= len(numbers) <= MOST or len(set(numbers)) != len(numbers):
        raise BadInput(
            f"{len(set(numbers))} different candidates",
            where=f"study {study.id}",
            mend=f"Choose {FEWEST} to {MOST}",
        )
    with database.transaction() as connection:
        ids = {t.number: t.id for t in load_trials(connection, study.id, "search")}
        if unknown := [n for n in numbers if n not in ids]:
            raise NotFound(f"study {study.id} has no trial {unknown[0]}")
        by_id = predictions_of(connection, study, [ids[n] for n in numbers], split)
    names = {suite.name for suite in study.suites}
    answers = {n: by_id.get(ids[n], {}) for n in numbers}
    whole = [n for n in numbers if set(answers[n]) == names]
    return Pairs(
        numbers=tuple(whole),
        counts={
            (a, b): pooled(compare(answers[a][name], answers[b][name]) for name in sorted(names))
            for a in whole
            for b in whole
            if a != b
        },
        missing=tuple(n for n in numbers if n not in whole),
    )
