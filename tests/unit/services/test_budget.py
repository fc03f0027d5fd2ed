"""Budgets: whichever limit comes first, and never a candidate that the rest does not pay for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.spec import Budget
from services.studies.budget import Spent, affordable, used_text

whole = st.integers(0, 500)


def spent(trials: int = 0, **more: float) -> Spent:
    return Spent(**{"trials": trials, "open": 0, "items": 0, "items_each": 10, "seconds": 0} | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "used", "reserved", "left"),
    [
        ({"trials": 7}, spent(3), 0, 4),
        ({"trials": 7}, spent(7), 0, 0),
        ({"item_evaluations": 100}, spent(items=60), 0, 4),
        ({"item_evaluations": 100}, spent(items=61), 0, 3),
        ({"item_evaluations": 100}, spent(items=60, open=1), 2, 1),
        ({"item_evaluations": 100, "trials": 3}, spent(1, items=10), 0, 2),
        ({"item_evaluations": 100}, spent(items=500), 0, 0),
        ({"wall_minutes": 2}, spent(seconds=120), 0, 100),
        ({"wall_minutes": 2}, spent(seconds=120.1), 0, 0),
    ],
)
def test_the_first_limit_counts(limits: dict, used: Spent, reserved: int, left: int) -> None:
    assert affordable(Budget(**limits), used, reserved=reserved) == left


@given(whole, whole, whole, st.integers(0, 20), st.integers(1, 50), whole)
def test_what_is_asked_for_is_paid_for(
    budget: int, items: int, trials: int, open_: int, each: int, reserved: int
) -> None:
    used = spent(trials, items=items, open=open_, items_each=each)
    limits = Budget(trials=1000, item_evaluations=budget + 1)
    left = affordable(limits, used, reserved=reserved)
    assert left >= 0
    total = items + (open_ + reserved + left) * each
    assert left == 0 or total <= budget + 1
    assert left == 1000 - trials or total + each > budget + 1


def test_every_limit_that_is_set_is_shown() -> None:
    used = spent(3, items=12_400, seconds=90)
    assert used_text(Budget(trials=7), used) == ["3 of 7 candidates"]
    limits = Budget(trials=7, item_evaluations=50_000, wall_minutes=2.5)
    assert used_text(limits, used) == [
        "3 of 7 candidates", "12\u202f400 of 50\u202f000 item evaluations", "2 of 2.5 minutes",
    ]  # fmt: skip
