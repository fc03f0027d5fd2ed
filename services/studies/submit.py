"""Submitting a study: one transaction writes the study, its suites and the first hint.

Everything the study depends on is pinned here by digest; nothing is evaluated and no server but
Postgres is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from optim.descent import DESCENTS
from optim.rates import REFUSAL_RATES
from services import outbox, registry, stored_suites
from services.access import User, allow
from services.db import Connection, Database, Row, row, rows
from services.errors import BadInput, SpecRefused
from services.spec import METRICS, Constraint, Groups, Objective, StudySpec, spec_from_dict
from services.studies import earlier
from services.studies.budget import Spent, affordable
from services.studies.space import make_space
from services.version import code_version


@dataclass(frozen=True)
class Submitted:
    """The study's number, and whether this submission made it."""

    study: int
    created: bool


def submit(
    database: Database,
    spec: StudySpec,
    *,
    key: str | None = None,
    owner: str | None = None,
    by: User | None = None,
) -> Submitted:
    """Store a study and wake it up; the same key again returns the first study.

    `by` submits (None: the user of the operating system) and owns it; an admin may name another
    `owner`. Raises Forbidden for a viewer, NotFound for an unknown pool or suite, SpecRefused for
    what does not fit the pool or the suites, BadInput when the key was used for another spec.
    """
    user = allow(by, "submit a study")
    if owner not in (None, user.name):
        allow(user, "submit for somebody else", role="admin")
    with database.transaction() as connection:
        pool = registry.pool(connection, spec.pool)
        reference = check_pool(spec, pool)
        suites = [stored_suites.suite_row(connection, name) for name in spec.suites]
        check_objectives(spec, {suite["name"]: suite["form"] for suite in suites})
        check_budget(spec, pool, sum(suite["search_items"] for suite in suites))
        check_gradients(spec, suites)
        made = row(
            connection,
            "studies.insert",
            key=key,
            name=spec.name,
            owner=user.name if owner is None else owner,
            spec=Jsonb(spec.model_dump(mode="json")),
            pool=pool.id,
            reference=reference,
            code_version=code_version(),
        )
        if made is None:
            return _existing(connection, str(key), spec)
        study = int(made["id"])
        for position, suite in enumerate(suites):
            rows(connection, "studies.add_suite", study=study, position=position, suite=suite["id"])
        rows(connection, "studies.event", study=study, text=f"submitted by {user.name}")
        earlier.choose(connection, study)
        outbox.add(connection, "advance", [study])
    outbox.relay(database)
    return Submitted(study, created=True)


def check_pool(spec: StudySpec, pool: registry.Pool) -> str:
    """The reference of a study on that pool. Raises SpecRefused for a reference or a base outside
    of it, and for a space or groups that do not fit."""
    reference = spec.reference or pool.reference
    if reference not in pool.names:
        raise SpecRefused(
            f"{reference!r} is not in pool {spec.pool!r}",
            where="spec: reference",
            mend=f"Name one of: {', '.join(pool.names)}",
        )
    make_space(spec.search, pool, reference)
    return reference


def check_budget(spec: StudySpec, pool: registry.Pool, items_each: int) -> int:
    """How many candidates the budget pays for after the baselines, at most. Raises SpecRefused
    when it might not pay for one: baselines and greedy soups are evaluated in any case."""
    baselines, greedy = len(pool.members) + 1, len(pool.members) - 1
    used = Spent(trials=0, open=baselines, items=0, items_each=items_each, seconds=0.0)
    if affordable(spec.budget, used, reserved=greedy) < 1:
        raise SpecRefused(
            f"{spec.budget.item_evaluations} does not pay for {baselines} baselines, up to "
            f"{greedy} greedy soups and one candidate, of {items_each} items each",
            where="spec: budget.item_evaluations",
            mend=f"At least {(baselines + greedy + 1) * items_each}, or fewer suites",
        )
    return affordable(spec.budget, used)


def check_objectives(spec: StudySpec, forms: dict[str, str]) -> None:
    """Raise SpecRefused for a metric that a suite's form (by suite name) does not have."""
    scored = [name for name, form in forms.items() if form != "text"]
    both: dict[str, Sequence[Objective | Constraint]] = {
        "objectives": spec.axes,
        "constraints": spec.constraints,
    }
    for field, parts in both.items():
        for index, part in enumerate(parts):
            where = f"spec: {field}.{index}"
            of = forms.values() if part.suite in (None, "each") else [forms[str(part.suite)]]
            if part.metric in REFUSAL_RATES and "refusal" not in of:
                raise SpecRefused(
                    f"{part.metric} needs a suite that expects refusals",
                    where=where,
                    mend="Name one, or add one: remelt suite add (docs/safety.md)",
                )
            if part.suite not in (None, "each") and forms[str(part.suite)] == "text":
                if part.metric != "score":
                    raise SpecRefused(
                        f"suite {part.suite!r} is text: it has a score in nats per token, no flips",
                        where=where,
                        mend=f"Use the suite's score, or one of: {', '.join(scored) or 'none'}",
                    )
            elif part.suite is None and not scored:
                raise SpecRefused(
                    f"{part.metric} needs a suite with right and wrong answers",
                    where=where,
                    mend="Add a multiple-choice or exact-match suite",
                )


def check_gradients(spec: StudySpec, suites: Sequence[Row]) -> None:
    """Raise SpecRefused where a method with gradients meets a suite that has none, or an objective
    that is to become worse."""
    if spec.search.method not in DESCENTS and not spec.search.warm_start:
        return
    if spec.search.groups != Groups():
        raise SpecRefused(
            "searches with gradients have one row of weights, or grains of their own",
            where="spec: search.groups",
            mend="Leave groups out; options.grain of the method gives layers their own weights",
        )
    judged = [suite["name"] for suite in suites if suite["settings"].get("task") is not None]
    if judged:
        raise SpecRefused(
            f"the search needs gradients, and suite {judged[0]!r} is judged by lm-eval",
            where="spec: search",
            mend="Leave the suite out, or use a method without gradients and no warm_start",
        )
    refusing = [suite["name"] for suite in suites if suite["form"] == "refusal"]
    if refusing:
        raise SpecRefused(
            f"the search needs gradients, and whether an answer refuses has none: {refusing[0]!r}",
            where="spec: search",
            mend="Add it as a choice suite (remelt suite add --refusal-likelihood), or use a "
            "method without gradients and no warm_start",
        )
    texts = [suite["name"] for suite in suites if suite["form"] == "text"]
    for index, axis in enumerate(spec.axes):
        better = "minimize" if axis.suite in texts else METRICS[axis.metric]
        if axis.direction not in (None, better):
            raise SpecRefused(
                f"the search goes down a loss, which cannot {axis.direction} {axis.label}",
                where=f"spec: objectives.{index}.direction",
                mend="Leave the direction out, or use a method without gradients",
            )


def _existing(connection: Connection, key: str, spec: StudySpec) -> Submitted:
    found = row(connection, "studies.by_key", key=key)
    assert found is not None
    # read before they are compared: an older release stored fewer keys
    if spec_from_dict(found["spec"]) != spec:
        raise BadInput(
            f"study {found['id']} was submitted with this key and another spec",
            where=f"key {key!r}",
            mend="Use a new key for a changed spec",
        )
    return Submitted(int(found["id"]), created=False)
