"""Publishing a checkpoint and pulling it back, for any store.

Bytes go first and the manifest last, so an artefact exists when its manifest does. A pull shows
its folder only when every file in it has the hash that the manifest promises.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.checkpoints import (
    FileInfo,
    belonging_files,
    files_digest,
    hash_file,
    manifest_text,
    parse_manifest,
    verify_digest,
)
from services.checkpoints.files import MANIFEST_NAME
from services.errors import BadInput, IntegrityError, NotFound
from services.store.base import (
    FreeBytes,
    Progress,
    Store,
    check_space,
    counter,
    disk_errors,
    disk_free_bytes,
    sync_folder,
)

PREFIX = "checkpoints"


def artefact_files(directory: Path) -> dict[str, FileInfo]:
    """The files of an artefact: those of its `manifest.json`, else those of the checkpoint."""
    path = directory / MANIFEST_NAME
    if path.is_file():
        return parse_manifest(path.read_bytes(), where=str(path))
    return {name: hash_file(directory / name) for name in belonging_files(directory)}


def publish_checkpoint(store: Store, directory: Path, progress: Progress | None = None) -> str:
    """Upload the checkpoint in `directory`; returns the digest of its manifest.

    The key of a file is checkpoints/<digest>/<file>. Publishing the same digest again, or from two
    places at once, is fine and changes nothing. Raises IntegrityError when a file is not what the
    folder's manifest says.
    """
    files = artefact_files(directory)
    digest = files_digest(files)
    tick = counter(progress, sum(info.bytes for info in files.values()))
    for name in sorted(files):
        if not (directory / name).is_file():
            raise IntegrityError(
                "is missing, but the manifest lists it",
                where=str(directory / name),
                mend="Cast the checkpoint again",
            )
    for name, info in sorted(files.items()):
        store.put_file(f"{PREFIX}/{digest}/{name}", directory / name, info.sha256, tick)
    own = directory / MANIFEST_NAME
    text = own.read_bytes() if own.is_file() else manifest_text(files).encode()
    key = f"{PREFIX}/{digest}/{MANIFEST_NAME}"
    if not store.put_if_absent(key, text):
        _read_manifest(store, digest)
    return digest


def pull_checkpoint(
    store: Store,
    digest: str,
    directory: Path,
    progress: Progress | None = None,
    *,
    free_bytes: FreeBytes = disk_free_bytes,
) -> Path:
    """Download the artefact `digest` into the folder `directory`, which must be new or the same.

    Files that an interrupted pull finished are kept and hashed again instead of fetched. Raises
    NotFound, IntegrityError (a file differs from the manifest), Unavailable (server, disk space).
    """
    directory = Path(directory).absolute()
    if directory.exists() and not directory.is_dir():
        raise BadInput("is no folder", where=str(directory), mend="Choose a new folder")
    manifest, files = _read_manifest(store, digest)
    total = sum(info.bytes for info in files.values())
    tick = counter(progress, total)

    def fill(staging: Path) -> None:
        present = {name: _has(staging / name, info) for name, info in files.items()}
        missing = sum(info.bytes for name, info in files.items() if not present[name])
        check_space(staging, missing, free_bytes)
        for name, info in sorted(files.items()):
            if present[name]:
                tick(info.bytes)
            else:
                key = f"{PREFIX}/{digest}/{name}"
                store.get_file(key, staging / name, info.sha256, tick)
        (staging / MANIFEST_NAME).write_bytes(manifest)

    if directory.exists() and any(directory.iterdir()):
        _check_same(directory, digest)
        verify_digest(directory, files, tick)
        return directory
    with disk_errors(str(directory)):
        fill_folder(directory, digest, fill)
    return directory


def fill_folder(directory: Path, version: str, fill: Callable[[Path], None]) -> None:
    """Make `directory` appear at once, with all that `fill(staging folder)` wrote.

    The staging folder beside it is named after `version`, survives a crash and is used again; one
    process works on it at a time, and whoever comes later finds the folder finished.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_name(f".{directory.name[:150]}.{version[:16]}.pulling")
    while not (directory.exists() and any(directory.iterdir())):
        staging.mkdir(exist_ok=True)
        with _locked(staging) as ours:
            if not ours:
                continue
            for part in staging.glob(".*.part"):
                part.unlink()
            fill(staging)
            sync_folder(staging)
            os.replace(staging, directory)
            sync_folder(directory.parent)
            return
    shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a folder; False when it was renamed away while we waited."""
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        try:
            ours = os.path.samestat(os.fstat(number), folder.stat())
        except FileNotFoundError:
            ours = False
        yield ours
    finally:
        os.close(number)


def _read_manifest(store: Store, digest: str) -> tuple[bytes, Mapping[str, FileInfo]]:
    key = f"{PREFIX}/{digest}/{MANIFEST_NAME}"
    where = f"{store.url}/{key}"
    try:
        text = store.get_bytes(key)
    except NotFound:
        raise NotFound(
            f"no artefact {digest[:12]}… is published there",
            where=store.url,
            mend="Check the digest, or publish it again (an interrupted upload has no manifest)",
        ) from None
    files = parse_manifest(text, where=where)
    if files_digest(files) != digest:
        raise IntegrityError(
            "is the manifest of another artefact", where=where, mend="Publish the artefact again"
        )
    return text, files


def _check_same(directory: Path, digest: str) -> None:
    try:
        same = files_digest(artefact_files(directory)) == digest
    except (BadInput, IntegrityError):
        same = False
    if not same:
        raise BadInput(
            "the folder is not empty and holds something else",
            where=str(directory),
            mend="Choose a new folder",
        )


def _has(path: Path, info: FileInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.bytes and hash_file(path) == info
