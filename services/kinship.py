"""Kinship of the checkpoints of a pool: streamed from their files once, stored by their digests.

Torch is imported only where files are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.kinship import Adding, Kinship
from services import registry
from services.access import User, allow
from services.checkpoints import Checkpoint, Remembered, read_checkpoint
from services.db import Database
from services.errors import BadInput, IntegrityError
from services.mapped import map_tensors
from services.settings import Settings

#: (what is read, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolKinship:
    """The members of a pool beside its base, in the pool's order, and how alike they are."""

    pool: str
    base: str
    names: tuple[str, ...]
    kinship: Kinship

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; None where undefined."""
        found = self.kinship
        return {
            "pool": self.pool,
            "base": self.base,
            "checkpoints": list(self.names),
            "values": found.n,
            "norm": _plain(found.norms),
            "cosine": _plain(found.cosine),
            "pearson": _plain(found.pearson),
            "l2": _plain(found.distance),
        }


def of_pool(
    database: Database,
    config: Settings,
    name: str,
    *,
    base: str | None = None,
    progress: Progress | None = None,
    by: User | None = None,
) -> PoolKinship:
    """Kinship of a pool's checkpoints as task vectors from one of them, its reference by default.

    Read from the store when the same checkpoints were measured before, in any pool. Raises
    NotFound; BadInput for a base that is not in the pool; IntegrityError for files that changed;
    Forbidden for whoever may not have files read that were not.
    """
    pool, members = _members(database, name, base)
    found = _stored(database, members)
    if found is None:
        allow(by, f"measure the kinship of pool {name}")
        found = _measured(config, members, progress)
        database.rows(
            "kinship.insert",
            base=members[0].digest,
            digests=[m.digest for m in members[1:]],
            n=found.n,
            gram=found.gram.ravel().tolist(),
            sums=found.sums.tolist(),
        )
    return _named(pool, members, found)


def stored(database: Database, name: str, *, base: str | None = None) -> PoolKinship | None:
    """The same where it was measured before; None elsewhere, no file is read."""
    pool, members = _members(database, name, base)
    found = _stored(database, members)
    return None if found is None else _named(pool, members, found)


def _members(
    database: Database, name: str, base: str | None
) -> tuple[registry.Pool, list[registry.Member]]:
    """A pool, and its members: the base, then the others by digest."""
    with database.transaction() as connection:
        pool = registry.pool(connection, name)
    base = base or pool.reference
    if base not in pool.names:
        raise BadInput(
            f"{base!r} is not in pool {name!r}",
            where="--base",
            mend=f"Name one of: {', '.join(pool.names)}",
        )
    return pool, sorted(pool.members, key=lambda m: (m.name != base, m.digest))


def _named(pool: registry.Pool, members: Sequence[registry.Member], found: Kinship) -> PoolKinship:
    base, others = members[0].name, [m.name for m in members[1:]]
    names = tuple(n for n in pool.names if n != base)
    kinship = _reordered(found, [others.index(n) for n in names])
    return PoolKinship(pool=pool.name, base=base, names=names, kinship=kinship)


def _stored(database: Database, members: Sequence[registry.Member]) -> Kinship | None:
    base, *digests = (m.digest for m in members)
    row = database.row("kinship.find", base=base, digests=digests)
    if row is None:
        return None
    k = len(digests)
    return Kinship(n=row["n"], gram=np.reshape(row["gram"], (k, k)), sums=np.array(row["sums"]))


def _reordered(found: Kinship, order: Sequence[int]) -> Kinship:
    return Kinship(n=found.n, gram=found.gram[np.ix_(order, order)], sums=found.sums[list(order)])


def _measured(
    config: Settings, members: Sequence[registry.Member], progress: Progress | None
) -> Kinship:
    """One pass over the files; the base comes first."""
    parents = [_checkpoint(config, member, progress) for member in members]
    tensors = [map_tensors(parent) for parent in parents]
    adding = Adding(len(members) - 1)
    total, done = sum(t.nbytes for maps in tensors for t in maps.values()), 0
    for name in tensors[0]:
        adding.add(tensors[0][name], [maps[name] for maps in tensors[1:]])
        done += sum(maps[name].nbytes for maps in tensors)
        if progress:
            progress("comparing", done, total)
    return adding.result()


def _checkpoint(config: Settings, member: registry.Member, progress: Progress | None) -> Checkpoint:
    path = registry.local_path(member.uri, config)
    remembered = Remembered(config.home / "cache" / "hashes")
    tick = (lambda a, b: progress(f"reading {member.name}", a, b)) if progress else None
    found = read_checkpoint(path, check_values=False, progress=tick, remembered=remembered)
    if found.digest != member.digest:
        raise IntegrityError(
            f"is not the checkpoint that was registered as {member.name!r}",
            where=str(path),
            mend="Restore its files, or register a new pool",
        )
    return found


def _plain(array: np.ndarray) -> Any:
    if array.ndim > 1:
        return [_plain(row) for row in array]
    return [None if math.isnan(value) else float(value) for value in array]
