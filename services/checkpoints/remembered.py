"""Hashes of files that were read before, while the file system says that they are unchanged.

Saves reading a pool again for every merge of it. What is published never relies on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from services.checkpoints.files import FileInfo

#: a file changed this shortly before it was read could change again within one tick of its clock
SETTLED_SECONDS = 2.0


class Remembered:
    """Hashes by path, in a folder: one small file for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: how files looked when their hash was asked for, and was not known
        self._before: dict[Path, dict[str, int]] = {}

    def hash_of(self, path: Path) -> FileInfo | None:
        """What was kept of this very file, unless it was touched since; None: read it, then
        `keep` its hash."""
        try:
            marks = self._before[path] = _marks(path)
            kept = json.loads(self._place(path).read_text(encoding="utf-8"))
            if kept["marks"] == marks:
                return FileInfo(sha256=kept["sha256"], bytes=kept["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def keep(self, path: Path, info: FileInfo) -> None:
        """Remember a hash that was not known, unless the file changed while it was read."""
        try:
            marks = _marks(path)
            if marks != self._before.get(path) or marks["bytes"] != info.bytes:
                return
            if time.time() - marks["changed"] / 1e9 < SETTLED_SECONDS:
                return
            place = self._place(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            new = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
            new.write_text(json.dumps({**info.to_dict(), "marks": marks}), encoding="utf-8")
            os.replace(new, place)
        except OSError:
            return

    def _place(self, path: Path) -> Path:
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        return self.folder / f"{name}.json"


def _marks(path: Path) -> dict[str, int]:
    """What the file system changes with a file; its time of change cannot be set by hand."""
    found = path.lstat()
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "bytes": found.st_size,
        "written": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
    }
