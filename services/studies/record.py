"""One study as the rest of the code sees it: its row, spec, pool, suites and trials.

Plain reading inside the caller's transaction; no decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from optim.predictions import Form, Predictions
from services import registry
from services.db import Connection, Row, query, row, rows
from services.errors import NotFound
from services.predictions import Seen, unpack, unpack_seen
from services.spec import METRICS, StudySpec, spec_from_dict

Split = Literal["search", "validation", "test"]
#: first key of the advisory locks of studies; the second is the study's number
STUDY_LOCK = 0x5264
CLOSED = ("complete", "stopped", "failed", "abandoned", "cancelled")


@dataclass(frozen=True, kw_only=True)
class StudySuite:
    """A suite as the study pinned it."""

    id: int
    name: str
    form: Form
    digest: str
    search_items: int
    validation_items: int
    test_items: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study with everything it is pinned to."""

    id: int
    name: str
    state: str
    phase: str
    spec: StudySpec
    pool: registry.Pool
    reference: str
    suites: tuple[StudySuite, ...]
    chosen_trial_id: int | None
    failure: str | None
    #: who submitted it
    owner: str = ""
    #: hidden from the list unless asked for
    archived: bool = False

    @property
    def scored(self) -> tuple[StudySuite, ...]:
        """The suites that have right and wrong answers."""
        return tuple(suite for suite in self.suites if suite.form != "text")

    @cached_property
    def signs(self) -> tuple[float, ...]:
        """Per objective, +1 when it is minimised and −1 when it is maximised. Kept: it is asked
        for once a trial, and reading it off the spec takes 0.2 ms."""
        return tuple(1.0 if self.direction(i) == "minimize" else -1.0 for i in range(self.axes))

    @property
    def axes(self) -> int:
        """How many objectives there are."""
        return len(self.spec.axes)

    def direction(self, index: int) -> str:
        """'maximize' or 'minimize' for one objective."""
        axis = self.spec.axes[index]
        if axis.direction:
            return axis.direction
        if axis.metric == "score" and self.form(str(axis.suite)) == "text":
            return "minimize"
        return METRICS[axis.metric]

    def form(self, suite: str) -> Form:
        """The form of one of the study's suites."""
        return next(s.form for s in self.suites if s.name == suite)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial with its evaluation on one split; `objectives` are in the user's directions."""

    id: int
    number: int
    role: str
    slot: str
    label: str
    weights: tuple[float, ...]
    recipe_digest: str
    evaluation_id: int
    state: str
    told: bool
    objectives: tuple[float, ...] | None
    violation: float | None
    rank: int | None
    error: str | None
    #: what a race found of it (see the column's comment); None: it was not raced
    race: dict[str, Any] | None = None

    @property
    def closed(self) -> bool:
        """No worker will touch it any more, and what it scored has been told."""
        return self.state in CLOSED and (self.told or self.state != "complete")


def lock_study(connection: Connection, study_id: int) -> None:
    """Be the only one who changes this study until the transaction ends."""
    rows(connection, "studies.lock", space=STUDY_LOCK, study=study_id)


def load_study(connection: Connection, study_id: int) -> Study:
    """Read a study; raises NotFound."""
    found = row(connection, "studies.get", study=study_id)
    if found is None:
        raise NotFound(f"no study has the number {study_id}", mend="List them: remelt study list")
    return Study(
        id=found["id"],
        name=found["name"],
        state=found["state"],
        phase=found["phase"],
        spec=spec_from_dict(found["spec"], where=f"study {study_id}"),
        pool=registry.pool_by_id(connection, found["pool_id"]),
        reference=found["reference"],
        suites=tuple(
            StudySuite(**{name: s[name] for name in StudySuite.__dataclass_fields__})
            for s in rows(connection, "studies.suites", study=study_id)
        ),
        chosen_trial_id=found["chosen_trial_id"],
        failure=found["failure"],
        owner=found["owner"],
        archived=found["archived_at"] is not None,
    )


def load_trials(connection: Connection, study_id: int, split: Split) -> list[Trial]:
    """The trials that have an evaluation on that split, by number; probes are not among them."""
    found = rows(connection, "studies.trials", study=study_id, split=split)
    return [trial_from_row(one) for one in found]


def trial_from_row(t: Row) -> Trial:
    """A row of `studies.trials`, or of `probes.trials` and `probes.known`."""
    return Trial(
        id=t["id"],
        number=t["number"],
        role=t["role"],
        slot=t["slot"],
        label=t["label"],
        weights=tuple(t["weights"]),
        recipe_digest=t["recipe_digest"],
        evaluation_id=t["evaluation_id"],
        state=t["state"],
        told=t["told_at"] is not None,
        objectives=None if t["objectives"] is None else tuple(t["objectives"]),
        violation=t["violation"],
        rank=t["rank"],
        error=t["error"],
        race=t["race"],
    )


def load_predictions(
    connection: Connection, study: Study, trial_id: int, split: Split
) -> dict[str, Predictions]:
    """Per-item predictions of one trial on one split, by suite name."""
    by_id = {suite.id: suite for suite in study.suites}
    found = rows(connection, "studies.predictions", trial=trial_id, split=split)
    return {
        by_id[r["suite_id"]].name: unpack(by_id[r["suite_id"]].form, r)
        for r in found
        if r["suite_id"] in by_id
    }


def predictions_of(
    connection: Connection,
    study: Study,
    trials: Sequence[int],
    split: Split,
    *,
    options: bool = False,
    texts: bool = False,
) -> dict[int, dict[str, Predictions]]:
    """Predictions of many trials on the study's suites, by trial id and suite name.

    One query, in binary. The log-probabilities of `options` and the generated `texts`, which are
    large, only where they are asked for.
    """
    suites = {suite.id: suite for suite in study.suites}
    values: dict[str, Any] = {"trials": list(trials), "suites": list(suites), "split": split}
    values |= {"options": options, "texts": texts}
    cursor = connection.execute(query("studies.answers"), values, binary=True)
    found: dict[int, dict[str, Predictions]] = {}
    for r in cursor:
        suite = suites[r["suite_id"]]
        found.setdefault(r["trial_id"], {})[suite.name] = unpack(suite.form, r)
    return found


def seen_of(
    connection: Connection, study: Study, trials: Sequence[int]
) -> dict[int, dict[str, Seen]]:
    """What was scored of the suites that stopped trials did not finish, by trial id and suite."""
    by_id = {suite.id: suite for suite in study.suites}
    found: dict[int, dict[str, Seen]] = {}
    for r in rows(connection, "studies.seen_predictions", trials=list(trials)):
        suite = by_id[r["suite_id"]]
        found.setdefault(r["trial_id"], {})[suite.name] = unpack_seen(suite.form, r)
    return found
