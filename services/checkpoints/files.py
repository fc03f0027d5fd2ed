"""Which files belong to a checkpoint, their hashes, and the manifest whose hash names it.

Never follows a symlink and never opens anything but a regular file, so that a folder given by a
user cannot lead anywhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from services.errors import CheckpointRefused, IntegrityError

#: bytes read at a time; a multiple of every dtype's size
CHUNK_BYTES = 8 * 2**20
#: a manifest of tens of thousands of shards still fits
MANIFEST_MAX_BYTES = 16 * 2**20
#: JSON files are read whole, so their size is capped
JSON_MAX_BYTES = {
    "config.json": 10**7,
    "tokenizer.json": 5 * 10**8,
    "model.safetensors.index.json": 10**8,
}
JSON_DEFAULT_MAX_BYTES = 10**8

SHARD_NAME = re.compile(r"model(-(?P<index>\d{5})-of-(?P<count>\d{5}))?\.safetensors")
INDEX_NAME = "model.safetensors.index.json"
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAMES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "chat_template.json",
    }
)
BELONGING_NAMES = TOKENIZER_NAMES | {"config.json", "generation_config.json", INDEX_NAME}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz")
OTHER_WEIGHT_SUFFIXES = (".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".tflite")

_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """SHA-256 (hex) and size of one file."""

    sha256: str
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The entry as it stands in a manifest."""
        return {"sha256": self.sha256, "bytes": self.bytes}


def belongs(name: str) -> bool:
    """Whether a file of that bare name is part of a checkpoint (and of its digest)."""
    return name in BELONGING_NAMES or name.endswith(".safetensors")


def belonging_files(folder: Path) -> list[str]:
    """Names of the files that make up the checkpoint in `folder`, sorted.

    Raises CheckpointRefused for a folder that is not there or holds no usable weights, for shard
    names that `transformers` would not read, and for symlinks and special files in their place.
    """
    if not folder.is_dir():
        raise CheckpointRefused(
            "no such folder",
            where=str(folder),
            mend="Give the folder that holds config.json and the *.safetensors files",
        )
    names = sorted(entry.name for entry in os.scandir(folder))
    mine = [name for name in names if belongs(name)]
    for name in mine:
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            raise CheckpointRefused(
                "is a symlink or not a regular file",
                where=str(folder / name),
                mend="Copy the checkpoint with its links resolved: cp -rL FOLDER COPY",
            )
        if name.endswith(".safetensors") and not SHARD_NAME.fullmatch(name):
            raise CheckpointRefused(
                "is not named model.safetensors or model-00001-of-0000N.safetensors",
                where=str(folder / name),
                mend="Remove it, or save the model again with save_pretrained",
            )
    if not any(name.endswith(".safetensors") for name in mine):
        _refuse_other_weights(folder, names)
    return mine


def _refuse_other_weights(folder: Path, names: list[str]) -> None:
    for suffixes, kind in (
        (PICKLE_SUFFIXES, "a pickle: opening it could run code"),
        (OTHER_WEIGHT_SUFFIXES, "not safetensors"),
    ):
        for name in names:
            if name.lower().endswith(suffixes):
                raise CheckpointRefused(
                    f"the only weights are {kind}",
                    where=str(folder / name),
                    mend="Convert them where you trust them: save_pretrained(FOLDER) writes "
                    "safetensors",
                )
    raise CheckpointRefused(
        "holds no *.safetensors file",
        where=str(folder),
        mend="Give the folder that holds config.json and model.safetensors",
    )


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, never through a symlink at its last part."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointRefused(
            f"cannot be opened ({error.strerror})",
            where=str(path),
            mend="Check that it is a plain file that this user may read",
        ) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise CheckpointRefused(
            "is not a regular file", where=str(path), mend="Put a copy of the file in its place"
        )
    return os.fdopen(number, "rb")


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> FileInfo:
    """SHA-256 and size of a file, read in chunks; `progress` gets the bytes of each chunk."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if progress:
                progress(len(chunk))
    return FileInfo(sha256=digest.hexdigest(), bytes=size)


def read_json(path: Path) -> Any:
    """A JSON file's content; CheckpointRefused when it is too large, not UTF-8 or not JSON."""
    limit = JSON_MAX_BYTES.get(path.name, JSON_DEFAULT_MAX_BYTES)
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointRefused(
            f"is larger than {limit / 1e6:.0f} MB", where=str(path), mend="Export it again"
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(
            f"is not JSON ({error})", where=str(path), mend="Export the checkpoint again"
        ) from error


def files_digest(files: Mapping[str, FileInfo]) -> str:
    """Hex SHA-256 of the canonical JSON manifest: the name of a checkpoint or an artefact."""
    manifest = {"files": {name: info.to_dict() for name, info in files.items()}}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_text(files: Mapping[str, FileInfo], **extra: str) -> str:
    """The text of `manifest.json`: the files, their digest, and what else is known of them."""
    manifest = {
        "digest": files_digest(files),
        **extra,
        "files": {name: files[name].to_dict() for name in sorted(files)},
    }
    return json.dumps(manifest, indent=2) + "\n"


def parse_manifest(text: str | bytes, *, where: str) -> dict[str, FileInfo]:
    """The files that a `manifest.json` lists; the digest it states must be theirs.

    Raises IntegrityError for anything else, among it names that are not bare file names.
    """
    try:
        data = json.loads(text)
        files = {
            name: FileInfo(sha256=info["sha256"], bytes=info["bytes"])
            for name, info in data["files"].items()
        }
        stated = data["digest"]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            "is not a manifest of files with sha256 and bytes",
            where=where,
            mend="Publish the checkpoint again",
        ) from error
    for name, info in files.items():
        sizes_ok = type(info.bytes) is int and info.bytes >= 0
        hashes_ok = isinstance(info.sha256, str) and _SHA256.fullmatch(info.sha256)
        if not (_BARE_NAME.fullmatch(name) and name != MANIFEST_NAME and sizes_ok and hashes_ok):
            raise IntegrityError(
                f"entry {name[:200]!r} is not a bare file name with a SHA-256 and a size",
                where=where,
                mend="Publish the checkpoint again",
            )
    if stated != files_digest(files):
        raise IntegrityError(
            "its digest is not the digest of the files it lists",
            where=where,
            mend="Publish the checkpoint again",
        )
    return files


def verify_digest(
    path: Path,
    files: Mapping[str, FileInfo | Mapping[str, Any]],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Hash the files in folder `path` again; IntegrityError names the first that differs.

    `files` are those of a Checkpoint, or a manifest's `files` as they are stored.
    """
    for name, entry in files.items():
        expected = entry if isinstance(entry, FileInfo) else FileInfo(**entry)
        file = path / name
        if not file.is_file():
            raise IntegrityError(
                "is missing", where=str(file), mend="Restore it, or register the checkpoint anew"
            )
        found = hash_file(file, progress)
        if found != expected:
            raise IntegrityError(
                f"its bytes changed: SHA-256 {found.sha256[:12]}… ({found.bytes} bytes), recorded "
                f"{expected.sha256[:12]}… ({expected.bytes} bytes)",
                where=str(file),
                mend="Restore the file from its source, or register the checkpoint anew",
            )
