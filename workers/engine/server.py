"""What an engine does with a request: keep a pool, keep a suite, form and score a candidate.

All ranks of an engine run this on the same requests. A step that can fail on one of them alone is
run through `Group.agreed`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optim.recipe import Recipe
from optim.steps import sums_to_one
from services.checkpoints import Checkpoint
from services.checkpoints.headers import read_tensors
from services.errors import BadInput, TrialRejected
from services.suites import Item, Suite, parse_suite
from workers.engine.build import build_frame, cuts_for
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.digest import BackgroundDigest
from workers.engine.gather import GatheredDigest
from workers.engine.generate import GenerationPlan
from workers.engine.lower import FROZEN, Activations
from workers.engine.model import LiveModel, head_key
from workers.engine.parallel import Frame
from workers.engine.resident import TORCH_DTYPES, Pool, load_pool
from workers.engine.score import score_suite
from workers.engine.session import Session
from workers.engine.tiers import Tier

#: on a CPU larger batches fall out of the caches: 2048 was 1.4 times as fast as 8192 (stories260K)
CPU_BATCH_TOKENS = 2048
ACTIVATION_BYTES = 4 * 2**30

Plan = LikelihoodPlan | GenerationPlan
#: a suite, its items in the wanted split, and how to score them
Work = tuple[Suite, tuple[Item, ...], Plan]


class Server:
    """One rank's pool, suites and live model."""

    def __init__(
        self,
        session: Session,
        *,
        device: torch.device,
        compute: str,
        batch_tokens: int,
        parallel: str,
        meeting: int | None,
        tier: Tier | None = None,
    ) -> None:
        self.session, self.group = session, session.group
        self.device, self.compute = device, compute
        self.parallel, self.meeting = parallel, meeting
        #: where the pool is to live; None: wherever it fits best
        self.tier = tier
        cpu = device.type == "cpu"
        self.batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS) if cpu else batch_tokens
        self.suites: dict[str, Suite] = {}
        self.pool: Pool | None = None
        self.model: LiveModel | None = None
        # a full disk would leave the ranks with different activations
        self.activations = Activations(ACTIVATION_BYTES, spill=session.group.world == 1)
        #: by suite digest and split
        self.work: dict[tuple[str, str | None], Work] = {}
        #: the candidate in the recipe's dtype; and in the dtype that the model computes with,
        #: longer than the layout by the model's slack
        self.stored: Tensor | None = None
        self.live: Tensor | None = None
        #: SHA-256 of the tensors that `stored` holds, by name, as far as they are known
        self.hashes: dict[str, str] = {}

    def begin(self) -> None:
        """Say hello to the client; BadInput when this machine lacks what the settings name."""
        self.group.agreed(self._check_device)
        self.session.send("done", about=self._about())

    def _check_device(self) -> None:
        found = torch.cuda.device_count()
        if self.device.type == "cuda" and found < self.group.world:
            raise BadInput(
                f"{self.group.world} ranks need as many GPUs, this machine has {found}",
                where="settings",
                mend="Change REMELT_ENGINE_RANKS or REMELT_ENGINE_DEVICE",
            )

    def answer(self, data: dict[str, Any]) -> None:
        """Do what one request says."""
        if data["op"] == "load":
            self._load(data)
        elif data["op"] == "suite":
            self._keep_suite(data)
        elif data["op"] == "evaluate":
            self._evaluate(data)
        else:
            raise BadInput(f"operation {data['op']!r} is not known", where="engine")

    def _about(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "pid": os.getpid(),
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "ranks": self.group.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _load(self, data: dict[str, Any]) -> None:
        """Replace the resident pool; the old one is freed first."""
        self.pool = self.model = self.stored = self.live = None
        self.work.clear()
        self.hashes.clear()
        self.activations.clear()
        stored = TORCH_DTYPES[data["dtype"]]
        checkpoints = [(digest, Path(path)) for digest, path in data["checkpoints"]]
        # the model says what a rank must hold of the pool: it comes first
        frame = self.group.agreed(lambda: self._new_frame(checkpoints[0][1], stored))
        self.pool = pool = self.group.agreed(lambda: self._new_pool(checkpoints, frame, stored))
        head = pool.parents[checkpoints[0][0]].checkpoint
        self.model = self.group.agreed(lambda: self._new_model(head, frame, stored))
        choice = frame.choice
        sys.stderr.write(f"pool {pool.plan}; {choice.kind}: {choice.why}\n")
        self.session.send("done", pool=pool.plan, parallel=choice.kind, parallel_why=choice.why)

    def _new_frame(self, folder: Path, stored: torch.dtype) -> Frame:
        self.session.tell("build")
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
            progress=lambda done, total: self.session.tell("load", done, total),
        )

    def _home(self, frame: Frame) -> torch.device:
        """Where pool and candidate are at home: offloaded, they pass through the GPU in layers."""
        return torch.device("cpu") if frame.choice.kind == "zero3-offload" else self.device

    def _keep_suite(self, data: dict[str, Any]) -> None:
        suite = parse_suite(
            data["name"],
            data["jsonl"],
            where=data["name"],
            normalise=data["normalise"],
            fractions=data["fractions"],
            split_seed=data["split_seed"],
            require_splits=False,
        )
        if suite.digest != data["digest"]:
            raise BadInput(
                "its digest is not that of its items",
                where=f"suite {suite.name!r}",
                mend="Worker and engine are of two releases: restart the worker",
            )
        self.suites[suite.digest] = suite
        self.session.send("done")

    def _live_dtype(self, stored: torch.dtype) -> torch.dtype:
        """The dtype to compute with: stored values are widened exactly, or used as they are."""
        if self.compute == "float32" or (self.compute == "auto" and self.device.type == "cpu"):
            return torch.float32
        return stored

    def _evaluate(self, data: dict[str, Any]) -> None:
        started = time.monotonic()
        recipe = Recipe.from_dict(data["recipe"])
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        model = self.group.agreed(lambda: self._model_for(recipe))
        self.group.agreed(lambda: self._form(recipe))
        formed = time.monotonic()
        model.begin(self._signature(recipe))
        work = self.group.agreed(
            lambda: [self._compiled(model, digest, data["split"]) for _, digest in data["suites"]]
        )
        compiled = time.monotonic()
        digest = self._digest()
        try:
            tokens = self._score(model, [name for name, _ in data["suites"]], work)
            scored = time.monotonic()
            weights = digest.result(lambda: self.session.tell("digest", 1, 1))
        finally:
            # the buffer must not change under a digest that nobody waits for any more
            digest.stop()
        ended = time.monotonic()
        phases = {
            "form": formed - started,
            "compile": compiled - formed,
            "score": scored - compiled,
            "digest": ended - scored,
            "total": ended - started,
        }
        peak = sum(self.group.collect(self._peak_memory()))
        self.session.send(
            "done", weights_digest=weights, phases=phases, tokens=tokens, peak_memory_bytes=peak
        )

    def _digest(self) -> BackgroundDigest | GatheredDigest:
        assert self.pool is not None
        assert self.stored is not None
        if self.group.world == 1:
            return BackgroundDigest(self.pool.layout, self.stored, self.hashes)
        return GatheredDigest(self.pool.layout, self.stored, self.group, self.hashes)

    def _model_for(self, recipe: Recipe) -> LiveModel:
        """The live model, built anew only when dtype, config or tokenizer are others."""
        if self.pool is None:
            raise BadInput("no pool is resident", where="engine", mend="Load one first")
        if recipe.parents[0] not in self.pool.parents:
            self.pool.form_(torch.empty(0), recipe)
        head = self.pool.parents[recipe.parents[0]].checkpoint
        stored = TORCH_DTYPES[recipe.dtype]
        if self.stored is None or self.stored.dtype != stored:
            self.model = self.stored = self.live = None
            self.hashes.clear()
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
        self.work.clear()
        self.activations.clear()
        size, home = self.pool.layout.size, self._home(frame)
        if self.stored is None or self.live is None:
            self.live = torch.zeros(size + frame.slack, dtype=frame.dtype, device=home)
            same = stored == frame.dtype
            self.stored = self.live[:size] if same else torch.zeros(size, dtype=stored, device=home)
        return LiveModel(head, self.pool.layout, self.live, frame, self.activations)

    def _compiled(self, model: LiveModel, digest: str, split: str | None) -> Work:
        """What is to be scored for one suite: worked out once per suite, split and tokenizer."""
        if (digest, split) not in self.work:
            suite = self.suites[digest]
            self.session.tell("compile", suite=suite.name)
            items = suite.items if split is None else suite.split(split)  # type: ignore[arg-type]
            plan = compile_suite(
                suite,
                items,
                model.encoder,
                batch_tokens=self.batch_tokens,
                sharing=model.sharing,
                equal_lengths=not model.takes_positions,
            )
            self.work[digest, split] = (suite, items, plan)
        return self.work[digest, split]

    def _signature(self, recipe: Recipe) -> Callable[[str], Hashable]:
        """What a tensor of the candidate was made from: equal signatures, equal bytes."""
        assert self.pool is not None
        identical = self.pool.identical

        def made_from(name: str) -> Hashable:
            weights = recipe.weights_of(name)
            if name in recipe.columns:
                return recipe.columns[name]
            return FROZEN if name in identical and sums_to_one(weights) else weights

        return made_from

    def _form(self, recipe: Recipe) -> None:
        self.session.tell("form")
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

    def _score(self, model: LiveModel, names: list[str], work: list[Work]) -> int:
        """Score suite after suite, sending each as it is finished; tokens through the model."""
        total, before, tokens = sum(plan.tokens for _, _, plan in work), 0, 0
        for name, (suite, items, plan) in zip(names, work, strict=True):
            started = time.monotonic()

            def tick(done: int, *, before: int = before, name: str = name) -> None:
                self.session.tell("score", before + done, total, name)

            scores = self.group.agreed(
                lambda suite=suite, items=items, plan=plan, tick=tick: score_suite(  # type: ignore[misc]
                    model, suite, items, plan, tick
                )
            )
            before += plan.tokens
            tokens += scores.tokens
            self.session.send(
                "suite",
                scores.arrays,
                suite=name,
                texts=scores.texts,
                tokens=scores.tokens,
                seconds=time.monotonic() - started,
            )
        return tokens

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
