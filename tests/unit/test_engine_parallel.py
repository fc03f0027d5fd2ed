"""Which layout is chosen, and how parts are found and put together."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.errors import BadInput
from workers.engine.cuts import _runs
from workers.engine.gather import put
from workers.engine.layout import Cut
from workers.engine.parallel import choose


@pytest.mark.parametrize(
    ("wanted", "world", "model_type", "kind"),
    [
        ("auto", 1, "llama", "one"),
        ("auto", 2, "llama", "tensor"),
        ("auto", 2, "gpt2", "zero3"),
        ("auto", 8, "phi3", "zero3"),
        ("tensor", 4, "qwen3", "tensor"),
        ("zero3", 2, "llama", "zero3"),
        ("zero3-offload", 1, "phi3", "zero3-offload"),
    ],
)
def test_how_a_model_is_spread(wanted: str, world: int, model_type: str, kind: str) -> None:
    choice = choose(wanted, world, model_type)
    assert choice.kind == kind
    assert choice.why


def test_layouts_that_cannot_be_had() -> None:
    with pytest.raises(BadInput, match="at least two ranks"):
        choose("tensor", 1, "llama")
    with pytest.raises(BadInput, match=r"'phi3' right\. Set REMELT_ENGINE_PARALLEL=zero3"):
        choose("tensor", 2, "phi3")


@given(st.lists(st.booleans(), max_size=40))
def test_indices_become_ranges(kept: list[bool]) -> None:
    indices = [index for index, here in enumerate(kept) if here]
    runs = _runs(indices)
    assert [index for start, stop in runs for index in range(start, stop)] == indices
    assert all(stop != start for (_, stop), (start, _) in pairwise(runs))


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    axis=st.none() | st.integers(0, 2),
    owners=st.lists(st.integers(0, 2), min_size=125, max_size=125),
)
def test_parts_put_together_are_the_whole(
    shape: list[int], axis: int | None, owners: list[int]
) -> None:
    axis = None if axis is None else axis % len(shape)
    whole = torch.randn(shape)
    length = whole.numel() if axis is None else shape[axis]
    found = torch.full(shape, torch.nan)
    for rank in range(3):
        mine = [index for index in range(length) if owners[index] == rank]
        cut = Cut(axis=axis, ranges=_runs(mine))
        part = cut.take(whole)
        assert tuple(part.shape) == cut.shape(tuple(shape))
        put(found, cut, part)
    assert torch.equal(found, whole)
