"""Casting: a recipe becomes a checkpoint on disk, in Hugging Face layout.

Nothing appears under the final name unless its tensors have the digest that was evaluated and, but
for `remelt merge`, the whole folder was read back. Torch is imported inside functions only.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from optim.recipe import Recipe
from services.checkpoints import (
    Checkpoint,
    FileInfo,
    check_mergeable,
    hash_file,
    manifest_text,
    read_checkpoint,
    verify_digest,
)
from services.checkpoints.files import (
    INDEX_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAMES,
    belonging_files,
    files_digest,
    read_json,
)
from services.errors import BadInput, IntegrityError
from services.model_card import model_card
from services.recipe_yaml import recipe_yaml
from services.shards import Shard, combine_digest, plan_shards, write_shard
from services.store.base import (
    FreeBytes,
    Progress,
    check_space,
    counter,
    disk_errors,
    disk_free_bytes,
    sync_folder,
)

MAX_SHARD_BYTES = 5 * 2**30
FILE_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
COPIED_NAMES = TOKENIZER_NAMES | {"generation_config.json"}


def cast(
    recipe: Recipe,
    parents: Sequence[Checkpoint],
    out: Path,
    *,
    weights_digest: str | None = None,
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    free_bytes: FreeBytes = disk_free_bytes,
    read_back: bool = True,
) -> Checkpoint:
    """Write the candidate of `recipe` to the new folder `out` and return it.

    `parents` are in the recipe's order; configuration and tokenizer come from the first one. `card`
    is described in `services.model_card`. `progress` gets (bytes formed and verified, bytes of
    both). Without `read_back` the hashes are those of the bytes as they were written: nothing is
    flushed to the disk or read again, and the parents are taken as they were read.

    Raises IntegrityError when the tensors do not have `weights_digest` or a parent's files changed,
    TrialRejected when a value overflows, BadInput when the parents are not the recipe's or `out` is
    in use, Unavailable when the disk is full.
    """
    verify = read_back and weights_digest is None
    _check_parents(recipe, parents, verify_weights=verify)
    shards = plan_shards(parents[0].tensors, FILE_DTYPES[recipe.dtype], max_shard_bytes)
    size = sum(tensor.end - tensor.start for shard in shards for tensor in shard.tensors)
    tick = counter(progress, 2 * size if read_back else size)
    check_space(Path(out).parent, size, free_bytes)
    with disk_errors(str(out)), _appearing(Path(out)) as folder:
        hashes: dict[str, str] = {}
        written: dict[str, FileInfo] = {}
        for shard in shards:
            found, written[shard.name] = write_shard(
                folder / shard.name, shard, recipe, parents, tick
            )
            hashes |= found
        weights = combine_digest(shards, hashes)
        if weights_digest is not None and weights != weights_digest:
            raise IntegrityError(
                f"its tensors have digest {weights[:12]}…, but {weights_digest[:12]}… was "
                "evaluated",
                where=f"recipe {recipe.digest[:12]}…",
                mend="A parent changed or is not the one evaluated; restore it, or evaluate again",
            )
        _write_rest(folder, recipe, parents[0], shards)
        if read_back:
            made = _read_back(folder, written, _second_half(progress, size))
        else:
            made = _as_written(folder, written, recipe, parents[0], shards)
        _write_records(folder, recipe, made, weights, card)
    return replace(made, path=Path(out))


def _read_back(
    folder: Path, written: Mapping[str, FileInfo], progress: Progress | None
) -> Checkpoint:
    """The checkpoint as it is on the disk; its weights must be the bytes that were written."""
    for name in written:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    made = read_checkpoint(folder, progress=progress)
    for name, info in written.items():
        if made.files[name] != info:
            raise IntegrityError(
                f"reads as SHA-256 {made.files[name].sha256[:12]}…, written was "
                f"{info.sha256[:12]}…",
                where=str(folder / name),
                mend="Check the disk, and cast again",
            )
    return made


def _as_written(
    folder: Path,
    written: Mapping[str, FileInfo],
    recipe: Recipe,
    first: Checkpoint,
    shards: Sequence[Shard],
) -> Checkpoint:
    """What `_read_back` would find."""
    names = [name for name in belonging_files(folder) if name not in written]
    files = {**written, **{name: hash_file(folder / name) for name in names}}
    files = dict(sorted(files.items()))
    tensors = {tensor.name: tensor for shard in shards for tensor in shard.tensors}
    return replace(
        first,
        path=folder,
        files=files,
        digest=files_digest(files),
        tensors=dict(sorted(tensors.items())),
        config=read_json(folder / "config.json"),
        dtype=recipe.dtype,
    )


def _second_half(progress: Progress | None, size: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(size + size * done // total, 2 * size)


def _check_parents(recipe: Recipe, parents: Sequence[Checkpoint], *, verify_weights: bool) -> None:
    from optim.steps import float32_weights

    if tuple(parent.digest for parent in parents) != recipe.parents:
        raise BadInput(
            "the checkpoints given are not the recipe's parents in its order",
            where=f"recipe {recipe.digest[:12]}…",
            mend="Give the checkpoints whose digests the recipe lists",
        )
    check_mergeable([(str(parent.path), parent) for parent in parents])
    try:
        recipe.check_tensors({t.name: t.shape for t in parents[0].tensors.values()})
        for row in recipe.rows:
            float32_weights(row)
    except ValueError as error:
        raise BadInput(str(error), where="recipe", mend="Correct its weights") from error
    if verify_weights:
        for number in recipe.used(parents[0].tensors):
            verify_digest(parents[number].path, parents[number].files)


def _write_rest(folder: Path, recipe: Recipe, first: Checkpoint, shards: Sequence[Shard]) -> None:
    """The index of several shards, configuration, tokenizer and generation settings."""
    if len(shards) > 1:
        tensors = [tensor for shard in shards for tensor in shard.tensors]
        index = {
            "metadata": {
                "total_parameters": sum(tensor.count for tensor in tensors),
                "total_size": sum(tensor.end - tensor.start for tensor in tensors),
            },
            "weight_map": {tensor.name: tensor.file for tensor in tensors},
        }
        _write_json(folder / INDEX_NAME, index)
    _write_json(folder / "config.json", _with_dtype(first.config, recipe.dtype))
    copied = {name: info for name, info in first.files.items() if name in COPIED_NAMES}
    for name in copied:
        shutil.copyfile(first.path / name, folder / name)
    verify_digest(folder, copied)


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration with its dtype set, in the spelling of the release that wrote it."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    changed = {**config, **dict.fromkeys(keys, dtype)}
    for key, value in config.items():
        if isinstance(value, Mapping) and {"dtype", "torch_dtype"} & set(value):
            changed[key] = _with_dtype(value, dtype)
    return changed


def _write_records(
    folder: Path,
    recipe: Recipe,
    made: Checkpoint,
    weights_digest: str,
    card: Mapping[str, Any] | None,
) -> None:
    """Recipe, model card and, last, the manifest of all files."""
    head = "# Remelt recipe: parents are manifest digests (SHA-256), in the order of the weights\n"
    parents = (card or {}).get("parents") or {}
    names = {digest: str(parent.get("name") or "") for digest, parent in parents.items()}
    text = head + recipe_yaml(recipe, names)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(model_card(recipe, weights_digest, card), encoding="utf-8")
    files: dict[str, FileInfo] = dict(made.files)
    for name in ("recipe.yaml", "README.md"):
        files[name] = hash_file(folder / name)
    manifest = manifest_text(
        files, checkpoint=made.digest, weights=weights_digest, recipe=recipe.digest
    )
    (folder / MANIFEST_NAME).write_text(manifest, encoding="utf-8")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its name on success and is removed on failure."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("is there already", where=str(out), mend="Choose a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name[:150]}.{uuid.uuid4().hex}.casting")
    folder.mkdir()
    try:
        yield folder
        sync_folder(folder)
        os.replace(folder, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
