"""The ranks of one engine: started by rank 0, kept in step, ended together.

Rank 0 talks to the client and tells the others what to do over inherited socket pairs, so that no
port is opened for it. A step that may fail on one rank alone is run through `agreed`; a collective
operation is only entered where all ranks are known to go on. Never imports torch: the ranks start
while rank 0 still imports it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from services import errors
from services.errors import RemeltError
from workers.engine.channel import Channel
from workers.engine.process import exit_name

T = TypeVar("T")


class Stop(Exception):
    """The client told us to drop the running request."""


class Group:
    """All ranks as one of them sees them: rank 0 holds a channel to each other one, they one to it.

    All ranks must call `share`, `collect`, `agreed` and `stopped(together=True)` in the same order.
    """

    def __init__(self, rank: int, world: int, channels: Sequence[Channel] = ()) -> None:
        self.rank, self.world, self._channels = rank, world, tuple(channels)
        #: what rank 0 said of its own outcome before this rank asked for it
        self._early: dict[str, Any] | None = None

    def share(self, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """`data` of rank 0, on every rank."""
        if self.rank == 0:
            assert data is not None
            self._tell_others({"shared": data})
            return data
        shared: dict[str, Any] = self._hear("shared")
        return shared

    def collect(self, data: Any) -> list[Any]:
        """What every rank gave, on rank 0 in their order; an empty list on the others."""
        if self.rank == 0:
            return [data, *(self._hear("collected", channel) for channel in self._channels)]
        self._channels[0].send({"collected": data})
        return []

    def agreed(self, step: Callable[[], T]) -> T:
        """What `step` returns; if it raised Stop or a RemeltError on any rank, all raise that one.

        The step runs no collective operation, or one that it enters on all ranks or on none.
        """
        if self.world == 1:
            return step()
        value: T | None = None
        outcome: dict[str, Any] = {}
        try:
            value = step()
        except Stop:
            outcome = {"kind": "Stop"}
        except RemeltError as error:
            outcome = {
                "kind": type(error).__name__,
                "what": error.what,
                "where": error.where,
                "mend": error.mend,
            }
        if verdict := self._verdict(outcome):
            raise _error(verdict)
        return value  # type: ignore[return-value]

    def stopped(self, stop: bool, *, together: bool) -> bool:
        """Whether this rank is to stop: `stop` of rank 0.

        `together`: all ranks ask the same number of times and get the same answers. Otherwise a
        rank only looks whether rank 0 has given up the step that both run through `agreed`.
        """
        if self.rank == 0:
            if together and self.world > 1:
                self._tell_others({"stop": stop})
            return stop
        if together:
            return bool(self._hear("stop"))
        if self._early is None and (message := self._receive(0.0)) is not None:
            self._early = message["outcome"]
        return bool(self._early)

    def _verdict(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The first failure in the order of the ranks, empty if there is none."""
        if self.rank == 0:
            self._tell_others({"outcome": outcome})
            heard = [self._hear("outcome", channel) for channel in self._channels]
            verdict: dict[str, Any] = next((one for one in (outcome, *heard) if one), {})
            self._tell_others({"verdict": verdict})
            return verdict
        if self._early is None:
            self._hear("outcome")
        self._early = None
        self._channels[0].send({"outcome": outcome})
        found: dict[str, Any] = self._hear("verdict")
        return found

    def _tell_others(self, data: dict[str, Any]) -> None:
        for channel in self._channels:
            channel.send(data)

    def _hear(self, what: str, channel: Channel | None = None) -> Any:
        """The next message with `what`; a rank that failed in step skips what it was told since."""
        while True:
            message = self._receive(None, channel)
            assert message is not None
            if what in message:
                return message[what]

    def _receive(
        self, timeout: float | None, channel: Channel | None = None
    ) -> dict[str, Any] | None:
        message = (channel or self._channels[0]).receive(timeout)
        return None if message is None else message.data


def _error(outcome: dict[str, Any]) -> Exception:
    if outcome["kind"] == "Stop":
        return Stop()
    kind: type[RemeltError] = getattr(errors, outcome["kind"])
    return kind(outcome["what"], where=outcome["where"], mend=outcome["mend"])


def open_meeting() -> int | None:
    """A descriptor of a file without a name, through which the ranks' communication libraries
    find each other: nothing is left of it, however they end. None where the system has no such."""
    return os.memfd_create("remelt-ranks") if hasattr(os, "memfd_create") else None


def start_others(
    world: int, meeting: int | None
) -> tuple[list[Channel], list[subprocess.Popen[bytes]]]:
    """Start ranks 1 to `world` - 1 like this one, in its process group; channels to each."""
    channels, children = [], []
    for rank in range(1, world):
        mine, theirs = socket.socketpair()
        options = {"rank": rank, "fd": theirs.fileno(), "parent": os.getpid()}
        if meeting is not None:
            options["meeting"] = meeting
        with theirs:
            child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "workers.engine", *sys.argv[1:], "--die-with-parent"),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *([] if meeting is None else [meeting])],
            )
        channels.append(Channel(mine))
        children.append(child)
    return channels, children


def watch(children: Sequence[subprocess.Popen[bytes]], ended: Callable[[str], None]) -> None:
    """Call `ended` from a thread, with a line for people, as soon as any child ends."""

    def wait(rank: int, child: subprocess.Popen[bytes]) -> None:
        ended(f"rank {rank} ended with {exit_name(child.wait())}")

    for rank, child in enumerate(children, start=1):
        threading.Thread(target=wait, args=(rank, child), name=f"rank-{rank}", daemon=True).start()
