"""One pass over memory for Σ w_i θ_i on a GPU: a Triton kernel, used once it has proved itself.

Triton comes with CUDA builds of torch and with no other. Products and sums are rounded separately,
as everywhere: the kernel is compiled without fused multiply-add, and compared bit for bit with
torch's own operations before its first use on a device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from optim.steps import Terms, form_by_steps, terms_of

#: values of one program
BLOCK = 1024
#: so many parents are read at once, by a kernel of their number. On an H200, over a copy of the
#: same bytes: 3 parents 1.07 (in a loop 1.54), 8 parents 1.12 (1.31), 16 parents 1.32 (1.23)
UNROLLED = 8

log = logging.getLogger(__name__)


@triton.jit
def _add(total, differs, first, source, weight, at, inside):  # type: ignore[no-untyped-def]
    value = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    differs |= value.to(tl.int32, bitcast=True) ^ first.to(tl.int32, bitcast=True)
    return total + value * tl.load(weight), differs


@triton.jit
def _form(  # type: ignore[no-untyped-def]
    out, addresses, weights, used, values, keep, infinite, FEW: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < values
    kind: tl.constexpr = out.dtype
    first = tl.load(tl.load(addresses).to(kind) + at, mask=inside, other=0.0).to(tl.float32)
    total = first * tl.load(weights)
    differs = tl.zeros((BLOCK,), tl.int32)
    if FEW > 0:
        for i in tl.static_range(1, FEW):
            source = tl.load(addresses + i).to(kind)
            total, differs = _add(total, differs, first, source, weights + i, at, inside)
    else:
        for i in range(1, used):
            source = tl.load(addresses + i).to(kind)
            total, differs = _add(total, differs, first, source, weights + i, at, inside)
    total = tl.where((differs == 0) & (keep != 0), first, total)
    if kind.element_ty == tl.bfloat16:
        # rounded to nearest even by hand, as conversions of this type differ between backends
        bits = total.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        result = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = total.to(kind.element_ty)
    tl.store(out + at, result, mask=inside)
    finite = (total == total) & (tl.abs(result.to(tl.float32)) < float("inf"))
    bad = tl.max(tl.where(inside & ~finite, 1, 0), 0)
    tl.atomic_max(infinite, bad, mask=bad > 0)


def form_on_gpu(out: Tensor, parents: Sequence[Tensor], row: Terms) -> bool:
    """`optim.merge.linear_` where parents and result are of one dtype, on one device."""
    sources = [parents[i].data_ptr() for i in row.used]
    addresses = torch.tensor(sources, dtype=torch.int64, device=out.device)
    weights = torch.tensor(row.weights, dtype=torch.float32, device=out.device)
    infinite = torch.zeros(1, dtype=torch.int32, device=out.device)
    grid, used = (triton.cdiv(out.numel(), BLOCK),), len(sources)
    _form[grid](
        out, addresses, weights, used, out.numel(), int(row.keeps), infinite,
        FEW=used if used <= UNROLLED else 0, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return not bool(infinite.item())


@cache
def proved(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel gives the bytes of torch's operations on a sample; says so if not."""
    generator = torch.Generator().manual_seed(0)
    shape = (UNROLLED + 3, 3 * BLOCK + 17)
    sample = (torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-20, 8, shape)).to(
        dtype
    )
    sample[1:, ::3] = sample[0, ::3]
    parents = list(sample.to(device))
    many = len(parents)
    for few in (
        (0.1, 0.2, 0.7),
        (0.3, -0.7, 1.1, 0.9, 0.2),
        (0.0, 0.0, 0.0, 1.0),
        (1 / many,) * many,
    ):
        weights = few + (0.0,) * (many - len(few))
        row, shown = terms_of(weights), [torch.empty_like(parents[0]) for _ in range(2)]
        try:
            form_on_gpu(shown[0], parents, row)
        except Exception as error:  # whatever a driver or a compiler comes up with
            log.warning("merging without the GPU kernel on %s: %s", device, error)
            return False
        form_by_steps(shown[1:], parents, [row], slice(0, shape[1]), shape[1])
        if not torch.equal(*(tensor.view(torch.uint8) for tensor in shown)):
            log.warning("merging without the GPU kernel on %s: its bytes differ", device)
            return False
    return True
