"""A store in a directory: the default on a laptop, or a shared volume in a cluster.

Objects appear by an atomic rename or hard link only, so readers never see half of one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from services.checkpoints import FileInfo, hash_file
from services.checkpoints.files import CHUNK_BYTES
from services.errors import IntegrityError, NotFound
from services.store.base import (
    SMALL_OBJECT_MAX_BYTES,
    Entry,
    Store,
    check_key,
    check_sha256,
    disk_errors,
    sync_folder,
    temporary_name,
)

#: age at which a half-written file is taken for a dead writer's
STALE_SECONDS = 24 * 3600


class DirectoryStore(Store):
    """Keys are paths below `root`, which is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self.url = self.root.as_uri()

    def put_file(
        self, key: str, path: Path, sha256: str, progress: Callable[[int], None] | None = None
    ) -> None:
        target = self._path(key)
        if target.exists() and hash_file(target).sha256 == sha256:
            if progress:
                progress(target.stat().st_size)
            return
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(target)
            with replacing(target) as temporary:
                copied = copy_hashed(path, temporary, progress)
                check_sha256(copied.sha256, sha256, str(path))

    def get_file(
        self,
        key: str,
        path: Path,
        sha256: str | None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        source = self._existing(key)
        with disk_errors(str(path)), replacing(path) as temporary:
            copied = copy_hashed(source, temporary, progress)
            if sha256 is not None:
                check_sha256(copied.sha256, sha256, str(source))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_name(target)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    _sync(file)
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)
        return True

    def get_bytes(self, key: str, limit_bytes: int = SMALL_OBJECT_MAX_BYTES) -> bytes:
        source = self._existing(key)
        with disk_errors(str(source)), source.open("rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise IntegrityError(f"is larger than {limit_bytes} bytes", where=str(source))
        return data

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def entries(self, prefix: str) -> list[Entry]:
        found = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith("."):
                    stat = path.stat()
                    version = f"{stat.st_mtime_ns}-{stat.st_size}"
                    found.append(Entry(key=key, bytes=stat.st_size, version=version))
        return sorted(found, key=lambda entry: entry.key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _existing(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise NotFound("no such object", where=str(path), mend="Check the digest and the store")
        return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that replaces it on success and is removed on failure."""
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def copy_hashed(
    source: Path, target: Path, progress: Callable[[int], None] | None = None
) -> FileInfo:
    """Copy a file to a new one, return the hash of what was copied."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as copy:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
            if progress:
                progress(len(chunk))
        _sync(copy)
    return FileInfo(sha256=digest.hexdigest(), bytes=size)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove_stale(path: Path) -> None:
    """Remove what dead writers left beside `path`; living ones may finish while we look."""
    for left in path.parent.glob(f".{path.name[:200]}.*.part"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
