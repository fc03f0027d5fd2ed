"""Fetching a checkpoint that a user names by URL: a plain Hugging Face folder, or a published one.

Only files that belong to a checkpoint are fetched, from buckets of the allow-list; what they hold
is judged afterwards by `services.checkpoints`, like any other input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from services.checkpoints import FileInfo, parse_manifest
from services.checkpoints.files import MANIFEST_NAME, SHARD_NAME, belongs
from services.errors import BadInput, CheckpointRefused, IntegrityError, NotFound
from services.settings import Settings
from services.store.base import (
    Entry,
    FreeBytes,
    Progress,
    Store,
    check_space,
    counter,
    disk_errors,
    disk_free_bytes,
)
from services.store.transfer import fill_folder
from services.store.urls import local_path, open_store


def fetch_checkpoint(
    uri: str,
    into: Path,
    settings: Settings,
    progress: Progress | None = None,
    *,
    free_bytes: FreeBytes = disk_free_bytes,
) -> Path:
    """The local folder of the checkpoint at `uri`; an s3:// one is fetched into a folder of `into`.

    The folder's name covers the URI and the version of every object, so an unchanged checkpoint is
    fetched once and a changed one never takes its place. A file:// URI or a path is returned as it
    is. Raises BadInput (bucket not allowed), NotFound, CheckpointRefused (no weights there),
    IntegrityError, Unavailable.
    """
    if (path := local_path(uri)) is not None:
        if not path.is_dir():
            raise NotFound("no such folder", where=str(path), mend="Check the path")
        return path.absolute()
    if not uri.startswith("s3://"):
        raise BadInput(
            f"{uri[:200]!r} is no place of a checkpoint",
            mend="Use a folder or s3://bucket/prefix",
        )
    with open_store(uri, settings) as store:
        entries = {entry.key: entry for entry in store.entries("") if _wanted(entry.key)}
        if not any(SHARD_NAME.fullmatch(name) for name in entries):
            raise CheckpointRefused(
                "holds no model*.safetensors file",
                where=uri,
                mend="Give the prefix that holds config.json and the *.safetensors files",
            )
        versions = "\n".join(f"{e.key}\0{e.bytes}\0{e.version}" for e in entries.values())
        version = hashlib.sha256(f"{store.url}\n{versions}".encode()).hexdigest()
        folder = Path(into).absolute() / f"{store.url.rsplit('/', 1)[-1][:80]}-{version[:16]}"
        if folder.is_dir():
            return folder
        hashes = _published_hashes(store, entries)
        tick = counter(progress, sum(entry.bytes for entry in entries.values()))

        def fill(staging: Path) -> None:
            missing = [e for e in entries.values() if not (staging / e.key).exists()]
            check_space(staging, sum(entry.bytes for entry in missing), free_bytes)
            for entry in entries.values():
                if entry in missing:
                    known = hashes.get(entry.key)
                    sha256 = known.sha256 if known else None
                    store.get_file(entry.key, staging / entry.key, sha256, tick)
                else:
                    tick(entry.bytes)
            if {entry.key: entry for entry in store.entries("") if _wanted(entry.key)} != entries:
                raise IntegrityError("changed while it was fetched", where=uri, mend="Try again")

        with disk_errors(str(folder)):
            fill_folder(folder, version, fill)
    return folder


def _wanted(key: str) -> bool:
    return "/" not in key and (belongs(key) or key == MANIFEST_NAME)


def _published_hashes(store: Store, entries: Mapping[str, Entry]) -> Mapping[str, FileInfo]:
    if MANIFEST_NAME not in entries:
        return {}
    return parse_manifest(store.get_bytes(MANIFEST_NAME), where=f"{store.url}/{MANIFEST_NAME}")
