"""Signs that a suite has been seen: by hand, by simulation, and by invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.leakage import GRAM, Reading, grams, nats, signs, starts


def reading(
    nll: list[float], tokens: list[int], hits: list[int] | None = None, of: int = 5
) -> Reading:
    count = len(nll)
    return Reading(
        nll=np.array(nll),
        tokens=np.array(tokens),
        hits=np.array(hits or [0] * count),
        starts=np.array([of] * count),
    )


def test_starts_by_hand() -> None:
    assert starts(20) == [1, 4, 8, 12, 15]
    assert starts(GRAM + 1) == [1]
    assert starts(GRAM) == []
    assert starts(0) == []


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 9))
def test_starts_leave_room_on_both_sides(tokens: int, count: int, gram: int) -> None:
    found = starts(tokens, count=count, gram=gram)
    assert found == sorted(set(found))
    assert len(found) <= count
    assert bool(found) == (tokens > gram)
    assert all(1 <= place <= tokens - gram for place in found)


def test_nats_by_hand() -> None:
    own, other = reading([10, 20], [10, 10]), reading([30, 40], [10, 10])
    found = nats(own, other, paired=True)
    assert (found.own, found.other, found.easier) == (1.5, 3.5, 2.0)
    assert found.low == found.high == pytest.approx(2.0)  # both items say the same
    assert found.sign
    apart = nats(own, other, paired=False)
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low < 2.0 < apart.high


def test_grams_by_hand() -> None:
    own, other = reading([1] * 4, [9] * 4, [5, 4, 5, 4]), reading([1] * 4, [9] * 4, [0, 1, 0, 1])
    found = grams(own, other, paired=False)
    assert (found.own, found.other) == (0.9, 0.1)
    assert found.easier == pytest.approx(0.8)
    assert found.sign
    assert not grams(other, own, paired=False).sign
    assert signs([("perplexity", nats(own, other, paired=True)), ("5-grams", found)]) == ["5-grams"]


def test_what_is_not_known_is_no_sign() -> None:
    short = reading([1.0, 1.0], [2, 2], of=0)
    found = grams(short, short, paired=True)
    assert (found.own, found.easier, found.sign) == (None, None, False)
    one = nats(reading([1.0], [2]), reading([3.0], [2]), paired=True)
    assert (one.easier, one.low, one.sign) == (1.0, None, False)


SIDES = st.lists(st.tuples(st.floats(0, 50), st.integers(1, 30)), min_size=2, max_size=12)


@given(SIDES, SIDES, st.booleans())
def test_changing_sides_changes_the_sign(
    first: list[tuple[float, int]], second: list[tuple[float, int]], paired: bool
) -> None:
    if paired:
        n = min(len(first), len(second))
        first, second = first[:n], second[:n]
    a = reading(*map(list, zip(*first, strict=True)))
    b = reading(*map(list, zip(*second, strict=True)))
    one, two = nats(a, b, paired=paired), nats(b, a, paired=paired)
    assert one.easier == pytest.approx(-(two.easier or 0.0))
    assert one.low == pytest.approx(-(two.high or 0.0), abs=1e-9)
    assert one.low is not None
    assert one.high is not None
    assert one.low - 1e-9 <= one.high
    assert not (one.sign and two.sign)


@pytest.mark.parametrize("paired", [True, False])
def test_no_sign_where_nothing_was_seen(paired: bool) -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        level = rng.gamma(9, 0.3, 80)
        sides = []
        for _ in range(2):
            tokens = rng.integers(10, 40, 80)
            nll = tokens * (level if paired else rng.permutation(level)) * rng.gamma(50, 0.02, 80)
            hits = rng.binomial(5, 0.2, 80)
            sides.append(Reading(nll=nll, tokens=tokens, hits=hits, starts=np.full(80, 5)))
        for compare in (nats, grams):
            wrong += compare(*sides, paired=paired).sign
    assert wrong / 200 == pytest.approx(0.025, abs=0.03)
