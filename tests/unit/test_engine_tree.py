"""Rows as trees and heads: nothing is lost, nothing leaks from one branch into another, and shared
prefixes are computed once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.trees import seen_text
from workers.engine.tree import Batch, Sharing, batch_rows

HEAD = list(range(100, 140))
rows_of_tokens = st.lists(
    st.builds(
        lambda head, tail: HEAD[:head] + tail,
        st.sampled_from([0, 3, 40]),
        st.lists(st.integers(0, 3), min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=25,
    unique_by=tuple,
)


def batches_of(rows: list[list[int]], firsts: list[int], **sharing: int) -> list[Batch]:
    return batch_rows(rows, firsts, batch_tokens=64, vocabulary=150, sharing=Sharing(**sharing))


@settings(max_examples=150, deadline=None)
@given(rows_of_tokens, st.data(), st.sampled_from([0, 8, 45, None]), st.sampled_from([8, 5000]))
def test_every_position_sees_its_own_text(
    rows: list[list[int]], data: st.DataObject, limit: int | None, width: int
) -> None:
    firsts = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    seen = {}
    for batch in batches_of(rows, firsts, width=width, limit=limit):
        for row, slots in batch.rows:
            assert row not in seen
            seen[row] = [seen_text(batch, int(slot)) for slot in slots]
            if limit is not None and len(rows[row]) > limit:
                assert batch.ends is None
    for row, (ids, first) in enumerate(zip(rows, firsts, strict=True)):
        assert seen[row] == [ids[: end + 1] for end in range(first, len(ids))]


def test_a_head_that_many_rows_share_is_computed_once() -> None:
    rows = [[*HEAD, i, j, 1] for i in range(20) for j in range(3)]
    batches = batches_of(rows, [len(HEAD) + 1] * 60, width=576)
    heads = {batch.head.key for batch in batches if batch.head is not None}
    assert len(heads) == 1
    assert sum(batch.tokens for batch in batches) == len(HEAD) + 20 + 60 + 60


def test_the_last_token_before_what_is_scored_is_not_in_the_head() -> None:
    rows = [[*HEAD, i] for i in range(30)]
    for batch in batches_of(rows, [20] * 30, width=576):
        assert batch.head is None or batch.head.inputs.shape[1] <= 20


def test_branches_share_a_row_only_where_that_is_cheaper() -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, i] for i in range(4)]
    [wide] = batches_of(rows, [8] * 4, width=2000)
    assert wide.inputs.shape == (1, 12)
    # a common first token is not worth looking at each other's forty tokens
    long = [[1, *range(i * 40 + 2, i * 40 + 42)] for i in range(3)]
    assert all(batch.ends is None for batch in batches_of(long, [40] * 3, width=16))


def test_tokens_and_logits_of_a_batch_are_bounded() -> None:
    rows = [[i, *range(i % 7 + 2)] for i in range(30)]
    for batch in batches_of(rows, [0] * 30, limit=0):
        assert batch.inputs.numel() <= 64
    few = Sharing(limit=0, logits=20 * 150)
    bounded = batch_rows(rows, [0] * 30, batch_tokens=10_000, vocabulary=150, sharing=few)
    assert len(bounded) > 1
    assert all(len(batch.positions) <= 20 for batch in bounded)


def test_rows_that_continue_each_other_a_hundred_times() -> None:
    rows = [list(range(n)) for n in range(1, 200)]
    batches = batches_of(rows, [len(row) - 1 for row in rows], width=64)
    found = {row: seen_text(b, int(slots[0])) for b in batches for row, slots in b.rows}
    assert found == dict(enumerate(rows))


def test_pads_see_themselves_alone() -> None:
    """A pad that saw nothing would be a division by zero, which spreads."""
    rows = [[1, 2, 3, 4, 5, i] for i in range(3)] + [[9, 2, 3, 4, 5, 6, i] for i in range(4)]
    for batch in batches_of(rows, [5] * 3 + [6] * 4, width=2000):
        mask = batch.mask()
        assert mask is not None
        assert np.asarray(mask.any(-1)).all()
