"""Signs that a checkpoint has seen a suite, stored by checkpoint and suite; a merge inherits those
of every parent. Stores and reads; what computes is `workers.leakage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from psycopg.types.json import Jsonb

from optim.leakage import Compared, Reading, grams, nats, signs
from services.db import Database
from services.errors import NotFound
from services.findings import Finding
from services.studies.record import Study, Trial, load_trials
from services.studies.space import cut
from services.suites import Item, Suite
from services.version import code_version

#: a parent with a smaller weight than this has left nothing of what it has seen
PART = 1e-6


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """One checkpoint's reading of a suite beside that of a file of the same form."""

    #: manifest digest
    checkpoint: str
    suite: str
    #: name of the file
    against: str
    #: items of the suite's open splits, and texts of the file
    n: int
    others: int
    #: the same ids in both: item by item
    paired: bool
    nats: Compared
    grams: Compared
    #: of perplexity and 5-grams, those by which the suite is certainly easier
    signs: tuple[str, ...]
    code_version: str = field(default_factory=code_version)
    measured_at: datetime | None = None

    @property
    def flagged(self) -> bool:
        """There is a sign."""
        return bool(self.signs)

    @property
    def what(self) -> str:
        """In a sentence, without the checkpoint's name."""
        parts = [f"5 tokens are continued right {_shares(self.grams)} of the time"]
        if self.nats.own is not None and self.nats.other is not None:
            parts.append(f"{self.nats.own:.3f} nats a token instead of {self.nats.other:.3f}")
        return f"{', '.join(parts)} (beside {self.against})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, but for the date."""
        return {**asdict(self), "flagged": self.flagged}


def _shares(found: Compared) -> str:
    own, other = ("–" if v is None else f"{100 * v:.1f} %" for v in (found.own, found.other))
    return f"{own} instead of {other}"


def text_of(item: Item) -> str:
    """What a model would have seen of an item, whatever its form: the question and the answer."""
    if item.choices:
        return item.context + item.choices[item.gold]
    return item.text or item.prompt + item.target


def open_items(suite: Suite) -> list[Item]:
    """The items that may be read: those of the test split stay sealed."""
    return [item for item in suite.items if suite.split_of(item) != "test"]


def compared(
    checkpoint: str,
    suite: Suite,
    against: str,
    own: Reading,
    other: Reading,
    *,
    paired: bool,
) -> Leakage:
    """What two readings say."""
    by_nats, by_grams = nats(own, other, paired=paired), grams(own, other, paired=paired)
    return Leakage(
        checkpoint=checkpoint,
        suite=suite.name,
        against=against,
        n=len(own.nll),
        others=len(other.nll),
        paired=paired,
        nats=by_nats,
        grams=by_grams,
        signs=tuple(signs([("perplexity", by_nats), ("5-grams", by_grams)])),
    )


def save(database: Database, suite: Suite, found: Leakage, against_digest: str) -> Leakage:
    """Store what was found of a registered checkpoint and suite; with the time of storing."""
    stored = database.row(
        "leakage.insert",
        checkpoint=found.checkpoint,
        suite=suite.name,
        suite_digest=suite.digest,
        against=found.against,
        against_digest=against_digest,
        n=found.n,
        others=found.others,
        paired=found.paired,
        nats=Jsonb(asdict(found.nats)),
        grams=Jsonb(asdict(found.grams)),
        signs=list(found.signs),
        code_version=found.code_version,
    )
    if stored is None:
        raise NotFound(f"suite {suite.name!r} is not registered with these items")
    return replace(found, measured_at=stored["measured_at"])


def of_checkpoints(
    database: Database, checkpoints: Sequence[str], suites: Sequence[int]
) -> list[Leakage]:
    """The newest finding of each checkpoint (by digest), suite (by id) and reference file."""
    found = database.rows("leakage.newest", checkpoints=list(checkpoints), suites=list(suites))
    return [
        Leakage(
            **{
                **one,
                "nats": Compared(**one["nats"]),
                "grams": Compared(**one["grams"]),
                "signs": tuple(one["signs"]),
            }
        )
        for one in found
    ]


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """What a candidate has from one of its parents."""

    parent: str
    #: the largest, in absolute value, of any group
    weight: float
    leakage: Leakage


def of_candidate(database: Database, study: Study, trial: Trial) -> list[Inherited]:
    """The flags of a candidate: those of every parent that has a part in it, the worst first for
    each suite of the study. What a parent has seen may show in every merge of it."""
    rows = np.abs(np.array(cut(trial.weights, len(study.pool.members))))
    parents = {
        member.digest: (member.name, weight)
        for member, weight in zip(study.pool.members, rows.max(axis=0).tolist(), strict=True)
        if weight > PART
    }
    found = of_checkpoints(database, list(parents), [suite.id for suite in study.suites])
    flagged = [
        Inherited(
            parent=parents[one.checkpoint][0],
            weight=parents[one.checkpoint][1],
            leakage=one,
        )
        for one in found
        if one.flagged
    ]
    return sorted(flagged, key=lambda one: (one.leakage.suite, -_severity(one.leakage)))


def _severity(found: Leakage) -> float:
    return (found.grams.easier or 0.0) + (found.nats.easier or 0.0)


def findings(database: Database, study: Study) -> list[Finding]:
    """One for each suite of a study that a checkpoint of its pool seems to have seen."""
    names = {member.digest: member.name for member in study.pool.members}
    found = of_checkpoints(database, list(names), [suite.id for suite in study.suites])
    worst: dict[str, Leakage] = {}
    seen: dict[str, list[str]] = {}
    for one in sorted((one for one in found if one.flagged), key=_severity):
        worst[one.suite] = one
        seen.setdefault(one.suite, []).append(names[one.checkpoint])
    return [
        Finding(
            kind="leakage",
            what=f"{', '.join(dict.fromkeys(reversed(seen[suite])))} may have seen {suite} "
            f"({names[one.checkpoint]}: {one.what}); merges inherit it",
            mend="Judge by items that were written later, or leave such checkpoints out",
        )
        for suite, one in worst.items()
    ]


def of_trial(database: Database, study: Study, number: int) -> list[Inherited]:
    """`of_candidate` by the trial's number; raises NotFound."""
    with database.transaction() as connection:
        trials = load_trials(connection, study.id, "search")
    trial = next((t for t in trials if t.number == number), None)
    if trial is None:
        raise NotFound(f"study {study.id} has no trial {number}")
    return of_candidate(database, study, trial)
