"""Agreement beyond chance: by hand, against its authors' code, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lmsim.metrics import CAPA, EC
from sklearn.metrics import cohen_kappa_score

from optim.agreement import (
    Agreement,
    capa,
    error_consistency,
    gold_probability,
    option_probabilities,
)
from optim.predictions import option_log_probabilities


def options(rows: list[list[float]]) -> np.ndarray:
    """From probabilities."""
    with np.errstate(divide="ignore"):
        return option_log_probabilities([np.log(np.array(row)) for row in rows])


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models' options and gold, of items with two to four options."""
    rng = np.random.default_rng(seed)
    many = rng.integers(2, 5, n)
    found = [option_log_probabilities([rng.normal(0, 2, k) for k in many], 4) for _ in range(2)]
    return found[0], found[1], np.array([rng.integers(k) for k in many])


def rows_of(table: np.ndarray) -> list[np.ndarray]:
    found = [np.exp(row[row > -np.inf].astype(np.float64)) for row in table]
    return [row / row.sum() for row in found]


def test_an_example_by_hand() -> None:
    old, new = options([[0.75, 0.25], [0.5, 0.5]]), options([[0.5, 0.5], [0.25, 0.75]])
    gold = np.array([0, 1])
    # observed: (.375 + .125 + .125 + .375) / 2 = .5; P1 = .625, P2 = .625, one other option
    expected = 0.625**2 + 0.375**2
    found = capa(old, new, gold)
    assert found.value == pytest.approx((0.5 - expected) / (1 - expected), abs=2e-3)
    assert found.n == 2
    # right: yes, no / yes, yes: observed .5, expected .5·1 + .5·0
    both = error_consistency(np.array([True, False]), np.array([True, True]))
    assert both.value == 0


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_capa_agrees_with_its_authors_code(seed: int, n: int) -> None:
    old, new, gold = drawn(seed, n)
    found = capa(old, new, gold)
    expected = CAPA().compute_k(rows_of(old), rows_of(new), gold.tolist())
    assert found.value == pytest.approx(float(expected), abs=1e-9)
    assert capa(new, old, gold).value == pytest.approx(found.value)
    if found.low is not None:
        assert found.high is not None
        assert found.low <= found.high
    # a straight loop over the formula
    observed = np.mean([float(p @ q) for p, q in zip(rows_of(old), rows_of(new), strict=True)])
    first, second = (gold_probability(table, gold).mean() for table in (old, new))
    chance = np.mean([1 / (len(row) - 1) for row in rows_of(old)])
    by_chance = first * second + (1 - first) * (1 - second) * chance
    assert found.value == pytest.approx((observed - by_chance) / (1 - by_chance))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_error_consistency_is_cohens_kappa(pairs: list[tuple[bool, bool]]) -> None:
    old, new = np.array(pairs).T
    found = error_consistency(old, new)
    if len({*old.tolist(), *new.tolist()}) == 1:
        assert found == Agreement(None, None, None, len(pairs))
        return
    assert found.value is not None
    assert found.value == pytest.approx(cohen_kappa_score(old, new), abs=1e-12)
    one_hot = [[np.eye(2)[int(not right)] for right in side] for side in (old, new)]
    assert found.value == pytest.approx(EC().compute_k(*one_hot, [0] * len(pairs)))
    assert -1 - 1e-12 <= found.value <= 1 + 1e-12


def test_models_that_are_the_same() -> None:
    sure = options([[1, 0], [0, 1], [1, 0]])
    assert capa(sure, sure, np.array([0, 1, 1])).value == pytest.approx(1)
    assert capa(sure, sure, np.array([0, 1, 0])) == Agreement(None, None, None, 3), "both perfect"
    assert capa(sure[:0], sure[:0], np.zeros(0, int)) == Agreement(None, None, None, 0)
    one = options([[1.0], [1.0]])
    assert capa(one, one, np.zeros(2, int)) == Agreement(None, None, None, 2)


def test_independent_errors_agree_as_chance_does() -> None:
    rng = np.random.default_rng(0)
    gold = np.zeros(4000, int)
    tables = []
    for accuracy in (0.6, 0.8):
        answer = np.where(rng.random(4000) < accuracy, 0, rng.integers(1, 4, 4000))
        tables.append(options(np.eye(4)[answer].tolist()))
    found = capa(tables[0], tables[1], gold)
    assert found.low < 0 < found.high  # type: ignore[operator]
    assert found.high - found.low < 0.1  # type: ignore[operator]


def test_few_and_many_items_have_like_intervals() -> None:
    old, new, gold = drawn(3, 1000)
    few = capa(old, new, gold)
    # each item twice, as clusters: nothing new; as items: the jackknife, √2 narrower
    twice = [np.concatenate([table, table]) for table in (old, new)]
    labels = [*range(1000), *range(1000)]
    same = capa(*twice, np.tile(gold, 2), clusters=labels)
    assert (same.low, same.high) == pytest.approx((few.low, few.high))
    more = capa(*twice, np.tile(gold, 2))
    width = (few.high - few.low) / (more.high - more.low)  # type: ignore[operator]
    assert width == pytest.approx(math.sqrt(2), rel=0.1)


def test_what_is_refused() -> None:
    old, new, gold = drawn(0, 5)
    with pytest.raises(ValueError, match="options"):
        capa(old, new[:4], gold)
    with pytest.raises(ValueError, match="gold"):
        capa(old, new, gold - 9)
    with pytest.raises(ValueError, match="ranked different options"):
        capa(options([[0.5, 0.5]] * 2), np.array([[0, -np.inf], [-1, -1]], "f2"), np.zeros(2, int))
    with pytest.raises(ValueError, match="has none"):
        option_probabilities(np.full((1, 2), np.nan, "f2"))
    with pytest.raises(ValueError, match="correct"):
        error_consistency(np.ones(2, bool), np.ones(3, bool))
