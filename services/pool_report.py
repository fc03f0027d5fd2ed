"""What a pool's checkpoints have in common, by what was written down when they were registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services import registry
from services.db import Connection, rows

#: keys of a configuration that say nothing of the model
TRIVIA = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True, kw_only=True)
class PoolReport:
    """Checked when the pool was added: all of it can be merged; this is what a reader asks next."""

    #: dtypes of the members, each once
    dtypes: tuple[str, ...]
    #: every member has the same tokenizer files
    same_tokenizer: bool
    #: keys in which configurations differ, trivial ones left out
    config_differs: tuple[str, ...]
    #: weight files, and those whose bytes some other member has too
    weight_files: int
    shared_weight_files: int
    #: bytes of all members
    bytes: int


def pool_report(connection: Connection, pool: registry.Pool) -> PoolReport:
    """Compare the members' configurations, tokenizers and files."""
    found = rows(connection, "registry.members", pool=pool.id)
    configs = [{k: v for k, v in m["config"].items() if k not in TRIVIA} for m in found]
    keys = sorted({key for config in configs for key in config})
    weights = [
        (position, info["sha256"])
        for position, m in enumerate(found)
        for name, info in m["files"].items()
        if name.endswith(".safetensors")
    ]
    owners: dict[str, set[int]] = {}
    for position, digest in weights:
        owners.setdefault(digest, set()).add(position)
    return PoolReport(
        dtypes=tuple(dict.fromkeys(m["dtype"] for m in found)),
        same_tokenizer=len({m["tokenizer_digest"] for m in found}) == 1,
        config_differs=tuple(
            k for k in keys if any(c.get(k) != configs[0].get(k) for c in configs)
        ),
        weight_files=len(weights),
        shared_weight_files=sum(len(owners[digest]) > 1 for _, digest in weights),
        bytes=sum(info["bytes"] for m in found for info in m["files"].values()),
    )


def _differs(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)
