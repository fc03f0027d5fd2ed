"""The contract of an object store, and what both kinds of store need to keep it.

Nothing here trusts a key, a size or a hash that came from elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.errors import BadInput, IntegrityError, Unavailable

#: called with (bytes done, bytes in all)
Progress = Callable[[int, int], None]
#: called with a path, answers the free bytes of its file system
FreeBytes = Callable[[Path], int]

#: what `get_bytes` reads at most unless told otherwise
SMALL_OBJECT_MAX_BYTES = 16 * 2**20
#: left free on a disk that a transfer fills
SPARE_BYTES = 64 * 2**20

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,254}")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a listing."""

    key: str
    bytes: int
    #: changes whenever the object does (ETag, or time and size)
    version: str


class Store(ABC):
    """Keys to bytes. What every implementation promises:

    - A key is visible only with all its bytes; a crash in `put_file` or `put_if_absent` leaves
      either the old state or the new one.
    - `put_file` stores exactly the bytes whose SHA-256 it was given, or raises IntegrityError.
    - `get_file` leaves `path` either untouched or with bytes of that SHA-256.
    - Of many concurrent `put_if_absent` calls for one key one writes; all the others change
      nothing.
    - Calls may be repeated; a store object serves one thread at a time.

    Absent keys raise NotFound, a server that does not answer Unavailable, a refusal of the
    server (rights, keys, bucket) BadInput. No message holds a secret.
    """

    #: where it is, for people; without credentials
    url: str

    @abstractmethod
    def put_file(
        self, key: str, path: Path, sha256: str, progress: Callable[[int], None] | None = None
    ) -> None:
        """Store a file's bytes; nothing is sent when the key already holds them."""

    @abstractmethod
    def get_file(
        self,
        key: str,
        path: Path,
        sha256: str | None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Fetch an object into `path` through a unique temporary name beside it.

        `sha256` None: unknown, only the size is checked.
        """

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store small data unless the key exists; whether it was written.

        False can also mean that an earlier try of this very call did write (its answer was lost):
        a caller that needs to know compares the bytes.
        """

    @abstractmethod
    def get_bytes(self, key: str, limit_bytes: int = SMALL_OBJECT_MAX_BYTES) -> bytes:
        """A small object's bytes; IntegrityError when it is larger than the limit."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""

    @abstractmethod
    def entries(self, prefix: str) -> list[Entry]:
        """Every object whose key starts with `prefix`, sorted by key."""

    def list(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def close(self) -> None:
        """Give connections back; the store must not be used afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_key(key: str) -> str:
    """The key itself; BadInput unless it is bare names joined by single slashes."""
    if len(key) > 900 or not all(_SEGMENT.fullmatch(part) for part in key.split("/")):
        raise BadInput(
            f"{key[:200]!r} is no key of a store",
            mend="Use names of letters, digits, '.', '_', '-', joined by '/'",
        )
    return key


def check_sha256(found: str, expected: str, where: str) -> None:
    """IntegrityError when bytes do not have the hash that was promised."""
    if found != expected:
        raise IntegrityError(
            f"its bytes have SHA-256 {found[:12]}…, expected {expected[:12]}…",
            where=where,
            mend="Publish it again from its source",
        )


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses; hidden, ends in .part."""
    return path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex}.part")


def disk_free_bytes(path: Path) -> int:
    """Free bytes where `path` lies or will lie."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(folder: Path, needed: int, free_bytes: FreeBytes = disk_free_bytes) -> None:
    """Unavailable when `needed` bytes and a reserve do not fit where `folder` lies."""
    free = free_bytes(folder)
    if free < needed + SPARE_BYTES:
        raise Unavailable(
            f"needs {(needed + SPARE_BYTES) / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free",
            where=str(folder),
            mend="Free disk space or choose another folder",
        )


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that is told the bytes of each step and reports their sum."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return tick


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn a full or read-only disk into Unavailable with a mend."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            what, mend = "the disk is full", "Free disk space and try again"
        else:
            what = f"cannot be read or written ({error.strerror})"
            mend = "Check the path and its rights"
        raise Unavailable(what, where=where, mend=mend) from error
