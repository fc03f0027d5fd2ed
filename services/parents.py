"""Where the parents of a merge file are: folders, places in S3, members of a pool, cached models.

Nothing is fetched from a hub: a hub's id means the snapshot that is in its cache already.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from services import registry
from services.checkpoints.files import belongs
from services.errors import BadInput, NotFound
from services.settings import Settings


def place_finder(file: Path, config: Settings) -> Callable[[str], Path]:
    """A function from a name in the merge file to a folder; it raises NotFound.

    A name is a path (from the current folder, else from the file's), s3://… or file://…, or a
    hub's id, `org/model` or `org/model@revision`, whose snapshot lies in the cache.
    """

    def find(name: str) -> Path:
        if "://" in name:
            return registry.local_path(name, config)
        for path in (Path(name), file.parent / name):
            if path.expanduser().is_dir():
                return path.expanduser()
        snapshot = _cached_snapshot(name)
        if snapshot is None:
            raise NotFound(
                f"{name[:200]!r} is neither a folder nor a model in the hub's cache",
                where=str(file),
                mend="Correct the path, or fetch the model first: nothing is downloaded here",
            )
        return _without_links(snapshot, config.home / "cache" / "hub")

    return find


def member_finder(pool: registry.Pool, config: Settings) -> Callable[[str], Path]:
    """A function from a member's name or digest (12 digits are enough) to its folder."""

    def find(name: str) -> Path:
        for member in pool.members:
            if name == member.name or (len(name) >= 12 and member.digest.startswith(name)):
                return registry.local_path(member.uri, config)
        names = ", ".join(member.name for member in pool.members)
        raise NotFound(f"no member {name[:80]!r}", where=f"pool {pool.name}", mend=f"Has: {names}")

    return find


def _cached_snapshot(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        found = snapshot_download(repository, revision=revision or None, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return Path(found)


def _without_links(snapshot: Path, into: Path) -> Path:
    """The snapshot as plain files: the cache keeps links, which are followed nowhere else."""
    blobs = snapshot.parents[1] / "blobs"
    target = into / f"{snapshot.parents[1].name}--{snapshot.name}"
    if target.is_dir():
        return target
    folder = into / f".{target.name}.{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        for entry in snapshot.iterdir():
            real = entry.resolve()
            if not belongs(entry.name) or not real.is_file():
                continue
            if real.parent not in (blobs, snapshot.resolve()):
                raise BadInput("leads out of the cache", where=str(entry), mend="Remove it")
            try:
                os.link(real, folder / entry.name)
            except OSError:
                shutil.copyfile(real, folder / entry.name)
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target
