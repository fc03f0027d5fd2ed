"""Any order of events: workers that claim, write, finish, die and come back, control that advances,
sweeps, pauses and resumes. The invariants hold after every step, and the study always ends."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from optim.recipe import Recipe
from services import evaluations
from services.errors import BadInput
from services.evaluations import Claim
from services.studies import control, probes
from services.studies.advance import advance
from services.studies.probes import Probe
from services.studies.read import OpenSplit
from services.sweep import sweep

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: machine
pool: pair
suites: [pick, say]
objectives: [macro, churn]
search: {method: cma-es, parallelism: 4, options: {population: 4}}
budget: {trials: 6, finalists: 2}
"""
index = st.integers(0, 10**6)


class Life(RuleBasedStateMachine):
    """One study under any sequence of what may happen to it."""

    driver: ClassVar[Driver]
    check: ClassVar[AssertInvariants]

    def __init__(self) -> None:
        super().__init__()
        self.study = self.driver.submit(SPEC)
        #: every claim ever handed out: some holders are dead, some only slow
        self.claims: list[Claim] = []

    @property
    def database(self) -> Any:
        return self.driver.database

    @rule()
    def advance(self) -> None:
        advance(self.database, self.study)

    @rule()
    def sweep(self) -> None:
        sweep(self.database, self.driver.config)

    @rule(pick=index)
    def a_message_arrives(self, pick: int) -> None:
        """For an evaluation of the study in any state, as after a redelivery."""
        found = self.driver.sql(
            "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id "
            "WHERE t.study_id = %s ORDER BY e.state = 'queued' DESC, e.id",
            self.study,
        )
        if found:
            one = found[pick % min(len(found), 6)]["id"]
            held = evaluations.claim(self.database, one, "w", self.driver.config)
            self.claims += [held] if held is not None else []

    @precondition(lambda self: self.claims)
    @rule(pick=index)
    def finishes(self, pick: int) -> None:
        self.driver.finish(self.claims[-1 - pick % min(len(self.claims), 4)])

    @precondition(lambda self: self.claims)
    @rule(pick=index)
    def writes_one_suite(self, pick: int) -> None:
        held = self.claims[-1 - pick % min(len(self.claims), 4)]
        for suite_id, suite in evaluations.load_job(self.database, held).suites[:1]:
            found = self.driver.answers(held, suite)
            evaluations.save_predictions(self.database, held, suite_id, suite, found, {})

    @precondition(lambda self: self.claims)
    @rule(pick=index, retryable=st.booleans())
    def fails(self, pick: int, retryable: bool) -> None:
        held = self.claims[-1 - pick % min(len(self.claims), 4)]
        if held.number:  # without its reference the study would end at once
            self.driver.fail(held, retryable=retryable)

    @precondition(lambda self: self.claims)
    @rule(pick=index)
    def gives_back(self, pick: int) -> None:
        evaluations.LEASES.give_back(self.database, self.claims[-1 - pick % len(self.claims)])

    @precondition(lambda self: self.claims)
    @rule(pick=index)
    def renews(self, pick: int) -> None:
        held = self.claims[-1 - pick % len(self.claims)]
        evaluations.LEASES.renew(self.database, held, 0.5, self.driver.config)

    @rule()
    def leases_run_out(self) -> None:
        # the reference is spared: two dead workers would end the study
        self.driver.sql(
            "UPDATE evaluation e SET lease_until = now() FROM trial t "
            "WHERE t.id = e.trial_id AND t.study_id = %s AND e.state = 'running' "
            "AND t.role <> 'reference'",
            self.study,
        )

    @rule(pause=st.booleans())
    def pauses_or_resumes(self, pause: bool) -> None:
        with contextlib.suppress(BadInput):  # it was so already, or has ended
            (control.pause if pause else control.resume)(self.database, self.study)

    @invariant()
    def invariants_hold(self) -> None:
        type(self).check(self.database, self.study, self.driver.config)

    def teardown(self) -> None:
        """Whatever happened: once workers work again, the study ends."""
        with contextlib.suppress(BadInput):  # nothing is paused
            control.resume(self.database, self.study)
        self.driver.sql("UPDATE evaluation SET lease_until = now() WHERE state = 'running'")
        sweep(self.database, self.driver.config)
        self.driver.run(self.study, order=random.Random(0))
        assert self.driver.study(self.study).state in ("finished", "failed")
        type(self).check(self.database, self.study, self.driver.config)


class Afterwards(Life):
    """A study that has made its choice and is asked for probes."""

    def __init__(self) -> None:
        super().__init__()
        self.driver.run(self.study)
        assert self.driver.study(self.study).state == "finished"

    @rule(pick=st.integers(1, 9), split=st.sampled_from(probes.SPLITS))
    def is_asked_for_probes(self, pick: int, split: OpenSplit) -> None:
        probes.submit(self.database, self.study, self.mixtures()[pick - 1 : pick + 2], split)

    @rule()
    def is_cancelled(self) -> None:
        with contextlib.suppress(BadInput):  # nothing is open
            control.cancel(self.database, self.study)

    def mixtures(self) -> list[Probe]:
        pool = self.driver.study(self.study).pool
        rows = [(1 - i / 32, i / 32) for i in range(1, 12)]
        return [
            Probe(
                recipe=Recipe(parents=pool.digests, weights=row, dtype=pool.dtype),
                weights=row,
                label="a mixture",
            )
            for row in rows
        ]

    def teardown(self) -> None:
        """Once workers work again, every probe that is asked for has ended."""
        super().teardown()
        assert self.driver.study(self.study).state == "finished"
        open_ones = ("queued", "running")
        counts = probes.counts(self.database, self.study)
        assert not [c for c in counts if c["state"] in open_ones]


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, driver: Driver, assert_invariants: AssertInvariants
) -> type[RuleBasedStateMachine]:
    """The machine, bound to this test's database."""
    kind: type[Life] = request.param

    class Bound(kind):  # type: ignore[valid-type, misc]
        pass

    Bound.driver, Bound.check = driver, staticmethod(assert_invariants)
    return Bound


@pytest.mark.parametrize(
    ("machine", "examples"), [(Life, 10), (Afterwards, 8)], indirect=["machine"]
)
def test_any_order_of_events(machine: type[RuleBasedStateMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            # shrinking would take minutes; thirty steps can be read
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
