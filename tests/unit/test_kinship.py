"""Kinship of task vectors: against a straight reimplementation, by hand, and in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optim.kinship
from optim.kinship import Adding, Kinship


def measured(base: list[torch.Tensor], others: list[list[torch.Tensor]]) -> Kinship:
    adding = Adding(len(others))
    for index, tensor in enumerate(base):
        adding.add(tensor, [other[index] for other in others])
    return adding.result()


def test_by_hand() -> None:
    """Task vectors (3, 4), (−3, −4), (4, −3) and nothing at all."""
    base = torch.tensor([1.0, 2.0])
    vectors = torch.tensor([[3.0, 4], [-3, -4], [4, -3], [0, 0]])
    found = measured([base], [[base + v] for v in vectors])
    assert found.norms.tolist() == [5, 5, 5, 0]
    assert found.cosine[0, :3].tolist() == [1, -1, 0]
    assert np.isnan(found.cosine[3]).all()
    assert found.distance[0].tolist() == [0, 10, pytest.approx(50**0.5), 5]
    # less their means: (−½, ½), (½, −½), (3½, −3½)
    assert found.pearson[0, :3] == pytest.approx([1, -1, -1])
    assert np.isnan(found.pearson[3]).all()
    assert found.n == 2


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_like_whole_vectors(seed: int, k: int, sizes: list[int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)

    def model() -> list[torch.Tensor]:
        return [torch.randn(n, generator=generator).to(dtype) for n in sizes]

    base, others = model(), [model() for _ in range(k)]
    before = optim.kinship.HELD_BYTES
    optim.kinship.HELD_BYTES = 8 * (k + 1) * 7
    try:
        found = measured(base, others)
    finally:
        optim.kinship.HELD_BYTES = before
    ground = torch.cat(base).double().numpy()
    d = np.stack([torch.cat(other).double().numpy() - ground for other in others])
    norms = np.linalg.norm(d, axis=1)
    assert found.norms == pytest.approx(norms)
    assert found.cosine == pytest.approx((d @ d.T) / np.outer(norms, norms), abs=1e-12)
    assert found.distance == pytest.approx(
        np.linalg.norm(d[:, None] - d[None], axis=2), abs=1e-6 * norms.max()
    )
    if d.shape[1] > 2:
        assert found.pearson == pytest.approx(np.corrcoef(d).reshape(k, k), abs=1e-9)


def test_a_constant_vector_has_no_correlation() -> None:
    base = torch.zeros(1000)
    found = measured([base], [[base + 0.1], [torch.linspace(0, 1, 1000)]])
    assert np.isnan(found.pearson[0]).all()
    assert found.pearson[1, 1] == 1
    assert found.cosine[0, 1] == pytest.approx(0.866, abs=1e-3)


def test_wrong_numbers_are_refused() -> None:
    adding = Adding(2)
    with pytest.raises(ValueError, match="none was added"):
        adding.result()
    with pytest.raises(ValueError, match="tensors"):
        adding.add(torch.zeros(2), [torch.zeros(2)])
    with pytest.raises(ValueError, match="tensors"):
        adding.add(torch.zeros(2), [torch.zeros(2), torch.zeros(3)])
