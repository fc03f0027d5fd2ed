"""The arithmetic of forming a candidate, against numpy, to the bit."""

import hashlib
import math
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim import kernel, merge
from optim.merge import linear_, linear_many_, weights_digest
from optim.steps import float32_weights, linear_columns_, sums_to_one

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


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit; NaNs may differ in their payload."""
    return torch.equal(a.isnan(), b.isnan()) and np.array_equal(
        bits(a.nan_to_num(7)), bits(b.nan_to_num(7))
    )


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
    out = torch.empty(size)
    finite = linear_(out, parents, weights, chunk=chunk)
    assert finite == bool(np.isfinite(expected).all())
    assert np.array_equal(out.numpy().view(np.uint32), expected.view(np.uint32)) or np.array_equal(
        out.numpy(), expected, equal_nan=True
    )
    rounded, once = torch.empty(size, dtype=dtype), torch.from_numpy(expected).to(dtype)
    assert linear_(rounded, parents, weights, chunk=chunk) == bool(once.isfinite().all())
    assert same_bits(rounded, once)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_hot_is_the_parent_bit_for_bit(dtype: torch.dtype, index: int) -> None:
    parents = random_parents(3, 3, 1000, dtype)
    parents[index][5:7] = torch.tensor([-0.0, torch.finfo(dtype).smallest_normal / 4])
    weights = [float(i == index) for i in range(3)]
    out = torch.full((1000,), torch.nan, dtype=dtype)
    assert linear_(out, parents, weights)
    assert np.array_equal(bits(out), bits(parents[index]))


def test_no_fused_multiply_add() -> None:
    # (1+2^-12)² needs 25 bits: fused with the sum its last bit would survive
    x = torch.full((64,), 1 + 2**-12)
    out = torch.empty(64)
    linear_(out, [x, x], [-1.0, 1 + 2**-12])
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
            outs.append(torch.empty(300_001, dtype=torch.bfloat16))
            linear_(outs[-1], parents, weights)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(bits(outs[0]), bits(outs[1]))


WIDE = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    count=st.integers(1, 9) | st.just(18),
    size=st.integers(1, 200),
    dtype=st.sampled_from(DTYPES),
    out_dtype=st.sampled_from(DTYPES),
)
def test_any_bits_in_one_pass_or_by_steps(
    data: st.DataObject, count: int, size: int, dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    """Infinities, NaN, denormals and ties included; parents share about every second value."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    kind = WIDE[dtype]
    low, high = torch.iinfo(kind).min, torch.iinfo(kind).max
    words = torch.randint(low, high, (count, size), dtype=kind, generator=generator)
    shared = torch.rand(size, generator=generator) < 0.5
    words[1:, shared] = words[0, shared]
    parents = list(words.view(dtype))
    raw = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=count, max_size=count))
    weights = raw if any(raw) else [1.0] * count
    if data.draw(st.booleans()) and abs(sum(weights)) > 0.1:
        weights = [weight / sum(weights) for weight in weights]
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(reference(parents, weights)).to(out_dtype)
    for compiled in (True, False):
        out = torch.empty(size, dtype=out_dtype)
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(merge, "COMPILED_DTYPES", frozenset())
            finite = linear_(out, parents, weights)
        assert same_bits(out, expected), (compiled, weights)
        assert finite == bool(expected.isfinite().all())


@pytest.mark.parametrize("count", [kernel.GROUP, kernel.GROUP + 1, 5 * kernel.GROUP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_parents_in_several_groups_and_blocks(count: int, dtype: torch.dtype) -> None:
    """Sums, and what all parents share, are carried from group to group and block to block."""
    block = kernel.BLOCK_STEPS * kernel.STEP
    parents = random_parents(7, count, 2 * block + 3 * kernel.STEP + 5, dtype)
    for parent in parents[:-1]:
        parent[block - 70 : block + 70] = parents[0][block - 70 : block + 70]
    parents[-1][block - 70 : block] = parents[0][block - 70 : block]
    parents[-1][-1] = float("inf")
    weights = [(i + 1) / (count * (count + 1) / 2) for i in range(count)]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = torch.from_numpy(reference(parents, weights)).to(dtype)
    out = torch.empty_like(parents[0])
    assert not linear_(out, parents, weights)
    assert same_bits(out, expected)
    assert same_bits(out[block - 70 : block], parents[0][block - 70 : block])
    assert not same_bits(out[block : block + 70], parents[0][block : block + 70])


def test_the_compiled_kernel_is_used() -> None:
    assert kernel.STEP == merge.STEP
    parents = random_parents(1, 2, 64, torch.bfloat16)
    assert merge._compiles(torch.empty(64), parents)
    assert not merge._compiles(torch.empty(64, dtype=torch.float16), parents)


def test_without_the_compiled_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parents, weights = random_parents(4, 3, 1000, torch.bfloat16), [0.2, 0.3, 0.5]
    expected, out = torch.empty(1000), torch.empty(1000)
    linear_(expected, parents, weights)
    monkeypatch.setitem(sys.modules, "optim.kernel", None)
    merge._form_function.cache_clear()
    linear_(out, parents, weights)
    monkeypatch.undo()
    merge._form_function.cache_clear()
    assert torch.equal(out, expected)
    assert "without the compiled kernel" in caplog.text


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_all_parents_share_stays_as_it_is(dtype: torch.dtype) -> None:
    x = random_parents(5, 1, 5000, dtype)[0]
    for weights in ([0.1, 0.2, 0.7], [1 / 3] * 3, [1.7, -0.5, -0.2], [1 / 12] * 12):
        assert sums_to_one(weights)
        out = torch.empty(5000, dtype=dtype)
        linear_(out, [x] * len(weights), weights)
        assert np.array_equal(bits(out), bits(x))
    other = x.clone()
    other[7] = 3
    out = torch.empty(5000, dtype=dtype)
    # a parent of weight 0 has no say
    linear_(out, [x, other, x], [0.1, 0.0, 0.9])
    assert np.array_equal(bits(out), bits(x))
    linear_(out, [x, other, x], [0.1, 0.2, 0.7])
    assert (out != x).nonzero().tolist() == [[7]]
    linear_(out, [x, x, x], [0.1, 0.2, 0.3])
    assert not sums_to_one([0.1, 0.2, 0.3])
    assert torch.allclose(out[100:].float(), x[100:].float() * 0.6, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_at_once_are_the_same_as_one_by_one(dtype: torch.dtype) -> None:
    parents = random_parents(6, 4, 70_001, dtype)
    rows = [[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, -0.5, 0.7, 0.3], [3e38, 3e38, 0.0, 0.0]]
    outs = [torch.empty(70_001, dtype=dtype) for _ in rows]
    finite = linear_many_(outs, parents, rows)
    if dtype != torch.float16:  # in which the parents are not finite
        assert finite == [True, True, True, False]
    for out, row in zip(outs, rows, strict=True):
        single = torch.empty_like(out)
        linear_(single, parents, row)
        assert same_bits(out, single)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4), dtype=st.sampled_from(DTYPES))
def test_columns_are_linear_combinations_each(seed: int, count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    parents = [p.view(30, 10) for p in random_parents(seed, count, 300, dtype)]
    for parent in parents[1:]:
        parent[::2] = parents[0][::2]
    weights = torch.randn(count, 10, generator=generator)
    weights[:, 1] /= weights[:, 1].sum()
    weights[:, 2] = 1 / count
    weights[torch.rand(count, 10, generator=generator) < 0.2] = 0
    weights[:, 3] = 0
    out = torch.empty(30, 10, dtype=dtype)
    linear_columns_(out, parents, weights)
    for column in range(10):
        expected = torch.zeros(30, dtype=dtype)
        if weights[:, column].any():
            sources = [parent[:, column].contiguous() for parent in parents]
            linear_(expected, sources, weights[:, column].tolist())
        assert same_bits(out[:, column].contiguous(), expected), column


@pytest.mark.parametrize(
    ("shape", "weights", "word"),
    [
        ((2, 3), torch.ones(1, 2), "expected one float32 for each of 1 parents and 3 columns"),
        ((2, 3), torch.ones(1, 3, dtype=torch.float64), "expected one float32"),
        ((3, 2), torch.ones(1, 3), "not all of shape"),
        ((2, 3), torch.tensor([[1.0, torch.inf, 0.0]]), "not finite"),
    ],
)
def test_columns_that_do_not_fit(shape: tuple[int, int], weights: torch.Tensor, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        linear_columns_(torch.empty(2, 3), [torch.ones(shape)], weights)


def test_parents_of_mixed_dtypes_meet_in_float32() -> None:
    parents = [
        p.to(d) for p, d in zip(random_parents(2, 3, 50, torch.float32), DTYPES, strict=True)
    ]
    out = torch.empty(50)
    linear_(out, parents, [0.2, 0.3, 0.5])
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


def test_what_is_known_is_not_hashed_again() -> None:
    a, b = ("a", torch.ones(3)), ("b", torch.zeros(2))
    known: dict[str, str] = {}
    whole = weights_digest([a, b], known=known)
    assert set(known) == {"a", "b"}
    assert weights_digest([a, ("b", torch.ones(2))], known=known) == whole
    del known["b"]
    assert weights_digest([a, ("b", torch.ones(2))], known=known) != whole


def test_the_digest_is_the_same_with_any_number_of_threads() -> None:
    tensors = [(f"layer.{i}", torch.randn(i * 50 + 1)) for i in range(12)]
    assert weights_digest(tensors, threads=8) == weights_digest(tensors)


def test_digest_can_be_stopped() -> None:
    with pytest.raises(InterruptedError):
        weights_digest([("a", torch.zeros(1))], stop=lambda: True)
