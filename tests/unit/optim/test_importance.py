"""Rank correlations against scipy's, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from optim.importance import rank_correlations


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(-3, 3), st.integers(0, 3)), min_size=3, max_size=40
    )
)
def test_they_are_spearmans(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, np.float64)
    found = rank_correlations(table[:, :2], table[:, 2])
    for column, value in zip(table[:, :2].T, found, strict=True):
        if np.ptp(column) == 0 or np.ptp(table[:, 2]) == 0:
            assert value == 0
        else:
            assert value == pytest.approx(spearmanr(column, table[:, 2]).statistic)


def test_any_rising_transformation_leaves_them_alone() -> None:
    rng = np.random.default_rng(0)
    weights, values = rng.normal(size=(30, 4)), rng.normal(size=30)
    before = rank_correlations(weights, values)
    assert rank_correlations(np.exp(weights), values**3) == pytest.approx(before)
    assert rank_correlations(weights, -values) == pytest.approx(-before)


def test_too_few_and_broken_numbers() -> None:
    assert np.isnan(rank_correlations(np.zeros((2, 3)), np.zeros(2))).all()
    with pytest.raises(ValueError, match="finite"):
        rank_correlations(np.full((3, 1), np.nan), np.zeros(3))
