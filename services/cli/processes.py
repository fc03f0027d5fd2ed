"""A group of child processes that live and die together, each with a log file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from services.errors import RemeltError

#: how long children get to end by themselves
GRACE_SECONDS = 15.0


class Group:
    """Children started together. When one ends by itself, or on a signal, all are ended."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        """Start a child whose output goes to `logs/NAME.log`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Return after a signal; raise RemeltError when a child ended by itself."""
        stop = {"asked": False}

        def ask(*_: Any) -> None:
            stop["asked"] = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask)
        ended: str | None = None
        while not stop["asked"] and ended is None:
            time.sleep(0.2)
            ended = next((n for n, p in self._children.items() if p.poll() is not None), None)
        code = None if ended is None else self._children[ended].returncode
        self.stop()
        if ended is not None:
            raise RemeltError(
                f"{ended} ended with code {code}",
                mend=f"See {self.logs / f'{ended}.log'}, or run `{sys.argv[0]} doctor`",
            )

    def stop(self) -> None:
        """Ask every child to end, then insist."""
        for process in self._children.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for name, process in self._children.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                click.echo(f"{name} did not end in time and is killed", err=True)
                process.kill()
                process.wait()
