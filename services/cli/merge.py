"""`remelt merge`: a merge file becomes a checkpoint, without a study."""

from __future__ import annotations

import os
from pathlib import Path

import click

from services import registry
from services.checkpoints import Remembered
from services.cli.context import open_database
from services.cli.output import json_option, print_json, progress_bar
from services.merging import make_merge, read_merge
from services.parents import member_finder, place_finder
from services.settings import settings


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--pool", help="Parents are members of this pool, by name or digest.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Round to this (default: what the file says, else the first parent's).",
)
@click.option("--shard-size", type=float, default=5.0, show_default=True, help="GiB in one file.")
@click.option("--threads", type=click.IntRange(1), help="Default: one for each CPU.")
@click.option("--rehash", is_flag=True, help="Read parents again that have not changed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def merge(
    recipe: Path,
    folder: Path,
    pool: str | None,
    dtype: str | None,
    shard_size: float,
    threads: int | None,
    rehash: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the merge that RECIPE (YAML, ours or mergekit's) describes to FOLDER."""
    import torch

    from services.cast import cast

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    config, written = settings(), read_merge(recipe)
    find = place_finder(recipe, config)
    if name := pool or written.pool:
        with open_database().transaction() as connection:
            find = member_finder(registry.pool(connection, name), config)
    with progress_bar(quiet=quiet or as_json) as bar:
        task = bar.add_task("reading", total=None)
        made = make_merge(
            written,
            find,
            dtype=dtype,
            remembered=None if rehash else Remembered(config.home / "cache" / "hashes"),
            where=str(recipe),
            progress=lambda name, done, total: bar.update(
                task, description=f"reading {name[-40:]}", completed=done, total=total
            ),
        )
        bar.update(task, description="merging", completed=0)
        out = cast(
            made.recipe,
            made.parents,
            folder,
            read_back=False,
            max_shard_bytes=max(int(shard_size * 2**30), 1),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(
            {
                "path": str(folder),
                "digest": out.digest,
                "recipe": made.recipe.digest,
                "dtype": made.recipe.dtype,
                "parents": dict(zip(written.names, made.recipe.parents, strict=True)),
            }
        )
    elif not quiet:
        click.echo(f"merged {len(made.parents)} checkpoints into {folder}\ndigest {out.digest}")
