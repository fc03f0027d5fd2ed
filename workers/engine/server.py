"""The engine's side of the channel: one request at a time, progress after every step.

Lives as long as its parent and no longer. An error that Remelt can explain is sent back and the
engine goes on; any other one ends the process, because its state can no longer be trusted.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optim.recipe import Recipe
from services.errors import BadInput, RemeltError, TrialRejected
from services.suites import Item, Suite, parse_suite
from workers.engine.channel import Channel, ChannelClosed, Message
from workers.engine.compile import GenerationPlan, LikelihoodPlan, compile_suite
from workers.engine.digest import BackgroundDigest
from workers.engine.model import LiveModel, head_key
from workers.engine.resident import TORCH_DTYPES, Pool, load_pool
from workers.engine.score import score_suite
from workers.engine.tiers import Tier

#: smallest pause between two progress messages
PROGRESS_SECONDS = 0.1
#: how often the parent is looked for
PARENT_SECONDS = 1.0
#: on a CPU larger batches fall out of the caches: 2048 was 1.4 times as fast as 8192 (stories260K)
CPU_BATCH_TOKENS = 2048

Plan = LikelihoodPlan | GenerationPlan
#: a suite, its items in the wanted split, and how to score them
Work = tuple[Suite, tuple[Item, ...], Plan]


class _Stop(Exception):
    """The client told us to drop the running request."""


class Server:
    """Serves one client over `channel` until it is gone."""

    def __init__(
        self,
        channel: Channel,
        *,
        device: torch.device,
        compute: str,
        batch_tokens: int,
        parent: int,
        tier: Tier | None = None,
    ) -> None:
        self.channel, self.device, self.compute = channel, device, compute
        #: where the pool is to live; None: wherever it fits best
        self.tier = tier
        cpu = device.type == "cpu"
        self.batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS) if cpu else batch_tokens
        self.parent = parent
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.number, self.aborted, self.told = 0, -1, 0.0
        self.suites: dict[str, Suite] = {}
        self.pool: Pool | None = None
        self.model: LiveModel | None = None
        #: by suite digest and split
        self.work: dict[tuple[str, str | None], Work] = {}
        #: the candidate in the recipe's dtype, and in the dtype that the model computes with
        self.stored: Tensor | None = None
        self.live: Tensor | None = None
        #: SHA-256 of the tensors that `stored` holds, by name, as far as they are known
        self.hashes: dict[str, str] = {}

    def serve(self) -> None:
        """Answer requests for ever; the process ends from the thread that hears the channel."""
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        self._send("done", about=self._about())
        while True:
            message = self.inbox.get()
            self.number = message.data.get("number", 0)
            try:
                self._answer(message.data)
            except _Stop:
                self._send("error", kind="EngineFailed", what="aborted", where="", mend="")
            except RemeltError as error:
                kind = type(error).__name__
                self._send("error", kind=kind, what=error.what, where=error.where, mend=error.mend)
            except Exception as error:
                traceback.print_exc()
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                self._send("error", kind="EngineFailed", what=what, where="", mend="")
                raise

    def _listen(self) -> None:
        """Hear the client while the main thread computes; without a client there is no engine."""
        try:
            while os.getppid() == self.parent:
                message = self.channel.receive(PARENT_SECONDS)
                if message is None:
                    continue
                if message.data["op"] == "abort":
                    self.aborted = message.data["number"]
                else:
                    self.inbox.put(message)
        except ChannelClosed:
            pass
        os._exit(0)

    def _answer(self, data: dict[str, Any]) -> None:
        if data["op"] == "load":
            self._load(data)
        elif data["op"] == "suite":
            self._keep_suite(data)
        elif data["op"] == "evaluate":
            self._evaluate(data)
        else:
            raise BadInput(f"operation {data['op']!r} is not known", where="engine")

    def _send(self, event: str, arrays: dict[str, Any] | None = None, **data: Any) -> None:
        self.channel.send({"event": event, "number": self.number, **data}, arrays)

    def _tell(self, phase: str, done: int = 0, total: int = 0, suite: str | None = None) -> None:
        """Report progress, not too often; stop here if the client no longer wants the result."""
        if self.aborted == self.number:
            raise _Stop
        if time.monotonic() - self.told >= PROGRESS_SECONDS:
            self.told = time.monotonic()
            progress = {"phase": phase, "suite": suite, "done": done, "total": total}
            self._send("progress", progress=progress)

    def _about(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "pid": os.getpid(),
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _load(self, data: dict[str, Any]) -> None:
        """Replace the resident pool; the old one is freed first."""
        self.pool = self.model = self.stored = self.live = None
        self.work.clear()
        stored = TORCH_DTYPES[data["dtype"]]
        live = self._live_dtype(stored)
        self.pool = load_pool(
            [(digest, Path(path)) for digest, path in data["checkpoints"]],
            device=self.device,
            buffer_bytes_per_value=stored.itemsize + (0 if live == stored else live.itemsize),
            tier=self.tier,
            progress=lambda done, total: self._tell("load", done, total),
        )
        sys.stderr.write(f"pool {self.pool.plan}\n")
        self._send("done", tier=self.pool.tier, plan=self.pool.plan)

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
        self._send("done")

    def _live_dtype(self, stored: torch.dtype) -> torch.dtype:
        """The dtype to compute with: stored values are widened exactly, or used as they are."""
        if self.compute == "float32" or (self.compute == "auto" and self.device.type == "cpu"):
            return torch.float32
        return stored

    def _evaluate(self, data: dict[str, Any]) -> None:
        started = time.monotonic()
        recipe = Recipe.from_dict(data["recipe"])
        model = self._model_for(recipe)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        work = [self._compiled(model, digest, data["split"]) for _, digest in data["suites"]]
        compiled = time.monotonic()
        self._tell("form")
        self._form(recipe)
        formed = time.monotonic()
        assert self.pool is not None
        assert self.stored is not None
        digest = BackgroundDigest(self.pool.layout, self.stored, self.hashes)
        try:
            tokens = self._score(model, [name for name, _ in data["suites"]], work)
            scored = time.monotonic()
            weights = digest.result(lambda: self._tell("digest", 1, 1))
        finally:
            # the buffer must not change under a digest that nobody waits for any more
            digest.stop()
        ended = time.monotonic()
        phases = {
            "compile": compiled - started,
            "form": formed - compiled,
            "score": scored - formed,
            "digest": ended - scored,
            "total": ended - started,
        }
        peak = self._peak_memory()
        self._send(
            "done", weights_digest=weights, phases=phases, tokens=tokens, peak_memory_bytes=peak
        )

    def _model_for(self, recipe: Recipe) -> LiveModel:
        """The live model, built anew only when dtype, config or tokenizer are others."""
        if self.pool is None:
            raise BadInput("no pool is resident", where="engine", mend="Load one first")
        head = self.pool.parents_of(recipe)[0].checkpoint
        stored = TORCH_DTYPES[recipe.dtype]
        if self.stored is None or self.stored.dtype != stored:
            self.model, self.live = None, None
            self.stored = torch.zeros(self.pool.layout.size, dtype=stored, device=self.device)
            live = self._live_dtype(stored)
            self.hashes.clear()
            same = live == stored
            self.live = self.stored if same else torch.zeros_like(self.stored, dtype=live)
        assert self.live is not None
        if self.model is None or self.model.key != head_key(head):
            self.work.clear()
            self.model = None
            self._tell("build")
            self.model = LiveModel(head, self.pool.layout, self.live)
        return self.model

    def _compiled(self, model: LiveModel, digest: str, split: str | None) -> Work:
        """What is to be scored for one suite: worked out once per suite, split and tokenizer."""
        if (digest, split) not in self.work:
            suite = self.suites[digest]
            self._tell("compile", suite=suite.name)
            items = suite.items if split is None else suite.split(split)  # type: ignore[arg-type]
            plan = compile_suite(
                suite,
                items,
                model.encoder,
                batch_tokens=self.batch_tokens,
                equal_lengths=not model.takes_positions,
            )
            self.work[digest, split] = (suite, items, plan)
        return self.work[digest, split]

    def _form(self, recipe: Recipe) -> None:
        assert self.pool is not None
        assert self.stored is not None
        assert self.live is not None
        formed = self.pool.form_(self.stored, recipe)
        for slot in formed.written:
            self.hashes.pop(slot.name, None)
        if self.live is not self.stored:
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
                self._tell("score", before + done, total, name)

            scores = score_suite(model, suite, items, plan, tick)
            before += plan.tokens
            tokens += scores.tokens
            self._send(
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
