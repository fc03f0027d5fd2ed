"""Probes: evaluations that a study is asked for after its choice, to explain or to explore it.

They are claimed, leased, fenced and retried like all others. But they are no candidates: no front,
rank, evidence of a searcher, budget or curve knows them, and the test split stays closed to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from optim.recipe import Recipe
from services import outbox
from services.access import User, allow
from services.db import Connection, Database, Row, row, rows
from services.errors import BadInput
from services.studies.read import OpenSplit, refuse_test
from services.studies.record import Study, Trial, load_study, lock_study, trial_from_row
from services.studies.tell import tell_of

#: splits that may be probed
SPLITS: tuple[OpenSplit, ...] = ("search", "validation")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A recipe to be evaluated."""

    recipe: Recipe
    #: as a trial's: a point of the space, or one weight per checkpoint
    weights: tuple[float, ...]
    #: for people
    label: str


def submit(
    database: Database,
    study_id: int,
    probes: Sequence[Probe],
    split: OpenSplit,
    *,
    by: User | None = None,
) -> dict[str, Trial]:
    """Ask for probes and wake the workers; the trials to be read, by recipe digest.

    A recipe that the study has evaluated on the split, as a probe or otherwise, or is about to, is
    not evaluated again; one that failed or was cancelled is. Raises NotFound; BadInput for a study
    that has not made its choice and for the test split; Forbidden for whoever may not steer it.
    """
    refuse_test(split)
    with database.transaction() as connection:
        lock_study(connection, study_id)
        study = load_study(connection, study_id)
        who = allow(by, f"ask for probes of study {study_id}", owner=study.owner).name
        _check_chosen(study)
        by_digest = {probe.recipe.digest: probe for probe in probes}
        known = look_up(connection, study, list(by_digest), split)
        missing = [probe for digest, probe in by_digest.items() if not _serves(known.get(digest))]
        _insert(connection, study, missing, split)
        if missing:
            text = f"{len(missing)} probes asked for on {split} by {who}"
            rows(connection, "studies.event", study=study_id, text=text)
            known = look_up(connection, study, list(by_digest), split)
    outbox.relay(database)
    return known


def look_up(
    connection: Connection, study: Study, digests: Sequence[str], split: OpenSplit
) -> dict[str, Trial]:
    """The trial to be read for each recipe digest that was ever evaluated on the split."""
    refuse_test(split)
    found: dict[str, Trial] = {}
    for one in rows(connection, "probes.known", study=study.id, digests=digests, split=split):
        found.setdefault(one["recipe_digest"], trial_from_row(one))
    return found


def _serves(trial: Trial | None) -> bool:
    """Whether a trial has results, or will have some."""
    return trial is not None and (trial.told or not trial.closed)


def _check_chosen(study: Study) -> None:
    if study.phase in ("publish", "done") and study.state in ("running", "paused", "finished"):
        return
    ended = study.state in ("failed", "cancelled")
    where = f"is {study.state}" if ended else f"is in its {study.phase} phase"
    raise BadInput(
        f"study {study.id} {where}: probes are evaluated once a study has made its choice",
        mend="Submit it again and let it finish" if ended else "Wait until it has finished",
    )


def _insert(
    connection: Connection, study: Study, probes: Sequence[Probe], split: OpenSplit
) -> None:
    digests = [probe.recipe.digest for probe in probes]
    values = {"study": study.id, "digests": digests, "split": split}
    unused = {r["recipe_digest"]: r["id"] for r in rows(connection, "probes.unused", **values)}
    following = row(connection, "probes.next_number", study=study.id)
    assert following is not None
    number = int(following["number"])
    evaluations = []
    for probe, digest in zip(probes, digests, strict=True):
        trial = unused.get(digest)
        if trial is None:
            made = row(
                connection,
                "studies.insert_trial",
                study=study.id,
                number=number,
                role="probe",
                slot=f"probe.{number}",
                label=probe.label,
                weights=list(probe.weights),
                recipe=Jsonb(probe.recipe.to_dict()),
                recipe_digest=digest,
            )
            assert made is not None
            trial, number = made["id"], number + 1
        queued = row(connection, "studies.insert_evaluation", trial=trial, split=split)
        assert queued is not None
        evaluations.append(int(queued["id"]))
    outbox.add(connection, "evaluate", evaluations)


def tell(connection: Connection, study: Study) -> None:
    """Tell what came in: metrics and objectives against the reference, but no rank."""
    if study.phase not in ("publish", "done"):
        return
    if sum(tell_of(connection, study, split, "probes.untold") for split in SPLITS):
        rows(connection, "studies.touch", study=study.id)


def steer(connection: Connection, study: Study, query: str) -> bool:
    """Pause, resume or cancel the probes of a finished study; whether there were any."""
    return bool(rows(connection, f"probes.{query}", study=study.id))


def load(connection: Connection, study: Study, split: OpenSplit) -> list[Trial]:
    """Every probe on an open split, by number."""
    refuse_test(split)
    found = rows(connection, "probes.trials", study=study.id, split=split)
    return [trial_from_row(one) for one in found]


def counts(database: Database, study_id: int) -> list[Row]:
    """How many probes a study has, by split and state, and whether they are held."""
    return database.rows("probes.counts", study=study_id)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a set of probes is."""

    #: different recipes
    total: int
    #: those with results
    told: int
    #: those that were asked for and will have some
    open: int
    #: those that ended without: (number of the trial, what it is, why)
    failed: tuple[tuple[int, str, str], ...]
    #: probes of the study are paused: what is open waits
    held: bool

    @property
    def ended(self) -> int:
        """Those that nobody need wait for."""
        return self.told + len(self.failed)

    @property
    def missing(self) -> int:
        """Those that asking would have evaluated, once more where they failed."""
        return self.total - self.told - self.open


def standing(
    database: Database, study: Study, probes: Sequence[Probe], split: OpenSplit
) -> Standing:
    """How far these probes are, whoever asked for them."""
    digests = list({probe.recipe.digest for probe in probes})
    with database.transaction() as connection:
        found = look_up(connection, study, digests, split).values()
        held = row(connection, "probes.held", study=study.id)
    failed = [t for t in found if t.closed and not t.told]
    return Standing(
        total=len(digests),
        told=sum(t.told for t in found),
        open=sum(not t.told and not t.closed for t in found),
        failed=tuple((t.number, t.label, t.error or t.state) for t in failed),
        held=bool(held and held["held"]),
    )
