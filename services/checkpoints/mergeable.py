"""Whether checkpoints may be merged with one another: names, shapes, configuration, token map.

Compares what was read, opens no file. Dtypes may differ: merging accumulates in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.checkpoints.read import Checkpoint
from services.errors import CheckpointRefused

#: config keys that do not change what the weights compute in a forward pass
NEUTRAL_KEYS = frozenset(
    {
        "_name_or_path",
        "attn_implementation",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "finetuning_task",
        "id2label",
        "initializer_range",
        "label2id",
        "max_position_embeddings",
        "pad_token_id",
        "pretraining_tp",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


def check_mergeable(checkpoints: Sequence[tuple[str, Checkpoint]]) -> None:
    """Compare every (name, checkpoint) with the first one.

    Raises CheckpointRefused naming the checkpoint, what differs and the mend.
    """
    if not checkpoints:
        return
    first_name, first = checkpoints[0]
    seen: dict[str, str] = {first.digest: first_name}
    for name, other in checkpoints[1:]:
        if other.digest in seen:
            raise CheckpointRefused(
                f"is the same checkpoint as {seen[other.digest]!r}, byte for byte",
                where=name,
                mend="Leave one of the two out",
            )
        seen[other.digest] = name
        _check_config(first_name, first, name, other)
        _check_tensors(first_name, first, name, other)
        if other.tokenizer_digest != first.tokenizer_digest:
            raise CheckpointRefused(
                f"its tokenizer maps tokens to other ids than that of {first_name!r}",
                where=f"{name}/tokenizer.json",
                mend="Only checkpoints with one token map can be merged; leave it out",
            )


def _check_tensors(first_name: str, first: Checkpoint, name: str, other: Checkpoint) -> None:
    if missing := sorted(set(first.tensors) - set(other.tensors)):
        raise CheckpointRefused(
            f"tensor {missing[0]!r} is missing ({len(missing)} in all); {first_name!r} has it",
            where=name,
            mend="Only checkpoints of one architecture can be merged; leave it out",
        )
    if extra := sorted(set(other.tensors) - set(first.tensors)):
        raise CheckpointRefused(
            f"tensor {extra[0]!r} is extra ({len(extra)} in all); {first_name!r} lacks it",
            where=f"{name}/{other.tensors[extra[0]].file}",
            mend="Only checkpoints of one architecture can be merged; leave it out",
        )
    for tensor in other.tensors.values():
        expected = first.tensors[tensor.name].shape
        if tensor.shape != expected:
            raise CheckpointRefused(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}; in {first_name!r} it is "
                f"{list(expected)}",
                where=f"{name}/{tensor.file}",
                mend="Resize it to the same shape (embeddings: the same padding), or leave it out",
            )


def _check_config(first_name: str, first: Checkpoint, name: str, other: Checkpoint) -> None:
    difference = _difference(first.config, other.config)
    if difference is None:
        return
    key, expected, found = difference
    raise CheckpointRefused(
        f"{key} is {found!r}; in {first_name!r} it is {expected!r}, so equal weights would "
        "compute something else",
        where=f"{name}/config.json",
        mend="Only checkpoints of one architecture can be merged; leave it out",
    )


def _difference(
    first: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """The first key that both have with another value; releases differ in which keys they write."""
    for key in sorted(set(first) & set(other) - NEUTRAL_KEYS):
        if key.endswith(("dropout", "_pdrop")):
            continue
        a, b = first[key], other[key]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if nested := _difference(a, b, f"{prefix}{key}."):
                return nested
        elif a != b:
            return f"{prefix}{key}", a, b
    return None
