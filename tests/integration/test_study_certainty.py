"""How sure a study's front is, from the rows of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.cli.front import front_data, print_front
from services.errors import BadInput
from services.studies import certainty
from services.studies.propose import merit

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: sure
pool: tiny
suites: [pick, say, read]
objectives: [macro, negative_flip_rate]
search: {method: random, parallelism: 4}
budget: {trials: 8, finalists: 3}
"""


def test_shares_of_the_front(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    for split in ("search", "validation"):
        shares = certainty.on_the_front(driver.database, study, split)  # type: ignore[arg-type]
        told = {t.number: t for t in driver.trials(number, split) if t.told}
        assert set(shares) == set(told)
        assert all(0 <= share <= 1 for share in shares.values())
        assert sum(shares.values()) >= 1
        front = [shares[n] for n, t in told.items() if t.rank == 1]
        others = [shares[n] for n, t in told.items() if t.rank != 1]
        assert sum(front) / len(front) > sum(others) / len(others)
    data = front_data(driver.database, number)
    assert data["split"] == "validation"
    assert {c["number"]: c["on_the_front"] for c in data["candidates"]} == shares
    print_front(driver.database, number)
    shown = capsys.readouterr().out
    assert all(f"{100 * share:.0f} %" in shown for n, share in shares.items() if told[n].rank == 1)
    with pytest.raises(BadInput, match="sealed"):
        certainty.on_the_front(driver.database, study, "test")  # type: ignore[arg-type]


def test_only_the_best_ranks_of_a_large_study(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certainty, "MOST_CANDIDATES", 4)
    number = driver.submit(SPEC)
    driver.run(number)
    shares = certainty.on_the_front(driver.database, driver.study(number), "search")
    told = sorted((t for t in driver.trials(number) if t.told), key=lambda t: (t.rank, t.number))
    assert set(shares) == {t.number for t in told[:4]}


def test_a_gain_has_its_interval_on_the_same_items(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    told = sorted((t for t in driver.trials(number) if t.told), key=lambda t: merit(study, t))
    worst, best = told[0], told[-1]
    value, low, high = certainty.gain(driver.database, study, "search", best, worst)
    assert value == pytest.approx(merit(study, best) - merit(study, worst))
    assert low < value < high
    back = certainty.gain(driver.database, study, "search", worst, best)
    assert back == pytest.approx((-value, -high, -low))
    assert certainty.gain(driver.database, study, "search", best, best) == (0, 0, 0)
