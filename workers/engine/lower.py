"""The lower blocks of a model, run once where candidates do not differ in them.

What leaves block k-1 does not depend on a candidate whose first k blocks (and embeddings) are those
of an earlier one. It is kept by batch, and later candidates start at block k: the model's own code
runs as ever, but for blocks below k that hand on what was kept. What cannot be shown to be equal is
computed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: signature of a tensor that no candidate of the pool can change
FROZEN = "frozen"
#: what is left of a disk for others, a database among them
RESERVE_BYTES = 5 * 2**30


class Activations:
    """Tensors by key: in memory up to a budget, beyond it in files that have no name any more, or,
    without `spill`, nowhere."""

    def __init__(
        self, budget_bytes: int, folder: Path | None = None, *, spill: bool = True
    ) -> None:
        self.budget_bytes, self.folder, self.spill = budget_bytes, folder, spill
        self._kept: dict[int, Tensor] = {}
        self._in_files: set[int] = set()
        #: bytes in memory, and in files
        self.memory_bytes = self.file_bytes = 0

    def get(self, key: int) -> Tensor | None:
        """What was put under `key`."""
        return self._kept.get(key)

    def put(self, key: int, value: Tensor) -> None:
        """Keep a copy of `value`, instead of an older one, if memory or disk takes it."""
        self.drop([key])
        size = value.numel() * value.element_size()
        if self.memory_bytes + size <= self.budget_bytes:
            self._kept[key] = value.detach().to("cpu", copy=True)
            self.memory_bytes += size
            return
        if not self.spill:
            return
        try:
            if shutil.disk_usage(self.folder or tempfile.gettempdir()).free < size + RESERVE_BYTES:
                return
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix="remelt-lower-") as file:
                # blocks are claimed now: a full disk must not show as a signal later
                _allocate(file.fileno(), size)
                mapped = torch.from_file(
                    file.name, shared=True, size=value.numel(), dtype=value.dtype
                )
        except OSError:
            return
        self._kept[key] = mapped.view(value.shape).copy_(value)
        self._in_files.add(key)
        self.file_bytes += size

    def drop(self, keys: Iterable[int]) -> None:
        """Forget these."""
        for key in keys:
            value = self._kept.pop(key, None)
            size = 0 if value is None else value.numel() * value.element_size()
            if key in self._in_files:
                self._in_files.remove(key)
                self.file_bytes -= size
            else:
                self.memory_bytes -= size

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._in_files.clear()
        self.memory_bytes = self.file_bytes = 0


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


class LowerBlocks:
    """A model's blocks in order, and how many of them may be skipped right now (`depth`).

    `names` gives the pool's names of a parameter by its `id`. `learn` must have watched a forward
    pass before anything can be skipped.
    """

    def __init__(
        self, model: nn.Module, names: Mapping[int, Sequence[str]], store: Activations
    ) -> None:
        self.model, self.store, self.depth = model, store, 0
        self._names = names
        self._blocks: list[nn.Module] = []
        #: names of the tensors used before the first block, then of each block's
        self._parts: tuple[tuple[str, ...], ...] = ()
        self._tuples = False
        #: signatures of the parts that the kept activations came from, and of the last candidate
        self._kept: tuple[Hashable, ...] = ()
        self._last: tuple[Hashable, ...] = ()
        self._deeper = 0

    def learn(self, run: Callable[[], Tensor]) -> None:
        """Watch `run`, one forward pass, and skip blocks only if a second one ends up the same."""
        blocks = list(longest_list(self.model))
        inside = {id(m) for block in blocks for m in block.modules()}
        calls: list[nn.Module] = []
        handles = [
            module.register_forward_pre_hook(lambda module, _: calls.append(module))
            for module in self.model.modules()
            if id(module) not in inside or module in blocks
            if module in blocks or next(module.parameters(recurse=False), None) is not None
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        if [module for module in calls if module in blocks] != blocks or not blocks:
            return
        before = calls[: calls.index(blocks[0])]
        below = [p for module in before for p in module.parameters(recurse=False)]
        groups = [below, *(list(block.parameters()) for block in blocks)]
        self._parts = tuple(
            tuple(name for p in group for name in self._names.get(id(p), ())) for group in groups
        )
        self._blocks = blocks
        if not self._works(run):
            self._blocks = []

    def _works(self, run: Callable[[], Tensor]) -> bool:
        """Whether starting behind half of the blocks gives the same bits."""
        self.depth = len(self._blocks) // 2
        if not self.depth:
            return False
        try:
            with self.around(-1):
                whole = run()
            kept = self.store.get(-1)
            with self.around(-1):
                part = run()
            return kept is not None and torch.equal(whole, part)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False
        finally:
            self.depth = 0
            self.store.clear()

    def prepare(self, signature: Callable[[str], Hashable]) -> None:
        """Set `depth` for a candidate, given what each of its tensors was made from.

        Equal signatures promise equal bytes. The depth grows when candidates go on agreeing about
        more blocks than the pool does by itself.
        """
        now = tuple(tuple(signature(name) for name in part) for part in self._parts)
        fixed = _common([all(s == FROZEN for s in part) for part in now], [True] * len(now))
        stable = _common(now, self._last)
        self._deeper = self._deeper + 1 if stable - 1 > max(self.depth, fixed - 1) else 0
        wanted = max(fixed, stable if self._deeper > 1 else 0) - 1
        self._last = now
        if wanted > self.depth or now[: self.depth + 1] != self._kept:
            self.store.clear()
            self.depth = max(wanted, 0)
            self._kept = now[: self.depth + 1]

    @contextmanager
    def around(self, key: int | None) -> Iterator[None]:
        """Around a forward pass of batch `key`: skip the lower blocks, or keep what leaves them.

        None: a pass from the bottom, of which nothing is kept.
        """
        if not self.depth or key is None:
            yield
            return
        kept = self.store.get(key)
        if kept is None:
            last = self._blocks[self.depth - 1]
            handle = last.register_forward_hook(lambda _m, _i, out: self._keep(key, out))
            try:
                yield
            finally:
                handle.remove()
            return
        device = next(self._blocks[0].parameters()).device
        hidden: Any = kept.to(device)
        out = (hidden,) if self._tuples else hidden
        for block in self._blocks[: self.depth]:
            block.forward = lambda *_, **__: out
        try:
            yield
        finally:
            for block in self._blocks[: self.depth]:
                del block.forward

    def _keep(self, key: int, out: Any) -> None:
        self._tuples = isinstance(out, tuple)
        self.store.put(key, out[0] if self._tuples else out)


def longest_list(model: nn.Module) -> Iterable[nn.Module]:
    """A model's stack of blocks: the longest list of modules that is in no other list."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    outer = [m for m in lists if not any(m is not o and m in set(o.modules()) for o in lists)]
    return max(outer, key=len, default=())


def _common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the common start."""
    same = [x == y for x, y in zip(a, b, strict=False)]
    return same.index(False) if False in same else len(same)
