"""What a spec would cost: every check of submitting, and its work counted; nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass

from services import registry, stored_suites
from services.db import Connection, Database, Row
from services.errors import NotFound, SpecRefused
from services.pool_report import PoolReport
from services.pool_report import pool_report as report_of
from services.spec import StudySpec
from services.studies.estimate import tokens_per_item
from services.studies.space import make_space

# one rule for submitting and for looking before
from services.studies.submit import check_budget, check_gradients, check_objectives, check_pool


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """In item evaluations."""

    checkpoints: int
    parameters: int
    reference: str
    #: groups of tensors with weights of their own, and how many weights are free
    groups: int
    free: int
    #: (name, form, search, validation, test items) of every suite
    suites: tuple[tuple[str, str, int, int, int], ...]
    #: reference, single checkpoints and the uniform soup
    baselines: int
    #: steps of the greedy soup, at most
    greedy: int
    #: of the searcher, at most: what the budget pays for
    candidates: int
    #: of one candidate on the search split
    items_per_candidate: int
    #: of the search: baselines, greedy soup at its longest, every candidate of the budget
    items_search: int
    #: of finalists and baselines on validation and test
    items_finals: int
    #: of one candidate on the search split, about
    tokens_per_candidate: float
    #: of the search, about
    tokens_search: float
    #: 'measured' where earlier evaluations of the pool say it for every suite, else 'estimated'
    tokens_how: str
    #: the dtype that candidates are rounded to
    dtype: str
    #: what the checkpoints have in common
    report: PoolReport


def preflight(database: Database, spec: StudySpec) -> Preflight:
    """Check a spec against what is registered, and count its work.

    Raises SpecRefused naming the field, for everything that submitting would refuse.
    """
    with database.transaction() as connection:
        try:
            pool = registry.pool(connection, spec.pool)
        except NotFound as error:
            raise SpecRefused(error.what, where="spec: pool", mend=error.mend) from error
        suites = [_suite(connection, index, name) for index, name in enumerate(spec.suites)]
        report = report_of(connection, pool)
        tokens = [tokens_per_item(connection, pool.id, suite) for suite in suites]
    reference = check_pool(spec, pool)
    space = make_space(spec.search, pool, reference)
    check_objectives(spec, {suite["name"]: suite["form"] for suite in suites})
    check_gradients(spec, suites)
    members = len(pool.members)
    searched = sum(suite["search_items"] for suite in suites)
    finals = sum(suite["validation_items"] + suite["test_items"] for suite in suites)
    baselines, greedy = members + 1, members - 1
    candidates = check_budget(spec, pool, searched)
    items = searched * (baselines + greedy + candidates)
    if spec.budget.item_evaluations is not None:
        items = min(items, spec.budget.item_evaluations)
    each = sum(t.per_item * s["search_items"] for t, s in zip(tokens, suites, strict=True))
    return Preflight(
        tokens_per_candidate=each,
        tokens_search=each * items / max(searched, 1),
        tokens_how="measured" if all(t.how == "measured" for t in tokens) else "estimated",
        dtype=pool.dtype,
        report=report,
        checkpoints=members,
        parameters=pool.members[0].parameters,
        reference=reference,
        groups=space.groups,
        free=space.dimension,
        suites=tuple(
            (s["name"], s["form"], s["search_items"], s["validation_items"], s["test_items"])
            for s in suites
        ),
        baselines=baselines,
        greedy=greedy,
        items_per_candidate=searched,
        candidates=candidates,
        items_search=items,
        items_finals=finals * (baselines + min(spec.budget.finalists, candidates + greedy)),
    )


def _suite(connection: Connection, index: int, name: str) -> Row:
    try:
        return stored_suites.suite_row(connection, name)
    except NotFound as error:
        raise SpecRefused(error.what, where=f"spec: suites.{index}", mend=error.mend) from error
