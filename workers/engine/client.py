"""The Celery worker's side of the engine: starts its process group, asks, waits, kills.

Never imports torch. Every wait has an end: death is noticed at once, silence after
`settings.engine_hang_seconds`, and either one is an EngineFailed that another attempt may mend.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from optim.descent import Job, State
from optim.recipe import Recipe
from services import errors
from services.errors import BadInput, EngineFailed, RemeltError
from services.settings import Settings
from services.suites import Split, Suite
from workers.engine.channel import Channel, ChannelClosed, Message
from workers.engine.process import Compute, exit_name, kill_group, start_group
from workers.engine.results import (
    DescentResult,
    EvaluationResult,
    Progress,
    Race,
    SuiteResult,
    state_of,
    suite_result,
)

#: seconds between two looks at the channel; `on_tick` is called at least that often
TICK_SECONDS = 0.25
#: how long the engine may take to notice an abort before it is killed
ABORT_SECONDS = 10.0
#: how long it may take to end by itself after `close`
CLOSE_SECONDS = 5.0
#: said of an engine's layers with a pool, and again after each use
COMPILED = ("compiled", "compiled_why")


class Aborted(Exception):
    """The caller's `on_tick` said stop; the engine is ready for the next request, or was killed."""


class Stopped(Exception):
    """The race said stop: enough is known of this candidate. The engine is ready for the next."""

    def __init__(self, tokens: int) -> None:
        super().__init__("stopped by the race")
        #: that went through the model, as far as it said
        self.tokens = tokens


OnTick = Callable[[Progress], bool]
OnSuite = Callable[[SuiteResult], None]
#: gets the messages of a request but for progress and its end
OnMessage = Callable[[Message], None]


class Engine:
    """One engine group and the pool that is resident in it. Not for use by two threads at once,
    except for `kill`. A `plain` one computes every row and every candidate from the bottom: slower,
    for looking into differences."""

    def __init__(
        self,
        settings: Settings,
        *,
        log_dir: Path,
        compute: Compute = "auto",
        plain: bool = False,
    ) -> None:
        self._settings, self._compute, self._plain = settings, compute, plain
        self.log_path = log_dir / f"engine-{os.getpid()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._pool: tuple[Any, ...] | None = None
        self._suites: set[str] = set()
        #: what the engine said of itself: pid, device, ranks, threads, batch_tokens, versions; with
        #: a pool also where that lives, the dtype of the forward pass, how the model is spread over
        #: the ranks and why, and whether its layers ran compiled so far and why
        self.about: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Whether the group runs; a hung one does too."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of rank 0, which is also the id of the process group."""
        return None if self._process is None else self._process.pid

    def start(self, on_tick: OnTick | None = None) -> None:
        """Start the group and wait until it is ready; no-op while it is alive."""
        if self.alive:
            return
        self.kill()
        self._pool, self._suites = None, set()
        self._process, self._channel = start_group(
            self._settings, self._compute, self.log_path, plain=self._plain
        )
        try:
            done = self._wait(0, Progress(phase="start"), on_tick, None)
        except BadInput:
            self.kill()
            raise
        self.about = done.data["about"]

    def load(
        self,
        checkpoints: Sequence[tuple[str, Path]],
        dtype: str,
        on_tick: OnTick | None = None,
    ) -> None:
        """Make (digest, folder) pairs the resident pool; no-op while the same pool is resident.

        `dtype` is that of the recipes to come. Starts the group if it does not run. Raises
        BadInput, IntegrityError, EngineFailed, Aborted.
        """
        wanted = (dtype, tuple((digest, str(path)) for digest, path in checkpoints))
        if self.alive and self._pool == wanted:
            return
        self.start(on_tick)
        self._pool = None
        request = {"op": "load", "checkpoints": wanted[1], "dtype": dtype}
        done = self._ask(request, Progress(phase="load"), on_tick, None)
        self._told(done, "pool", "parallel", "parallel_why", "dtype", *COMPILED)
        self._pool = wanted

    def evaluate(
        self,
        recipe: Recipe,
        suites: Sequence[Suite],
        split: Split | str | None,
        *,
        on_suite: OnSuite | None = None,
        on_tick: OnTick | None = None,
        race: Race | None = None,
    ) -> EvaluationResult:
        """Form the candidate in place and score every suite on one split (None: all items).

        `on_suite` gets each suite as it is finished; `on_tick` is called a few times a second and
        stops the evaluation by returning False. A `race` is told of what was scored, after
        `on_suite`, and may stop it too. Raises Aborted, Stopped, TrialRejected, BadInput,
        EngineFailed.
        """
        self._give(suites, on_tick)
        known = {suite.name: suite for suite in suites}

        tokens = 0

        def heard(message: Message) -> None:
            nonlocal tokens
            data, goes_on = message.data, True
            if data["event"] == "suite":
                done = suite_result(message, known[data["suite"]], split)
                if on_suite is not None:
                    on_suite(done)
                goes_on = race is None or race.suite(done.suite, done.predictions)
            elif data["event"] == "order" and race is not None:
                items = np.split(message.arrays["items"], np.cumsum(message.arrays["sizes"])[:-1])
                race.order(list(zip(data["suites"], items, strict=True)))
            elif data["event"] == "block" and race is not None:
                tokens = data["tokens"]
                goes_on = race.block(data["block"], message.arrays)
            if not goes_on:
                raise Stopped(tokens)

        request = {
            "op": "evaluate",
            "recipe": recipe.to_dict(),
            "suites": [[suite.name, suite.digest] for suite in suites],
            "split": split,
            "raced": [] if race is None else sorted(race.suites),
            "seed": 0 if race is None else race.seed,
        }
        done = self._ask(request, Progress(phase="form"), on_tick, heard)
        self._told(done, *COMPILED)
        return EvaluationResult(
            weights_digest=done.data["weights_digest"],
            phases=done.data["phases"],
            tokens=done.data["tokens"],
            peak_memory_bytes=done.data["peak_memory_bytes"],
            skipped_blocks=done.data["skipped_blocks"],
            activation_memory_bytes=done.data["activation_memory_bytes"],
            activation_file_bytes=done.data["activation_file_bytes"],
            compiled=done.data["compiled"],
        )

    def descend(
        self,
        job: Job,
        suites: Sequence[Suite],
        *,
        state: State | None = None,
        save_seconds: float = 5.0,
        on_state: Callable[[State], None] | None = None,
        on_tick: OnTick | None = None,
    ) -> DescentResult:
        """Carry out a descent on the search split of its suites, from `state` or the beginning.

        `on_state` gets where it stands every `save_seconds`; `on_tick` as for `evaluate`. Raises
        what `evaluate` raises.
        """
        self._give(suites, on_tick)

        def saved(message: Message) -> None:
            if on_state is not None:
                on_state(state_of(message))

        request = {
            "op": "descend",
            "job": job.to_dict(),
            "suites": [[suite.name, suite.digest] for suite in suites],
            "state": None if state is None else b64encode(state.to_bytes()).decode(),
            "save_seconds": save_seconds,
        }
        done = self._ask(request, Progress(phase="build"), on_tick, saved)
        return DescentResult(
            recipe=Recipe.from_dict(done.data["recipe"]),
            weights=tuple(done.data["weights"]),
            state=state_of(done),
            steps=done.data["steps"],
            coefficients=done.data["coefficients"],
        )

    def _give(self, suites: Sequence[Suite], on_tick: OnTick | None) -> None:
        """Send the suites that the engine does not have."""
        if not self.alive or self._channel is None:
            raise EngineFailed("the engine does not run", mend="Load the pool again")
        for suite in suites:
            if suite.digest not in self._suites:
                request = {"op": "suite", **_suite_message(suite)}
                self._ask(request, Progress(phase="compile", suite=suite.name), on_tick, None)
                self._suites.add(suite.digest)

    def respond(
        self,
        recipe: Recipe,
        requests: Sequence[Sequence[Any]],
        *,
        on_tick: OnTick | None = None,
    ) -> tuple[list[Any], int]:
        """Answers of a candidate to requests in lm-eval's terms (`workers.engine.requests`).

        Also how many of them were too long and lost tokens on the left. Raises what `evaluate`
        raises.
        """
        if not self.alive or self._channel is None:
            raise EngineFailed("the engine does not run", mend="Load the pool again")
        request = {
            "op": "respond",
            "recipe": recipe.to_dict(),
            "requests": [list(one) for one in requests],
        }
        done = self._ask(request, Progress(phase="form"), on_tick, None)
        self._told(done, *COMPILED)
        return done.data["values"], done.data["truncated"]

    def close(self) -> None:
        """Let the group end by itself, then make sure that it did."""
        if self._process is not None and self._channel is not None:
            self._channel.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the whole group at once; safe to call twice and from another thread."""
        process, self._process = self._process, None
        if process is not None:
            kill_group(process)
        if self._channel is not None:
            self._channel.close()
        self._pool = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _told(self, done: Message, *names: str) -> None:
        self.about = {**self.about, **{name: done.data[name] for name in names}}

    def _ask(
        self,
        request: dict[str, Any],
        progress: Progress,
        on_tick: OnTick | None,
        on_message: OnMessage | None,
    ) -> Message:
        number = next(self._numbers)
        self._send({**request, "number": number})
        try:
            return self._wait(number, progress, on_tick, on_message)
        except (RemeltError, Aborted):
            raise
        except BaseException:
            # stopped by the caller while the engine works on: stop that too, then pass it on
            self._abort(number)
            raise

    def _send(self, data: Mapping[str, Any]) -> None:
        assert self._channel is not None
        try:
            self._channel.send(data)
        except ChannelClosed as error:
            raise self._failed(str(error)) from error

    def _wait(
        self,
        number: int,
        progress: Progress,
        on_tick: OnTick | None,
        on_message: OnMessage | None,
    ) -> Message:
        """Handle messages of request `number` until it ends; errors are raised as their class."""
        heard = ticked = time.monotonic()
        while True:
            message = self._receive(TICK_SECONDS)
            now = time.monotonic()
            if message is not None:
                heard = now
                if message.data.get("number") == number:
                    event = message.data["event"]
                    if event == "done":
                        return message
                    if event == "error":
                        raise self._error(message.data)
                    if event == "progress":
                        progress = Progress(**message.data["progress"])
                    elif on_message is not None:
                        on_message(message)
            elif now - heard > self._settings.engine_hang_seconds:
                raise self._failed(f"silent for {now - heard:.0f} s while in {progress.phase!r}")
            if on_tick is not None and now - ticked >= TICK_SECONDS:
                ticked = now
                if not on_tick(progress):
                    self._abort(number)
                    raise Aborted(f"stopped in {progress.phase!r}")

    def _receive(self, timeout: float) -> Message | None:
        assert self._channel is not None
        try:
            return self._channel.receive(timeout)
        except ChannelClosed as error:
            raise self._failed(str(error)) from error

    def _abort(self, number: int) -> None:
        """Tell the engine to stop, wait until it did; kill it if it does not."""
        deadline = time.monotonic() + ABORT_SECONDS
        try:
            self._send({"op": "abort", "number": number})
            while time.monotonic() < deadline:
                message = self._receive(TICK_SECONDS)
                ended = message is not None and message.data.get("event") in ("done", "error")
                if ended and message is not None and message.data["number"] == number:
                    return
        except EngineFailed:
            pass
        self.kill()

    def _error(self, data: Mapping[str, Any]) -> RemeltError:
        kind = getattr(errors, str(data["kind"]), EngineFailed)
        if not (isinstance(kind, type) and issubclass(kind, RemeltError)):
            kind = EngineFailed
        if issubclass(kind, EngineFailed):
            return self._failed(data["what"])
        return kind(data["what"], where=data["where"], mend=data["mend"])

    def _failed(self, what: str) -> EngineFailed:
        """Kill the group and say how it ended."""
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.5)
        self.kill()
        ended = "was killed" if code is None else f"ended with {exit_name(code)}"
        return EngineFailed(
            f"the engine {ended}: {what}",
            mend=f"It starts anew with the next try; its log is {self.log_path}",
        )


def _suite_message(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "digest": suite.digest,
        "jsonl": suite.to_jsonl(),
        "settings": suite.settings,
    }
