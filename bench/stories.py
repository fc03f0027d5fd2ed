"""A pool of checkpoints and choice suites through the real engine, to compare searchers on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from testbeds import Testbed

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import parse_suite
from workers.engine.client import Engine

#: searched, held out
SPLITS = ("search", "validation")


@contextmanager
def stories(
    pool: Path, suites: Path, *, items: int, reference: str = "deployed"
) -> Iterator[Testbed]:
    """`items`: at most so many of each suite, both splits together."""
    folders = sorted(path.parent for path in pool.glob("*/config.json"))
    heads = [read_checkpoint(folder, check_values=False) for folder in folders]
    cut = {f: f.read_text().strip().split("\n")[:items] for f in sorted(suites.glob("*.jsonl"))}
    read = [parse_suite(f.stem, "\n".join(lines), where=f.name) for f, lines in cut.items()]
    choice = [suite for suite in read if suite.form == "choice"]
    digests = tuple(head.digest for head in heads)
    sizes = [[len(suite.split(split)) for suite in choice] for split in SPLITS]
    of_item = tuple(np.repeat(np.arange(len(choice)), size) for size in sizes)

    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        config = Settings(home=Path(root), engine_device="cpu", engine_threads=1)
        with Engine(config, log_dir=Path(root)) as engine:
            engine.load([(head.digest, head.path) for head in heads], heads[0].dtype)

            @cache
            def margins(weights: tuple[float, ...], split: int) -> np.ndarray:
                recipe = Recipe(parents=digests, weights=weights, dtype=heads[0].dtype)
                found: dict[str, np.ndarray] = {}
                engine.evaluate(
                    recipe,
                    choice,
                    SPLITS[split],
                    on_suite=lambda r: found.update({r.suite: r.margins}),
                )
                return np.concatenate([found[suite.name] for suite in choice])

            deployed = [folder.name for folder in folders].index(reference)
            yield Testbed("stories", len(digests), deployed, of_item, margins)  # type: ignore[arg-type]
