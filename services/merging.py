"""Merging checkpoints by a file: from a small YAML of our own, or mergekit's, to a folder.

Needs neither a study nor, unless a pool is named, a database. Never fetches anything from a hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from optim.recipe import OUTPUT_DTYPES, Group, Recipe, Row
from services.checkpoints import Checkpoint, Remembered, read_checkpoint
from services.errors import BadInput
from services.mergekit import from_mergekit

#: of a merge file: parents with their weights, and what else it may say
KEYS = ("parents", "weights", "groups", "columns", "pool", "dtype", "normalize")
#: what a recipe.yaml has besides, which must be what this release makes
RECIPE_KEYS = ("operator", "version")
MAX_BYTES = 256 * 2**20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A recipe and the checkpoints of its parents, in its order."""

    recipe: Recipe
    parents: tuple[Checkpoint, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A merge file before its parents are found: names stand for checkpoints."""

    names: tuple[str, ...]
    #: a pool whose members the names are; None: they are places
    pool: str | None
    #: None: that of the first parent
    dtype: str | None
    #: weights, groups and columns for parents with tensors of these names
    parts: Callable[[Sequence[str]], tuple[Row, tuple[Group, ...], Mapping[str, Any]]]


def read_merge(path: Path) -> Written:
    """Read a merge file; BadInput names the place and the mend."""
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput("is too large for a merge file", where=where, mend="Give a YAML file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read ({error})", where=where, mend="Give a YAML file") from error
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{where}:{mark.line + 1}" if mark else where
        raise BadInput("is not YAML", where=at, mend="Correct it") from error
    if isinstance(data, dict) and "merge_method" in data:
        found = from_mergekit(text, where=where)
        return Written(
            names=found.models,
            pool=None,
            dtype=found.dtype,
            parts=lambda tensors: (*found.weights(tensors), {}),
        )
    if not isinstance(data, dict) or "parents" not in data:
        _refuse(where, "names no parents", "Write parents: {folder: 0.5, other/folder: 0.5}")
    return _own(data, where)


def make_merge(
    written: Written,
    find: Callable[[str], Path],
    *,
    dtype: str | None = None,
    remembered: Remembered | None = None,
    where: str,
    progress: Progress | None = None,
) -> Merge:
    """Read the parents, which `find` gives the folders of, and make the recipe.

    `progress` gets (parent, bytes read, bytes in all). Raises BadInput and CheckpointRefused.
    """
    parents = []
    for name in written.names:

        def tick(done: int, total: int, name: str = name) -> None:
            if progress:
                progress(name, done, total)

        parents.append(
            read_checkpoint(find(name), check_values=False, progress=tick, remembered=remembered)
        )
    weights, groups, columns = written.parts(list(parents[0].tensors))
    try:
        recipe = Recipe(
            parents=tuple(parent.digest for parent in parents),
            weights=weights,
            groups=groups,
            columns=columns,
            dtype=dtype or written.dtype or parents[0].dtype,
        )
    except ValueError as error:
        raise BadInput(str(error), where=where, mend="Correct the merge file") from error
    return Merge(recipe=recipe, parents=tuple(parents))


def _own(data: dict[Any, Any], where: str) -> Written:
    """A merge file of our own, or a recipe.yaml, which is one that names parents by digest."""
    if unknown := sorted(str(key) for key in set(data) - {*KEYS, *RECIPE_KEYS}):
        _refuse(where, f"unknown key {unknown[0][:60]!r}", f"Known: {', '.join(KEYS)}")
    if data.get("operator", "linear") != "linear":
        _refuse(where, f"operator {str(data['operator'])[:60]!r} is not known", "Only linear is")
    given = data["parents"]
    weights = data.get("weights")
    if isinstance(given, dict) and given and weights is None:
        names = [str(name) for name in given]
        row = _row(given, names, f"{where}: parents")
    elif isinstance(given, list) and given:
        names = [str(name) for name in given]
        row = _row(weights, names, f"{where}: weights")
    else:
        _refuse(where, "has no parents with weights", "Write parents: {folder: 0.5, other: 0.5}")
    if len(set(names)) != len(names):
        _refuse(where, "names a parent twice", "Add its weights up in one entry")
    groups = data.get("groups") or []
    if not isinstance(groups, list):
        _refuse(f"{where}: groups", "is no list", "Begin every group with a dash")
    normalize = data.get("normalize", False)
    if not isinstance(normalize, bool):
        _refuse(where, f"normalize is {str(normalize)[:60]}", "Write true or false")
    made = [_group(g, names, f"{where}: groups[{i}]") for i, g in enumerate(groups)]
    columns = data.get("columns") or {}
    if not isinstance(columns, dict) or (columns and normalize):
        _refuse(f"{where}: columns", "is no mapping, or is to be normalised", "See docs/merging.md")
    if normalize:
        row = _share(row, where)
        made = [
            Group(weights=_share(g.weights, where), layers=g.layers, kinds=g.kinds, names=g.names)
            for g in made
        ]
    pool, dtype = data.get("pool"), data.get("dtype")
    if pool is not None and not isinstance(pool, str):
        _refuse(f"{where}: pool", f"{str(pool)[:60]} is no name", "Write pool: name")
    if dtype is not None and dtype not in OUTPUT_DTYPES:
        _refuse(where, f"dtype {str(dtype)[:60]!r} is not known", f"Use {', '.join(OUTPUT_DTYPES)}")
    return Written(
        names=tuple(names), pool=pool, dtype=dtype, parts=lambda _: (row, tuple(made), columns)
    )


def _row(data: Any, names: Sequence[str], where: str) -> Row:
    """Weights by name, those left out 0, or one for each name in order."""
    if isinstance(data, dict):
        if unknown := sorted(str(name) for name in data if str(name) not in names):
            _refuse(where, f"{unknown[0][:100]!r} is no parent", "Name it under parents first")
        values = [data.get(name, 0) for name in names]
    elif isinstance(data, list) and len(data) == len(names):
        values = data
    else:
        _refuse(where, f"are not {len(names)} weights", "Give one for each parent")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(where, f"{str(value)[:60]} is not a number", "Write 0.5, or 1.0e-3")
    return tuple(map(float, values))


def _group(data: Any, names: Sequence[str], where: str) -> Group:
    known = ("layers", "kinds", "names", "weights")
    if not isinstance(data, dict) or "weights" not in data or set(data) - set(known):
        _refuse(where, "is no group", f"It has weights, and some of {', '.join(known[:3])}")
    conditions = {key: data[key] for key in known[:3] if data.get(key) is not None}
    for key, value in conditions.items():
        if not isinstance(value, list):
            _refuse(f"{where}.{key}", f"{str(value)[:60]} is no list", f"Write {key}: [{value}]")
    return Group(weights=_row(data["weights"], names, f"{where}.weights"), **conditions)


def _share(row: Row, where: str) -> Row:
    total = sum(row)
    if abs(total) < 1e-8:
        _refuse(where, "its weights sum to 0 and are to be normalised", "Set normalize: false")
    return tuple(value / total for value in row)


def _refuse(where: str, what: str, mend: str) -> NoReturn:
    raise BadInput(what, where=where, mend=mend)
