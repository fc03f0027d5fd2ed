"""The engine's side of the channel: one request at a time, progress after every step.

Lives as long as its parent and no longer. An error that Remelt can explain is sent back and the
engine goes on; any other one ends the process, because its state can no longer be trusted.

Every rank runs the same code on the same requests; only rank 0 hears the client and speaks to it.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from optim.recipe import Recipe
from services.errors import BadInput, RemeltError
from services.suites import Item, Suite, parse_suite
from workers.engine.answer import RequestPlan, answer_requests, plan_requests
from workers.engine.candidate import Candidate
from workers.engine.channel import Channel, ChannelClosed
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.generate import GenerationPlan, Tick
from workers.engine.group import Group, Stop
from workers.engine.lower import Activations
from workers.engine.model import LiveModel
from workers.engine.requests import encode_requests
from workers.engine.score import Scores, score_suite
from workers.engine.tasks import TaskPlan, compile_task, score_task
from workers.engine.tiers import Tier

#: smallest pause between two progress messages
PROGRESS_SECONDS = 0.1
#: how often the parent is looked for
PARENT_SECONDS = 1.0
#: on a CPU larger batches fall out of the caches: 2048 was 1.4 times as fast as 8192 (stories260K)
CPU_BATCH_TOKENS = 2048
#: phases in which the ranks talk to each other: they stop at the same message, or not at all
TOGETHER = frozenset({"score", "digest"})

Plan = LikelihoodPlan | GenerationPlan | TaskPlan
#: a suite, its items in the wanted split, and how to score them
Work = tuple[Suite, tuple[Item, ...], Plan]


class Server:
    """One rank, which serves one client over `channel` (rank 0's alone) until it is gone."""

    def __init__(
        self,
        channel: Channel | None,
        group: Group,
        *,
        device: torch.device,
        compute: str,
        batch_tokens: int,
        parallel: str,
        meeting: int | None,
        parent: int,
        activations: Activations,
        tier: Tier | None = None,
        plain: bool = False,
    ) -> None:
        self.channel, self.group, self.device = channel, group, device
        self.parent = parent
        cpu = device.type == "cpu"
        self.batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS) if cpu else batch_tokens
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.number, self.aborted, self.told = 0, -1, 0.0
        self.suites: dict[str, Suite] = {}
        self.candidate = Candidate(
            group, device=device, compute=compute, parallel=parallel, meeting=meeting, tier=tier,
            activations=activations, plain=plain, tell=self._tell, forget=self._forget,
        )  # fmt: skip
        #: by suite digest and split
        self.work: dict[tuple[str, str | None], Work] = {}

    def serve(self) -> None:
        """Answer requests for ever; the process ends from the thread that minds its parent."""
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        self._answered(self._begin)
        while True:
            data = self.group.share(self.inbox.get() if self.channel else None)
            self.number = data.get("number", 0)
            self._answered(lambda data=data: self._answer(data))  # type: ignore[misc]

    def rank_ended(self, what: str) -> None:
        """Another rank is gone: nothing that this one computes can be finished."""
        with suppress(ChannelClosed):
            self._send("error", kind="EngineFailed", what=what, where="", mend="")
        os._exit(1)

    def _answered(self, answer: Callable[[], None]) -> None:
        """Run `answer`, and send back what went wrong."""
        try:
            answer()
        except Stop:
            self._send("error", kind="EngineFailed", what="aborted", where="", mend="")
        except RemeltError as error:
            kind = type(error).__name__
            self._send("error", kind=kind, what=error.what, where=error.where, mend=error.mend)
        except ChannelClosed:
            # rank 0 or the client is gone
            os._exit(1)
        except Exception as error:
            traceback.print_exc()
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self._send("error", kind="EngineFailed", what=what, where="", mend="")
            raise

    def _listen(self) -> None:
        """Hear the client while the main thread computes; no engine outlives what started it."""
        try:
            while os.getppid() == self.parent:
                if self.channel is None:
                    time.sleep(PARENT_SECONDS)
                    continue
                message = self.channel.receive(PARENT_SECONDS)
                if message is None:
                    continue
                if message.data["op"] == "abort":
                    self.aborted = message.data["number"]
                else:
                    self.inbox.put(message.data)
        except ChannelClosed:
            pass
        os._exit(0)

    def _begin(self) -> None:
        self.group.agreed(self._check_device)
        self._send("done", about=self._about())

    def _check_device(self) -> None:
        found = torch.cuda.device_count()
        if self.device.type == "cuda" and found < self.group.world:
            raise BadInput(
                f"{self.group.world} ranks need as many GPUs, this machine has {found}",
                where="settings",
                mend="Change REMELT_ENGINE_RANKS or REMELT_ENGINE_DEVICE",
            )

    def _answer(self, data: dict[str, Any]) -> None:
        if data["op"] == "load":
            self._load(data)
        elif data["op"] == "suite":
            self._keep_suite(data)
        elif data["op"] == "evaluate":
            self._evaluate(data)
        elif data["op"] == "respond":
            self._respond(data)
        else:
            raise BadInput(f"operation {data['op']!r} is not known", where="engine")

    def _send(self, event: str, arrays: dict[str, Any] | None = None, **data: Any) -> None:
        if self.channel is not None:
            self.channel.send({"event": event, "number": self.number, **data}, arrays)

    def _tell(self, phase: str, done: int = 0, total: int = 0, suite: str | None = None) -> None:
        """Report progress, not too often; stop here if the client no longer wants the result."""
        if self.group.stopped(self.aborted == self.number, together=phase in TOGETHER):
            raise Stop
        if time.monotonic() - self.told >= PROGRESS_SECONDS:
            self.told = time.monotonic()
            progress = {"phase": phase, "suite": suite, "done": done, "total": total}
            self._send("progress", progress=progress)

    def _about(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "pid": os.getpid(),
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "ranks": self.group.world,
            "threads": torch.get_num_threads(),
            "batch_tokens": self.batch_tokens,
            "torch": torch.__version__,
        }

    def _load(self, data: dict[str, Any]) -> None:
        """Replace the resident pool; the old one is freed first."""
        self.work.clear()
        checkpoints = [(digest, Path(path)) for digest, path in data["checkpoints"]]
        pool, choice = self.candidate.load(checkpoints, data["dtype"])
        sys.stderr.write(f"pool {pool.plan}; {choice.kind}: {choice.why}\n")
        assert self.candidate.live is not None
        dtype = str(self.candidate.live.dtype).removeprefix("torch.")
        self._send(
            "done", pool=pool.plan, parallel=choice.kind, parallel_why=choice.why, dtype=dtype
        )

    def _keep_suite(self, data: dict[str, Any]) -> None:
        suite = parse_suite(
            data["name"],
            data["jsonl"],
            where=data["name"],
            require_splits=False,
            **data["settings"],
        )
        if suite.digest != data["digest"]:
            raise BadInput(
                "its digest is not that of its items",
                where=f"suite {suite.name!r}",
                mend="Worker and engine are of two releases: restart the worker",
            )
        self.suites[suite.digest] = suite
        self._send("done")

    def _evaluate(self, data: dict[str, Any]) -> None:
        started = time.monotonic()
        recipe = Recipe.from_dict(data["recipe"])
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        model = self.candidate.become(recipe)
        formed = time.monotonic()
        self.candidate.begin(recipe)
        work = self.group.agreed(
            lambda: [self._compiled(model, digest, data["split"]) for _, digest in data["suites"]]
        )
        compiled = time.monotonic()
        digest = self.candidate.weights_digest()
        try:
            tokens = self._score(model, [name for name, _ in data["suites"]], work)
            scored = time.monotonic()
            weights = digest.result(lambda: self._tell("digest", 1, 1))
        finally:
            # the buffer must not change under a digest that nobody waits for any more
            digest.stop()
        ended = time.monotonic()
        phases = {
            "form": formed - started,
            "compile": compiled - formed,
            "score": scored - compiled,
            "forward": model.forward_seconds,
            "digest": ended - scored,
            "total": ended - started,
        }
        kept = self.candidate.activations
        sizes = [self._peak_memory(), kept.memory_bytes, kept.file_bytes]
        ranks = self.group.collect(sizes)
        peak, in_memory, on_disk = (sum(rank[i] for rank in ranks) for i in range(3))
        self._send(
            "done",
            weights_digest=weights,
            phases=phases,
            tokens=tokens,
            peak_memory_bytes=peak,
            skipped_blocks=model.lower.depth,
            activation_memory_bytes=in_memory,
            activation_file_bytes=on_disk,
        )

    def _respond(self, data: dict[str, Any]) -> None:
        """Answer requests in lm-eval's terms; the candidate is formed if it is another one."""
        recipe = Recipe.from_dict(data["recipe"])
        model = self.candidate.become(recipe, unless_held=True)
        self.candidate.begin(recipe)
        requests, where = data["requests"], "lm-eval"
        names = [str(number) for number in range(len(requests))]

        def planned() -> RequestPlan:
            encoded = encode_requests(
                requests, model.encoder, names=names, where=where, truncate=True
            )
            return plan_requests(encoded, model, batch_tokens=self.batch_tokens)

        plan = self.group.agreed(planned)

        def tick(done: int) -> None:
            self._tell("score", done, plan.tokens)

        try:
            found = self.group.agreed(lambda: answer_requests(model, plan, where=where, tick=tick))
        finally:
            # these requests will not come again
            model.forget(plan.keys)
        self._send("done", values=found.values, truncated=plan.encoded.truncated)

    def _forget(self) -> None:
        """The model is another one: what was worked out for it does not count any more."""
        self.work.clear()

    def _compiled(self, model: LiveModel, digest: str, split: str | None) -> Work:
        """What is to be scored for one suite: worked out once per suite, split and tokenizer."""
        if (digest, split) not in self.work:
            suite = self.suites[digest]
            self._tell("compile", suite=suite.name)
            items = suite.items if split is None else suite.split(split)  # type: ignore[arg-type]
            plan: Plan
            if suite.task is not None:
                plan = compile_task(suite, items, model, batch_tokens=self.batch_tokens)
            else:
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

    def _score(self, model: LiveModel, names: list[str], work: list[Work]) -> int:
        """Score suite after suite, sending each as it is finished; tokens through the model."""
        total, before, tokens = sum(plan.tokens for _, _, plan in work), 0, 0
        for name, (suite, items, plan) in zip(names, work, strict=True):
            started = time.monotonic()

            def tick(done: int, *, before: int = before, name: str = name) -> None:
                self._tell("score", before + done, total, name)

            def score(
                suite: Suite = suite,
                items: tuple[Item, ...] = items,
                plan: Plan = plan,
                tick: Tick = tick,
            ) -> Scores:
                if isinstance(plan, TaskPlan):
                    return score_task(model, suite, items, plan, tick)
                return score_suite(model, suite, items, plan, tick)

            scores = self.group.agreed(score)
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
