"""What an engine does with a request: keep a pool, keep a suite, form and score a candidate.

All ranks of an engine run this on the same requests. A step that can fail on one of them alone is
run through `Group.agreed`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import torch

from optim.descent import Job, State
from optim.recipe import Recipe
from services.errors import BadInput
from services.suites import parse_suite
from workers.engine.answer import RequestPlan, answer_requests, plan_requests
from workers.engine.candidate import Candidate
from workers.engine.descent import Descent
from workers.engine.lower import Activations
from workers.engine.plans import Plans
from workers.engine.requests import encode_requests
from workers.engine.scoring import Scoring
from workers.engine.session import Session
from workers.engine.tiers import Tier

#: on a CPU larger batches fall out of the caches: with 512 SmolLM2-135M was 1.45 times as fast as
#: with 2048 and as fast as with 256, stories260K within 5 % of its best. Each step of generation
#: reads all weights, however many rows it has
CPU_BATCH_TOKENS, CPU_GENERATION_TOKENS = 512, 2048


class Server:
    """One rank's suites, and what is asked of its candidate."""

    def __init__(
        self,
        session: Session,
        *,
        device: torch.device,
        compute: str,
        batch_tokens: int,
        parallel: str,
        meeting: int | None,
        activations: Activations,
        tier: Tier | None = None,
        plain: bool = False,
        compiling: bool = False,
    ) -> None:
        self.session, self.group, self.device = session, session.group, device
        cpu = device.type == "cpu"
        self.batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS) if cpu else batch_tokens
        self.generation_tokens = min(batch_tokens, CPU_GENERATION_TOKENS) if cpu else batch_tokens
        self.plans = Plans(
            batch_tokens=self.batch_tokens,
            generation_tokens=self.generation_tokens,
            tell=lambda suite: session.tell("compile", suite=suite),
        )
        self.candidate = Candidate(
            session.group, device=device, compute=compute, parallel=parallel, meeting=meeting,
            tier=tier, activations=activations, plain=plain, compiling=compiling,
            tell=session.tell, forget=self.plans.forget,
        )  # fmt: skip

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
        elif data["op"] == "respond":
            self._respond(data)
        elif data["op"] == "descend":
            self._descend(data)
        else:
            raise BadInput(f"operation {data['op']!r} is not known", where="engine")

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
        self.plans.forget()
        checkpoints = [(digest, Path(path)) for digest, path in data["checkpoints"]]
        pool, choice = self.candidate.load(checkpoints, data["dtype"])
        sys.stderr.write(f"pool {pool.plan}; {choice.kind}: {choice.why}\n")
        assert self.candidate.live is not None
        dtype = str(self.candidate.live.dtype).removeprefix("torch.")
        assert self.candidate.model is not None
        self.session.send(
            "done",
            pool=pool.plan,
            parallel=choice.kind,
            parallel_why=choice.why,
            dtype=dtype,
            **self.candidate.model.layers.about,
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
        self.plans.suites[suite.digest] = suite
        self.session.send("done")

    def _evaluate(self, data: dict[str, Any]) -> None:
        started = time.monotonic()
        recipe = Recipe.from_dict(data["recipe"])
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        model = self.candidate.become(recipe)
        formed = time.monotonic()
        self.candidate.begin(recipe)
        work = self.group.agreed(
            lambda: self.plans.work(model, data["suites"], data["split"], data.get("raced", ()))
        )
        compiled = time.monotonic()
        digest = self.candidate.weights_digest()
        try:
            tokens = Scoring(self.session, model, work).run(data.get("seed", 0))
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
            "forward": model.forward_seconds,
            "digest": ended - scored,
            "total": ended - started,
        }
        kept = self.candidate.activations
        sizes = [self._peak_memory(), kept.memory_bytes, kept.file_bytes]
        ranks = self.group.collect(sizes)
        peak, in_memory, on_disk = (sum(rank[i] for rank in ranks) for i in range(3))
        self.session.send(
            "done",
            weights_digest=weights,
            phases=phases,
            tokens=tokens,
            peak_memory_bytes=peak,
            skipped_blocks=model.lower.depth,
            activation_memory_bytes=in_memory,
            activation_file_bytes=on_disk,
            **model.layers.about,
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
            return plan_requests(
                encoded,
                model,
                batch_tokens=self.batch_tokens,
                generation_tokens=self.generation_tokens,
            )

        plan = self.group.agreed(planned)

        def tick(done: int) -> None:
            self.session.tell("score", done, plan.tokens)

        try:
            found = self.group.agreed(lambda: answer_requests(model, plan, where=where, tick=tick))
        finally:
            # these requests will not come again
            model.forget(plan.keys)
        self.session.send(
            "done",
            values=found.values,
            truncated=plan.encoded.truncated,
            **model.layers.about,
        )

    def _descend(self, data: dict[str, Any]) -> None:
        """Steps down a loss; the state goes to the client every few seconds, and at the end."""
        job = Job.from_dict(data["job"])
        state = None if data["state"] is None else State.from_bytes(b64decode(data["state"]))
        descent = Descent(
            job,
            self.candidate,
            {name: self.plans.suites[digest] for name, digest in data["suites"]},
            batch_tokens=self.batch_tokens,
            tell=lambda done, total: self.session.tell("descend", done, total),
        )
        sent = time.monotonic()

        def save(now: State) -> None:
            nonlocal sent
            if time.monotonic() - sent >= data["save_seconds"]:
                self.session.send("state", {"values": now.values}, about=now.about())
                sent = time.monotonic()

        end = descent.run(state, save)
        self.session.send(
            "done",
            {"values": end.values},
            about=end.about(),
            recipe=descent.blocks.recipe(end.x, job.parents, job.dtype).to_dict(),
            weights=descent.blocks.mean(end.x, descent.counts),
            steps=descent.steps,
            coefficients=descent.blocks.size,
        )

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
