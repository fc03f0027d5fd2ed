"""Rashomon capacity: channels whose capacity is known, and a plain loop over the algorithm."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.capacity import rashomon_capacity


def plain(channel: np.ndarray) -> float:
    """Bits, of one channel [M, K], by the textbook's loop; until both bounds meet."""
    p = np.full(len(channel), 1 / len(channel))
    for _ in range(20_000):
        q = p @ channel
        ratio = np.where(channel > 0, channel / np.where(q > 0, q, 1), 1)
        distance = (channel * np.log2(ratio)).sum(axis=1)
        if distance.max() - np.log2(p @ np.exp2(distance)) < 1e-5:
            break
        p = p * np.exp2(distance)
        p /= p.sum()
    return float(np.log2(p @ np.exp2(distance)))


def of(channel: list[list[float]] | np.ndarray, **more: float) -> float:
    """2^C of one item."""
    return float(rashomon_capacity(np.array(channel)[:, None, :], **more)[0])  # type: ignore[arg-type]


def test_channels_whose_capacity_is_known() -> None:
    assert of([[0.3, 0.7]]) == 1
    assert of([[0.3, 0.7]] * 5) == pytest.approx(1)
    assert of([[1, 0], [0, 1]]) == pytest.approx(2)
    assert of(np.eye(4)) == pytest.approx(4)
    # binary symmetric with error e: 1 − H(e)
    e = 0.11
    entropy = -e * np.log2(e) - (1 - e) * np.log2(1 - e)
    assert of([[1 - e, e], [e, 1 - e]]) == pytest.approx(2 ** (1 - entropy), rel=1e-3)
    # Z-channel with error ½: log2(5/4) bits
    assert of([[1, 0], [0.5, 0.5]]) == pytest.approx(1.25, rel=1e-3)
    # erasure with probability ¼: ¾ bits
    assert of([[0.75, 0, 0.25], [0, 0.75, 0.25]]) == pytest.approx(2**0.75, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 5), st.floats(0.1, 3))
def test_it_agrees_with_the_plain_algorithm(
    seed: int, members: int, options: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    table = np.exp(rng.normal(0, 1, (1, 6, options)) + rng.normal(0, spread, (members, 6, options)))
    table /= table.sum(axis=2, keepdims=True)
    found = rashomon_capacity(table)
    expected = np.exp2([plain(table[:, i]) for i in range(6)])
    assert np.abs(np.log2(found) - np.log2(expected)).max() < 1.1e-3
    assert (found >= 1).all()
    assert (found <= min(members, options) + 1e-9).all()
    # more models never disagree less, and mixtures of them never more
    assert (rashomon_capacity(table[: members // 2 + 1]) <= found * (1 + 1e-3)).all()
    mixed = np.concatenate([table, table.mean(axis=0, keepdims=True)])
    assert rashomon_capacity(mixed) == pytest.approx(found, rel=1e-3)
    padded = np.concatenate([table, np.zeros((members, 6, 1))], axis=2)
    assert rashomon_capacity(padded) == pytest.approx(found, rel=1e-3)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="models, items, options"):
        rashomon_capacity(np.ones((2, 3)))
    with pytest.raises(ValueError, match="sum to 1"):
        of([[0.5, 0.6]])
    assert rashomon_capacity(np.zeros((2, 0, 3))).shape == (0,)


def test_two_hundred_models_on_a_thousand_items_are_quick() -> None:
    rng = np.random.default_rng(0)
    table = np.exp(rng.normal(0, 2, (1, 1000, 4)) + rng.normal(0, 0.5, (200, 1000, 4)))
    table /= table.sum(axis=2, keepdims=True)
    start = time.perf_counter()
    rashomon_capacity(table)
    assert time.perf_counter() - start < 3  # 0.2 s on a quiet machine
