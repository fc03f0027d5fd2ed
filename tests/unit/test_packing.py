"""Packed predictions come back as they were: no metric may change by being stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.predictions import (
    Predictions,
    answer_hash,
    items_digest,
    option_log_probabilities,
)
from services.errors import IntegrityError
from services.predictions import pack, unpack


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_choice_round_trip(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = Predictions(
        form="choice",
        items=items_digest([str(i) for i in range(n)]),
        correct=rng.random(n) < 0.5,
        answer=rng.integers(0, 5, n).astype(np.uint64),
        margin=rng.normal(size=n).astype(np.float16),
        options=option_log_probabilities([rng.normal(size=rng.integers(2, 6)) for _ in range(n)]),
    )
    after = unpack("choice", pack(before))
    assert len(after) == n
    assert after.items == before.items
    for name in ("correct", "answer", "margin", "options"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.nll is None
    assert after.texts is None
    assert after.score() == before.score()


def test_exact_round_trip_keeps_texts_and_hashes() -> None:
    texts = (" wetnurse", "", "naïve = 'x'\n")
    before = Predictions(
        form="exact",
        items="i",
        correct=np.array([True, False, True]),
        answer=np.array([answer_hash(t) for t in texts], dtype=np.uint64),
        texts=texts,
    )
    after = unpack("exact", pack(before))
    assert after.texts == texts
    np.testing.assert_array_equal(after.answer, before.answer)


def test_text_round_trip_and_score() -> None:
    before = Predictions(
        form="text",
        items="i",
        nll=np.array([10.0, 30.0], dtype=np.float32),
        tokens=np.array([5, 10], dtype=np.int32),
    )
    after = unpack("text", pack(before))
    assert after.score() == pytest.approx(40 / 15)
    np.testing.assert_allclose(after.units(), [2.0, 3.0])


def test_a_column_of_the_wrong_length_is_refused() -> None:
    packed = pack(
        Predictions(form="choice", items="i", correct=np.ones(9, bool), margin=np.zeros(9, "f2"))
    )
    with pytest.raises(IntegrityError, match="margin holds 9 items, not 8"):
        unpack("choice", {**packed, "n": 8})


def test_answer_hash_ignores_white_space_around_and_between() -> None:
    assert answer_hash(" a  b\n") == answer_hash("a b")
    assert answer_hash("ab") != answer_hash("a b")


def test_a_thousand_items_cost_a_few_kilobytes() -> None:
    rng = np.random.default_rng(0)
    packed = pack(
        Predictions(
            form="choice",
            items="i",
            correct=rng.random(1000) < 0.5,
            answer=rng.integers(0, 4, 1000).astype(np.uint64),
            margin=rng.normal(size=1000).astype(np.float16),
        )
    )
    assert sum(len(v) for v in packed.values() if isinstance(v, bytes)) < 4096


def test_log_probabilities_of_options_by_hand() -> None:
    found = option_log_probabilities([np.log([0.2, 0.6]), np.log([0.1, 0.1, 0.2])])
    assert np.exp(found.astype(float)) == pytest.approx(
        np.array([[0.25, 0.75, 0.0], [0.25, 0.25, 0.5]]), abs=1e-3
    )
