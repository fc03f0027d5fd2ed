"""Forming a candidate: Σ w_i θ_i over flat tensors, and the digest of the result.

The arithmetic is fixed to the bit so that the same recipe gives the same bytes on every device and
with every number of threads. Never touches files and never allocates more than a few chunks.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optim.steps import CPU_CHUNK, GPU_CHUNK, Terms, form_by_steps, terms_of

if TYPE_CHECKING:
    from optim.kernel import Form

#: as safetensors spells them; only these can be merged
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
#: dtypes that the compiled kernel reads and writes, and how many values it takes in one step
COMPILED_DTYPES, STEP = frozenset({torch.float32, torch.bfloat16}), 64
#: values that the parents of several candidates may have in a CPU's cache together
CACHE_VALUES = 2**18
#: threads share no piece of memory that is smaller than this
ALIGNED_VALUES = 2**12
#: values below which starting another thread costs more than it saves
THREAD_VALUES = 2**18
#: bytes hashed at a time
DIGEST_CHUNK_BYTES = 2**26

log = logging.getLogger(__name__)


def linear_(
    out: Tensor, parents: Sequence[Tensor], weights: Sequence[float], *, chunk: int | None = None
) -> bool:
    """Write Σ w_i θ_i into `out` (1-D; float32, bfloat16 or float16); whether all of it is finite.

    `parents` are 1-D of the same length, of any of these dtypes, on any device. Parents whose
    weight is 0 in float32 are skipped; acc = fl32(w_0·x_0), then acc = fl32(acc + fl32(w_i·x_i)) in
    the order of the parents: product and sum are rounded separately, because a fused multiply-add
    would make the bytes depend on the device. Where the weights sum to 1 (`sums_to_one`) and the
    parents that are not skipped hold the same value in an element, bit for bit, the result is that
    value: what is the same everywhere stays as it is. At the end one round-to-nearest-even to
    `out.dtype`. A one-hot weight returns its parent bit for bit, -0.0 included. `chunk` (values
    formed at a time) never changes the result. Raises ValueError when the parts do not fit.
    """
    return linear_many_([out], parents, [weights], chunk=chunk)[0]


def linear_many_(
    outs: Sequence[Tensor],
    parents: Sequence[Tensor],
    weights: Sequence[Sequence[float]],
    *,
    chunk: int | None = None,
) -> list[bool]:
    """`linear_` for several candidates [L] at once, `weights` [L][N]: every chunk is read once.

    The outs are of one dtype and on one device. Gives the bytes that L calls would give.
    """
    _check_parts(outs, parents, weights)
    rows = [terms_of(tuple(row)) for row in weights]
    count = outs[0].numel()
    if _gpu_compiles(outs[0], parents):
        from optim.gpu import form_on_gpu

        return [form_on_gpu(out, parents, row) for out, row in zip(outs, rows, strict=True)]
    if not _compiles(outs[0], parents):
        steps = CPU_CHUNK if outs[0].device.type == "cpu" else GPU_CHUNK
        return form_by_steps(outs, parents, rows, slice(0, count), chunk or steps)
    if chunk is None:
        # one pass of a single candidate uses no cache, so it needs no chunks
        chunk = count if len(outs) == 1 else CACHE_VALUES // len(parents)

    def share(part: slice) -> list[bool]:
        return _form_in_one_pass(outs, parents, rows, part, chunk)

    shares = _shares(count, torch.get_num_threads())
    found = [share(shares[0])] if len(shares) == 1 else _executor().map(share, shares)
    return [all(finite) for finite in zip(*found, strict=True)]


def _check_parts(
    outs: Sequence[Tensor], parents: Sequence[Tensor], weights: Sequence[Sequence[float]]
) -> None:
    if not outs or len(outs) != len(weights):
        raise ValueError(f"weights: {len(weights)} rows for {len(outs)} candidates")
    if unfit := [len(row) for row in weights if not parents or len(row) != len(parents)]:
        raise ValueError(f"weights: {unfit[0]} for {len(parents)} parents")
    count = outs[0].numel()
    for name, tensors in (("out", outs), ("parents", parents)):
        for i, tensor in enumerate(tensors):
            if tensor.dtype not in DTYPE_NAMES:
                raise ValueError(f"{name}[{i}]: dtype {tensor.dtype} cannot be merged")
            if tensor.dim() != 1 or tensor.numel() != count:
                raise ValueError(f"{name}[{i}]: shape {tuple(tensor.shape)}, expected ({count},)")
    if len({(out.dtype, out.device) for out in outs}) != 1:
        raise ValueError("out: candidates formed at once have one dtype and one device")


def _shares(count: int, threads: int) -> list[slice]:
    """The values of each thread, on bounds that share no cache line."""
    if count < THREAD_VALUES:
        threads = 1
    share = max(-(-count // (threads * ALIGNED_VALUES)) * ALIGNED_VALUES, 1)
    starts = range(0, max(count, 1), share)
    return [slice(start, min(start + share, count)) for start in starts]


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="merge")


@cache
def _form_function() -> Callable[[str, str, int], Form] | None:
    """That of `optim.kernel`, or None where LLVM cannot be used: then everything goes by steps."""
    try:
        from optim.kernel import form_function

        form_function("F32", "F32", 1)
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("merging without the compiled kernel, several times slower: %s", error)
        return None
    return form_function


def _compiles(out: Tensor, parents: Sequence[Tensor]) -> bool:
    return (
        len({parent.dtype for parent in parents}) == 1
        and {out.dtype, parents[0].dtype} <= COMPILED_DTYPES
        and all(t.device.type == "cpu" and t.is_contiguous() for t in (out, *parents))
        and _form_function() is not None
    )


def _gpu_compiles(out: Tensor, parents: Sequence[Tensor]) -> bool:
    tensors = (out, *parents)
    if out.device.type != "cuda" or len({(t.dtype, t.device) for t in tensors}) != 1:
        return False
    try:
        from optim.gpu import proved
    except ImportError:
        return False
    return all(t.is_contiguous() for t in tensors) and proved(out.device, out.dtype)


def _form_in_one_pass(
    outs: Sequence[Tensor],
    parents: Sequence[Tensor],
    rows: Sequence[Terms],
    part: slice,
    chunk: int,
) -> list[bool]:
    """The values in `part` by compiled code; what is left of its last step goes by torch."""
    form_function = _form_function()
    assert form_function is not None
    width, out_width = parents[0].element_size(), outs[0].element_size()
    names = DTYPE_NAMES[parents[0].dtype], DTYPE_NAMES[outs[0].dtype]
    chunk, whole = max(chunk // STEP, 1) * STEP, (part.stop - part.start) // STEP * STEP
    addresses, calls = [parent.data_ptr() for parent in parents], []
    for out, row in zip(outs, rows, strict=True):
        used = len(row.used)
        sources = [addresses[i] for i in row.used]
        weights = (ctypes.c_float * used)(*row.weights)
        calls.append((form_function(*names, used), out.data_ptr(), sources, weights, row.keeps))
    finite, end = [True] * len(outs), part.start + whole
    for start in range(part.start, end, chunk):
        steps = min(chunk, end - start) // STEP
        for number, (form, target, sources, weights, keeps) in enumerate(calls):
            here = (ctypes.c_int64 * len(sources))(*(at + start * width for at in sources))
            at, weights_at = ctypes.addressof(here), ctypes.addressof(weights)
            finite[number] &= not form(target + start * out_width, at, weights_at, steps, keeps)
    if end < part.stop:
        rest = form_by_steps(outs, parents, rows, slice(end, part.stop), STEP)
        finite = [a and b for a, b in zip(finite, rest, strict=True)]
    return finite


def weights_digest(
    tensors: Iterable[tuple[str, Tensor]],
    *,
    stop: Callable[[], bool] | None = None,
    known: MutableMapping[str, str] | None = None,
    threads: int = 1,
) -> str:
    """SHA-256 (hex) that names the weights of a model: equal digests, equal tensors.

    Over the tensors in sorted name order: the line "name\\0dtype\\0shape\\n" (dtype as safetensors
    spells it, shape as 4,5) and then the hex SHA-256 of the raw little-endian bytes. `stop` is
    asked before each tensor; once it says True, InterruptedError is raised. `known` has the SHA-256
    of tensors that need not be read again, and gets those of the others, which `threads` work out.
    """
    known = {} if known is None else known
    ordered = sorted(tensors, key=lambda pair: pair[0])

    def work(named: tuple[str, Tensor]) -> None:
        name, tensor = named
        if stop is not None and stop():
            raise InterruptedError("weights_digest: stopped")
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{name}: dtype {tensor.dtype} has no digest")
        if name not in known:
            known[name] = bytes_digest(tensor)

    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as executor:
        # the largest first: the last thread to end is not the one that began last
        largest = sorted(ordered, key=lambda pair: -pair[1].numel())
        list(executor.map(work, largest))
    whole = hashlib.sha256()
    for name, tensor in ordered:
        shape = ",".join(map(str, tensor.shape))
        whole.update(f"{name}\0{DTYPE_NAMES[tensor.dtype]}\0{shape}\n".encode())
        whole.update(known[name].encode())
    return whole.hexdigest()


def bytes_digest(tensor: Tensor) -> str:
    """SHA-256 (hex) of a tensor's raw little-endian bytes."""
    one = hashlib.sha256()
    flat = tensor.detach().reshape(-1)
    for piece in flat.split(DIGEST_CHUNK_BYTES // flat.element_size()):
        one.update(piece.cpu().view(torch.uint8).numpy())
    return one.hexdigest()
