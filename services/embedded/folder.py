"""What both embedded servers need of the file system: private folders, a lock, short socket paths."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: a Unix socket's path must fit in sockaddr_un, with room for the socket's own name
MAX_SOCKET_FOLDER = 80


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can enter."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


@contextmanager
def locked(home: Path, name: str) -> Iterator[None]:
    """Be the only process that starts or stops the server `name` under `home`."""
    private_folder(home)
    with (home / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def socket_folder(home: Path) -> Path:
    """Where sockets live: `home/run`, or a short private folder named after it when too long."""
    folder = (home / "run").resolve()
    if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER:
        return private_folder(folder)
    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return private_folder(Path(tempfile.gettempdir()) / f"remelt-{os.getuid()}-{mark}")


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
