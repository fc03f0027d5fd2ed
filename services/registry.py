"""The registry of pools of checkpoints, checked when they are added, pinned by digest.

Adding reads every byte of a checkpoint once (its digest and its finite values); nothing is loaded
as code and nothing is kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from services.access import User, allow
from services.checkpoints import Checkpoint, check_mergeable, read_checkpoint
from services.db import Connection, Database, Row, row, rows
from services.errors import BadInput, NotFound
from services.settings import Settings
from services.store import fetch_checkpoint
from services.store.urls import local_path as url_path
from services.suites import NAME

log = logging.getLogger(__name__)

#: what families call the number of layers
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One checkpoint of a pool: its name there and where its files are."""

    name: str
    uri: str
    digest: str
    parameters: int
    dtype: str
    files: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A registered pool, members in coefficient order."""

    id: int
    name: str
    reference: str
    members: tuple[Member, ...]
    #: of the model, by its configuration; None where that does not say
    layers: int | None = None

    @property
    def names(self) -> list[str]:
        """Names of the members, in coefficient order."""
        return [member.name for member in self.members]

    @property
    def digests(self) -> tuple[str, ...]:
        """Manifest digests of the members, in coefficient order."""
        return tuple(member.digest for member in self.members)

    def member(self, name: str) -> Member:
        """The member of that name; raises NotFound."""
        found = next((member for member in self.members if member.name == name), None)
        if found is None:
            raise NotFound(
                f"pool {self.name!r} has no checkpoint {name!r}",
                mend=f"Name one of: {', '.join(self.names)}",
            )
        return found

    @property
    def dtype(self) -> str:
        """The dtype that candidates are rounded to: the members' own, float32 when they differ."""
        kinds = {member.dtype for member in self.members}
        return kinds.pop() if len(kinds) == 1 else "float32"


def check_name(name: str, what: str) -> str:
    """Return the name, or raise BadInput when it is not a plain lower-case name."""
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} is not a name",
            where=what,
            mend="Use a-z, 0-9, dot, dash and underscore, at most 96 characters, "
            "starting with a letter or digit",
        )
    return name


def named_sources(sources: Sequence[str]) -> list[tuple[str, str]]:
    """(name, location) of `DIR`, `s3://…` or `name=location` arguments; a name defaults to the
    last part of its location."""
    pairs: list[tuple[str, str]] = []
    for source in sources:
        name, sep, location = source.partition("=")
        if not sep or "/" in name:
            name, location = source.rstrip("/").rsplit("/", 1)[-1].lower(), source
        pairs.append((check_name(name, f"checkpoint {source}"), location))
    twice = {name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1}
    if twice:
        raise BadInput(
            f"two checkpoints are called {sorted(twice)[0]!r}",
            where="pool",
            mend="Give names: other-name=DIR",
        )
    return pairs


def add_pool(
    database: Database,
    config: Settings,
    name: str,
    sources: Sequence[str],
    *,
    reference: str,
    progress: Callable[[str, int, int], None] | None = None,
    by: User | None = None,
) -> Pool:
    """Read, check and store a pool; the same pool again is fine.

    `progress(checkpoint, bytes done, bytes in all)`. Raises CheckpointRefused, or BadInput for a
    bad name, an unknown reference, a folder that `by` may not name, or a name already taken by
    other checkpoints; Forbidden for a viewer.
    """
    user = allow(by, "register a pool")
    check_name(name, "pool")
    pairs = named_sources(sources)
    if len(pairs) < 2:
        raise BadInput("a pool needs at least two checkpoints", where=f"pool {name}")
    if reference not in [n for n, _ in pairs]:
        raise BadInput(
            f"reference {reference!r} is not among the checkpoints",
            where=f"pool {name}",
            mend=f"Name one of: {', '.join(n for n, _ in pairs)}",
        )
    for _, location in pairs:
        _check_place(location, user, config)
    read: list[tuple[str, str, Checkpoint]] = []
    for member, location in pairs:
        path = local_path(location, config)
        tick = (lambda a, b, m=member: progress(m, a, b)) if progress else None
        checkpoint = read_checkpoint(path, progress=tick)
        uri = location if location.startswith("s3://") else path.resolve().as_uri()
        read.append((member, uri, checkpoint))
    check_mergeable([(member, checkpoint) for member, _, checkpoint in read])
    made = _store_pool(database, name, reference, read)
    log.info("pool %s registered by %s", name, user.name)
    return made


def _check_place(location: str, user: User, config: Settings) -> None:
    """Raise BadInput for a folder outside of those that people who signed in may name."""
    if user.local or location.startswith("s3://"):
        return
    allowed = [Path(p.strip()) for p in config.pool_folders.split(",") if p.strip()]
    # the answer is the same whether the folder exists or not
    path = url_path(location)
    resolved = None if path is None else path.resolve()
    if resolved is None or not any(resolved.is_relative_to(a.resolve()) for a in allowed):
        raise BadInput(
            f"{location[:200]!r} is not below a folder that may be named here",
            where="pool",
            mend="Use s3://bucket/prefix, or have the folder added to REMELT_POOL_FOLDERS",
        )


def local_path(
    location: str, config: Settings, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The folder of a checkpoint location, fetched into the cache when it is in S3."""
    return fetch_checkpoint(location, config.home / "cache" / "checkpoints", config, progress)


def _store_pool(
    database: Database, name: str, reference: str, read: list[tuple[str, str, Checkpoint]]
) -> Pool:
    digests = [(member, checkpoint.digest) for member, _, checkpoint in read]
    seen: dict[str, str] = {}
    for member, digest in digests:
        if digest in seen:
            raise BadInput(
                f"{member!r} and {seen[digest]!r} are the same checkpoint",
                where=f"pool {name}",
                mend="Leave one out",
            )
        seen[digest] = member
    pool_digest = hashlib.sha256(json.dumps([*digests, reference]).encode()).hexdigest()
    with database.transaction() as connection:
        for _, _, checkpoint in read:
            rows(
                connection,
                "registry.add_checkpoint",
                digest=checkpoint.digest,
                files=Jsonb(checkpoint.manifest()["files"]),
                config=Jsonb(dict(checkpoint.config)),
                tokenizer_digest=checkpoint.tokenizer_digest,
                dtype=checkpoint.dtype,
                parameters=checkpoint.parameters,
            )
        made = row(
            connection, "registry.add_pool", name=name, digest=pool_digest, reference=reference
        )
        if made is None:
            existing = row(connection, "registry.pool", name=name)
            if existing is None or existing["digest"] != pool_digest:
                raise BadInput(
                    "is registered with other checkpoints or another reference",
                    where=f"pool {name}",
                    mend="Use a new name: studies stay bound to the pool they were run on",
                )
            return pool(connection, name)
        for position, (member, uri, checkpoint) in enumerate(read):
            rows(
                connection,
                "registry.add_member",
                pool=made["id"],
                position=position,
                name=member,
                checkpoint=checkpoint.digest,
                uri=uri,
            )
        return pool(connection, name)


def pool(connection: Connection, name: str) -> Pool:
    """The pool of that name; raises NotFound."""
    found = row(connection, "registry.pool", name=name)
    if found is None:
        known = [r["name"] for r in rows(connection, "registry.pools")]
        raise NotFound(
            f"no pool is called {name!r}",
            mend=f"Known: {', '.join(known) or 'none'}. Add one with `remelt pool add`",
        )
    return _pool_from_row(connection, found)


def pool_by_id(connection: Connection, pool_id: int) -> Pool:
    """The pool with that id."""
    found = row(connection, "registry.pool_by_id", pool=pool_id)
    assert found is not None
    return _pool_from_row(connection, found)


def _pool_from_row(connection: Connection, found: Row) -> Pool:
    found_members = rows(connection, "registry.members", pool=found["id"])
    members = tuple(
        Member(
            name=m["name"],
            uri=m["uri"],
            digest=m["checkpoint_digest"],
            parameters=m["parameters"],
            dtype=m["dtype"],
            files=m["files"],
        )
        for m in found_members
    )
    return Pool(
        id=found["id"],
        name=found["name"],
        reference=found["reference"],
        members=members,
        layers=layers_of(found_members[0]["config"]),
    )


def layers_of(config: Mapping[str, Any]) -> int | None:
    """How many layers a model has by its `config.json`, whatever its family calls them."""
    for data in (config, config.get("text_config") or {}):
        for key in LAYER_KEYS:
            if isinstance(data.get(key), int):
                return int(data[key])
    return None
