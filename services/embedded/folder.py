"""What both embedded servers need of the machine: private folders, a lock, short socket paths, and
who a process id belongs to. Never enters a folder that another user could have prepared.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import Unavailable

#: a Unix socket's path must fit in sockaddr_un, with room for the socket's own name
MAX_SOCKET_FOLDER_BYTES = 80


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can enter; raises Unavailable if it is somebody else's."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.geteuid():
        raise Unavailable(
            "the folder is a link or belongs to another user",
            where=str(path),
            mend="Remove it, or set REMELT_HOME to a folder of your own",
        )
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
    folder = home / "run"
    if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER_BYTES:
        return private_folder(folder)
    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    # not tempfile.gettempdir(): every process must find the same folder, whatever its TMPDIR
    return private_folder(Path("/tmp") / f"remelt-{os.geteuid()}-{mark}")


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def command_line(pid: int) -> list[str]:
    """The arguments a running process was started with; [] when there is none, or only its corpse.

    A process id in a file may be a stranger's by now: the arguments tell.
    """
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in text.split(b"\0") if part]
