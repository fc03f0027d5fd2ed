"""The engine's process group and the conversation with it: started, asked, waited for, killed.

Never imports torch. Every wait has an end: death is noticed at once, silence after
`settings.engine_hang_seconds`, and either one is an EngineFailed that another attempt may mend.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from services import errors
from services.errors import BadInput, EngineFailed, RemeltError
from services.settings import Settings
from workers.engine.channel import Channel, ChannelClosed, Message
from workers.engine.process import Compute, exit_name, kill_group, start_group
from workers.engine.results import Progress

#: seconds between two looks at the channel; `on_tick` is called at least that often
TICK_SECONDS = 0.25
#: how long the engine may take to notice an abort before it is killed
ABORT_SECONDS = 10.0
#: how long it may take to end by itself after `close`
CLOSE_SECONDS = 5.0


class Aborted(Exception):
    """The caller's `on_tick` said stop; the engine is ready for the next request, or was killed."""


OnTick = Callable[[Progress], bool]
#: gets the messages of a request but for progress and its end
OnMessage = Callable[[Message], None]


class Connection(ABC):
    """One engine group. Not for use by two threads at once, except for `kill`. A `plain` one
    computes every row and every candidate from the bottom: slower, for looking into differences."""

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
        self._forget()
        self._process, self._channel = start_group(
            self._settings, self._compute, self.log_path, plain=self._plain
        )
        try:
            done = self._wait(0, Progress(phase="start"), on_tick, None)
        except BadInput:
            self.kill()
            raise
        self.about = done.data["about"]

    @abstractmethod
    def _forget(self) -> None:
        """A new group holds nothing of what an earlier one was given."""

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
