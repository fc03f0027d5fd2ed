"""The arithmetic of forming a candidate, against numpy, to the bit."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.merge import all_finite, float32_weights, linear_, weights_digest

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AWKWARD = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 3.0e38, 6e-8, 65504.0, 1 / 3)


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy()


def reference(parents: Sequence[torch.Tensor], weights: Sequence[float]) -> np.ndarray:
    """The rule of `linear_` in numpy: product and sum rounded to float32 one after the other."""
    used = [
        (parent.to(torch.float32).numpy(), np.float32(weight))
        for parent, weight in zip(parents, weights, strict=True)
        if np.float32(weight) != 0
    ]
    acc = (used[0][0] * used[0][1]).astype(np.float32)
    for parent, weight in used[1:]:
        acc = (acc + (parent * weight).astype(np.float32)).astype(np.float32)
    if abs(math.fsum(float(weight) for _, weight in used) - 1) <= 1e-6:
        first = used[0][0].view(np.uint32)
        same = np.logical_and.reduce([first == parent.view(np.uint32) for parent, _ in used])
        acc = np.where(same, used[0][0], acc)
    return acc


def random_parents(seed: int, count: int, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parents = [torch.randn(size, generator=generator).to(dtype) for _ in range(count)]
    parents[0][: min(size, len(AWKWARD))] = torch.tensor(AWKWARD[:size]).to(dtype)
    return parents


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    weights=st.lists(st.floats(-2, 2, allow_subnormal=True), min_size=1, max_size=5).filter(
        lambda values: any(np.float32(value) for value in values)
    ),
    size=st.integers(1, 300),
    chunk=st.integers(1, 400),
    dtype=st.sampled_from(DTYPES),
)
def test_equals_the_rule_in_numpy_whatever_the_chunk(
    seed: int, weights: list[float], size: int, chunk: int, dtype: torch.dtype
) -> None:
    parents = random_parents(seed, len(weights), size, dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = reference(parents, weights)
    out = linear_(torch.empty(size), parents, weights, chunk=chunk)
    assert np.array_equal(out.numpy().view(np.uint32), expected.view(np.uint32)) or np.array_equal(
        out.numpy(), expected, equal_nan=True
    )
    rounded = linear_(torch.empty(size, dtype=dtype), parents, weights, chunk=chunk)
    once = torch.from_numpy(expected).to(dtype)
    assert torch.equal(rounded.nan_to_num(7), once.nan_to_num(7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_hot_is_the_parent_bit_for_bit(dtype: torch.dtype, index: int) -> None:
    parents = random_parents(3, 3, 1000, dtype)
    parents[index][5:7] = torch.tensor([-0.0, torch.finfo(dtype).smallest_normal / 4])
    weights = [float(i == index) for i in range(3)]
    out = linear_(torch.full((1000,), torch.nan, dtype=dtype), parents, weights)
    assert np.array_equal(bits(out), bits(parents[index]))


def test_no_fused_multiply_add() -> None:
    # (1+2^-12)² needs 25 bits: fused with the sum its last bit would survive
    x = torch.full((64,), 1 + 2**-12)
    out = linear_(torch.empty(64), [x, x], [-1.0, 1 + 2**-12])
    product = np.float32(1 + 2**-12) * np.float32(1 + 2**-12)
    assert float(out[0]) == float(product - np.float32(1 + 2**-12))
    assert float(out[0]) != (1 + 2**-12) ** 2 - (1 + 2**-12)


def test_bytes_do_not_depend_on_threads() -> None:
    parents, weights = random_parents(1, 4, 300_001, torch.bfloat16), [0.1, -0.3, 0.7, 0.5]
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outs.append(linear_(torch.empty(300_001, dtype=torch.bfloat16), parents, weights))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(bits(outs[0]), bits(outs[1]))


def test_parents_of_mixed_dtypes_meet_in_float32() -> None:
    parents = [
        p.to(d) for p, d in zip(random_parents(2, 3, 50, torch.float32), DTYPES, strict=True)
    ]
    out = linear_(torch.empty(50), parents, [0.2, 0.3, 0.5])
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(out.numpy(), reference(parents, [0.2, 0.3, 0.5]), equal_nan=True)


@pytest.mark.parametrize(
    ("weights", "word"),
    [([1e-60, 0.0], "all zero"), ([1e60, 1.0], "not finite"), ([1.0], "1 for 2 parents")],
)
def test_weights_that_cannot_be_used(weights: list[float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        linear_(torch.empty(4), [torch.ones(4), torch.ones(4)], weights)


@pytest.mark.parametrize(
    ("parent", "word"),
    [
        (torch.ones(5), r"parents\[0\]: shape \(5,\), expected \(4,\)"),
        (torch.ones(2, 2), "shape"),
        (torch.ones(4, dtype=torch.float64), "dtype torch.float64"),
    ],
)
def test_parents_that_cannot_be_merged(parent: torch.Tensor, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        linear_(torch.empty(4), [parent], [1.0])


def test_weights_are_rounded_to_float32() -> None:
    assert float32_weights([0.1]) == [float(np.float32(0.1))]


def test_all_finite() -> None:
    flat = torch.zeros(10, dtype=torch.bfloat16)
    assert all_finite(flat, chunk=3)
    for value in (torch.nan, torch.inf, -torch.inf):
        flat[9] = value
        assert not all_finite(flat, chunk=3)


def test_digest_is_the_one_the_contract_spells_out() -> None:
    a = torch.tensor([[1.0, -2.0]])
    b = torch.tensor([0.5], dtype=torch.bfloat16)
    whole = hashlib.sha256()
    for line, raw in ((b"a\0F32\x001,2\n", "0000803f000000c0"), (b"b\0BF16\x001\n", "003f")):
        whole.update(line)
        whole.update(hashlib.sha256(bytes.fromhex(raw)).hexdigest().encode())
    assert weights_digest([("b", b), ("a", a)]) == whole.hexdigest()


def test_digest_sees_names_dtypes_shapes_and_signs_of_zero() -> None:
    base = torch.zeros(4)
    others = [
        ("b", base),
        ("a", base.reshape(2, 2)),
        ("a", base.to(torch.bfloat16)),
        ("a", -base),
        ("a", torch.zeros(())),
    ]
    digests = {weights_digest([pair]) for pair in [("a", base), *others]}
    assert len(digests) == 6
    assert weights_digest([("a", base.reshape(2, 2).t())]) in digests


def test_digest_can_be_stopped() -> None:
    with pytest.raises(InterruptedError):
        weights_digest([("a", torch.zeros(1))], stop=lambda: True)
