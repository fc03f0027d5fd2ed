"""The candidate that a rank holds: the resident pool, the buffers it is formed in, the live model.

One at a time: becoming another one overwrites it in place. All ranks call everything together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from optim.recipe import Recipe
from services.checkpoints import Checkpoint
from services.checkpoints.headers import read_tensors
from services.errors import BadInput, TrialRejected
from workers.engine.build import build_frame, cuts_for
from workers.engine.digest import BackgroundDigest
from workers.engine.gather import GatheredDigest
from workers.engine.group import Group
from workers.engine.loading import load_pool
from workers.engine.lower import FROZEN, Activations
from workers.engine.model import LiveModel, head_key
from workers.engine.parallel import Choice, Frame
from workers.engine.resident import Pool
from workers.engine.tiers import Tier

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: that hash a candidate while a GPU scores it; on a CPU they would take from what scores
GPU_THREADS = 8


class Tell(Protocol):
    """Reports progress of a phase; may stop the running request by raising."""

    def __call__(self, phase: str, done: int = 0, total: int = 0) -> None: ...


class Candidate:
    """Forms one candidate after the other of one pool after the other.

    `forget` is called when the live model is replaced; `activations` keeps what leaves skipped
    blocks, in host memory whatever the device; `plain`: no block is skipped, no prefix shared, no
    layer compiled; `compiling`: the setting `engine_compile`.
    """

    def __init__(
        self,
        group: Group,
        *,
        device: torch.device,
        compute: str,
        parallel: str,
        meeting: int | None,
        tier: Tier | None,
        activations: Activations,
        plain: bool,
        compiling: bool = False,
        tell: Tell,
        forget: Callable[[], None],
    ) -> None:
        self.group, self.device, self.compute = group, device, compute
        self.parallel, self.meeting = parallel, meeting
        #: where the pool is to live; None: wherever it fits best
        self.tier = tier
        self._tell, self._forget = tell, forget
        self.pool: Pool | None = None
        self.model: LiveModel | None = None
        self.activations, self.plain, self.compiling = activations, plain, compiling
        #: the candidate in the recipe's dtype; and in the dtype that the model computes with,
        #: longer than the layout by the model's slack
        self.stored: Tensor | None = None
        self.live: Tensor | None = None
        #: what `stored` holds, in pinned memory; only with a GPU
        self.copied: Tensor | None = None
        #: SHA-256 of the tensors that `stored` holds, by name, as far as they are known
        self.hashes: dict[str, str] = {}
        #: digest of the recipe that the buffers hold
        self.held: str | None = None

    def load(self, checkpoints: list[tuple[str, Path]], dtype: str) -> tuple[Pool, Choice]:
        """Replace the resident pool; the old one is freed first."""
        self._drop()
        self.pool = None
        stored = TORCH_DTYPES[dtype]
        # the model says what a rank must hold of the pool: it comes first
        frame = self.group.agreed(lambda: self._new_frame(checkpoints[0][1], stored))
        self.pool = pool = self.group.agreed(lambda: self._new_pool(checkpoints, frame, stored))
        head = pool.parents[checkpoints[0][0]].checkpoint
        self.model = self.group.agreed(lambda: self._new_model(head, frame, stored))
        return pool, frame.choice

    def become(self, recipe: Recipe, *, unless_held: bool = False) -> LiveModel:
        """Form the candidate of `recipe`; the live model that now is it.

        Raises BadInput for parents that are not resident, TrialRejected for values that are not
        finite.
        """
        model = self.group.agreed(lambda: self._model_for(recipe))
        if not (unless_held and self.held == recipe.digest):
            self.held = None
            self.group.agreed(lambda: self._form(recipe))
            # on all ranks or on none
            self.held = recipe.digest
        return model

    def begin(self, recipe: Recipe) -> None:
        """Tell the model what its tensors were made from: equal signatures, equal bytes."""
        assert self.pool is not None
        assert self.model is not None
        stays = self.pool.stays
        # with one checkpoint there is no later candidate to keep anything for
        several = len(self.pool.parents) > 1

        def signature(name: str) -> Hashable:
            if several and stays(name, recipe):
                return FROZEN
            return recipe.columns.get(name) or recipe.weights_of(name)

        self.model.begin(signature)

    def weights_digest(self) -> BackgroundDigest | GatheredDigest:
        """The digest of what `stored` holds, under way."""
        assert self.pool is not None
        assert self.stored is not None
        if self.group.world == 1 and self.stored.device.type == "cuda":
            values = self._on_host(self.stored)
            return BackgroundDigest(self.pool.layout, values, self.hashes, threads=GPU_THREADS)
        if self.group.world == 1:
            return BackgroundDigest(self.pool.layout, self.stored, self.hashes)
        return GatheredDigest(self.pool.layout, self.stored, self.group, self.hashes)

    def _on_host(self, stored: Tensor) -> Tensor:
        """A copy in one piece: threads that fetch tensors from a GPU themselves hold up the
        forward passes (2,000 items took 2.1 s instead of 0.4 s)."""
        if self.copied is None:
            self.copied = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True)
        return self.copied.copy_(stored)

    def _drop(self) -> None:
        self.model = self.stored = self.live = self.held = self.copied = None
        self.hashes.clear()

    def _new_frame(self, folder: Path, stored: torch.dtype) -> Frame:
        self._tell("build")
        return build_frame(
            folder,
            self._live_dtype(stored),
            self.device,
            wanted=self.parallel,
            group=self.group,
            meeting=self.meeting,
        )

    def _new_pool(
        self, checkpoints: list[tuple[str, Path]], frame: Frame, stored: torch.dtype
    ) -> Pool:
        live = frame.dtype
        return load_pool(
            checkpoints,
            device=self._home(frame),
            buffer_bytes_per_value=stored.itemsize + (0 if live == stored else live.itemsize),
            tier=self.tier,
            fused=frame.names.fused,
            cuts=cuts_for(frame, read_tensors(checkpoints[0][1])),
            ranks=self.group.world,
            progress=lambda done, total: self._tell("load", done, total),
        )

    def _home(self, frame: Frame) -> torch.device:
        """Where pool and candidate are at home: offloaded, they pass through the GPU in layers."""
        return torch.device("cpu") if frame.choice.kind == "zero3-offload" else self.device

    def _live_dtype(self, stored: torch.dtype) -> torch.dtype:
        """The dtype to compute with: stored values are widened exactly, used as they are, or (if
        that was asked for) rounded to bfloat16."""
        if self.compute == "bfloat16":
            return torch.bfloat16
        if self.compute == "float32" or (self.compute == "auto" and self.device.type == "cpu"):
            return torch.float32
        return stored

    def _model_for(self, recipe: Recipe) -> LiveModel:
        """The live model, built anew only when dtype, config or tokenizer are others."""
        if self.pool is None:
            raise BadInput("no pool is resident", where="engine", mend="Load one first")
        head = self.pool.parents_of(recipe)[0].checkpoint
        stored = TORCH_DTYPES[recipe.dtype]
        if self.stored is None or self.stored.dtype != stored:
            self._drop()
        if self.model is None or self.model.key != head_key(head):
            self.model = None
            self.model = self._new_model(head, self._new_frame(head.path, stored), stored)
        return self.model

    def _new_model(self, head: Checkpoint, frame: Frame, stored: torch.dtype) -> LiveModel:
        """A live model whose parameters are views of `live`; makes the buffers if need be."""
        assert self.pool is not None
        cuts = cuts_for(frame, head.tensors)
        if any(cuts.get(slot.name) != slot.cut for slot in self.pool.layout.slots):
            raise BadInput(
                "its config.json cuts the tensors in another way than that of the pool's first",
                where=str(head.path),
                mend="Merge only checkpoints of one architecture",
            )
        self._forget()
        self.activations.clear()
        size, home = self.pool.layout.size, self._home(frame)
        if self.stored is None or self.live is None:
            self.live = torch.zeros(size + frame.slack, dtype=frame.dtype, device=home)
            same = stored == frame.dtype
            self.stored = self.live[:size] if same else torch.zeros(size, dtype=stored, device=home)
        return LiveModel(
            head, self.pool.layout, self.live, frame, self.activations,
            plain=self.plain, compiling=self.compiling,
        )  # fmt: skip

    def _form(self, recipe: Recipe) -> None:
        self._tell("form")
        assert self.pool is not None
        assert self.stored is not None
        assert self.live is not None
        formed = self.pool.form_(self.stored, recipe)
        for slot in formed.written:
            self.hashes.pop(slot.name, None)
        if self.live.dtype != self.stored.dtype:
            for slot in formed.written:
                part = slice(slot.start, slot.start + slot.count)
                self.live[part].copy_(self.stored[part])
        if formed.infinite:
            raise TrialRejected(
                f"tensor {formed.infinite!r} is not finite in {recipe.dtype} after merging",
                where="recipe",
                mend="Use smaller weights, or a dtype with a larger range",
            )
