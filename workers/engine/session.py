"""One rank's side of the conversation: requests in, progress and results out, errors sent back.

Lives as long as its parent and no longer. An error that Remelt can explain is sent back and the
engine goes on; any other one ends the process, because its state can no longer be trusted.

Every rank runs the same code on the same requests; only rank 0 hears the client and speaks to it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from services.errors import RemeltError
from workers.engine.channel import Channel, ChannelClosed
from workers.engine.group import Group, Stop

#: smallest pause between two progress messages
PROGRESS_SECONDS = 0.1
#: how often the parent is looked for
PARENT_SECONDS = 1.0
#: phases in which the ranks talk to each other: they stop at the same message, or not at all
TOGETHER = frozenset({"score", "digest", "descend"})


class Session:
    """Requests of one client over `channel` (rank 0's alone; None on the others)."""

    def __init__(self, channel: Channel | None, group: Group, *, parent: int) -> None:
        self.channel, self.group, self.parent = channel, group, parent
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        #: of the running request, and of the one that the client dropped
        self._number, self._aborted = 0, -1
        self._told = 0.0

    def serve(self, begin: Callable[[], None], answer: Callable[[dict[str, Any]], None]) -> None:
        """Call `begin`, then `answer` for every request for ever; the process ends from the thread
        that minds its parent."""
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        self._guarded(begin)
        while True:
            data = self.group.share(self._inbox.get() if self.channel else None)
            self._number = data.get("number", 0)
            self._guarded(lambda data=data: answer(data))  # type: ignore[misc]

    def send(self, event: str, arrays: dict[str, Any] | None = None, **data: Any) -> None:
        """Send rank 0's word on the running request to the client."""
        if self.channel is not None:
            self.channel.send({"event": event, "number": self._number, **data}, arrays)

    def tell(self, phase: str, done: int = 0, total: int = 0, suite: str | None = None) -> None:
        """Report progress, not too often; raises Stop if the client no longer wants the result.

        In the phases TOGETHER all ranks call it equally often and stop at the same call.
        """
        if self.group.stopped(self._aborted == self._number, together=phase in TOGETHER):
            raise Stop
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            progress = {"phase": phase, "suite": suite, "done": done, "total": total}
            self.send("progress", progress=progress)

    def rank_ended(self, what: str) -> None:
        """Another rank is gone: nothing that this one computes can be finished."""
        with suppress(ChannelClosed):
            self._send_error("EngineFailed", what)
        os._exit(1)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`, and send back what went wrong."""
        try:
            work()
        except Stop:
            self._send_error("EngineFailed", "aborted")
        except RemeltError as error:
            self._send_error(type(error).__name__, error.what, error.where, error.mend)
        except ChannelClosed:
            # rank 0 or the client is gone
            os._exit(1)
        except Exception as error:
            traceback.print_exc()
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self._send_error("EngineFailed", what)
            raise

    def _send_error(self, kind: str, what: str, where: str = "", mend: str = "") -> None:
        self.send("error", kind=kind, what=what, where=where, mend=mend)

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
                    self._aborted = message.data["number"]
                else:
                    self._inbox.put(message.data)
        except ChannelClosed:
            pass
        os._exit(0)
