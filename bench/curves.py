"""How costs grow with items and with trials: two decades each, which ought to be straight lines.

    python bench/curves.py [--out bench/results/curves.json]

Items: one evaluation inside the engine, 20 to 2,000 items of a choice suite. Trials: whole studies
of 5 to 500 trials, from submission to the end, on a suite so small that what surrounds the
evaluation is most of it. Random pool of stories260K's shape, one thread. What forming costs for
more parents and parameters is in bench/forming.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from pools import SMALL, make_pool, make_suites
from rows import Rows

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import parse_suite
from workers.engine.client import Engine

ITEMS = (20, 60, 200, 600, 2000)
TRIALS = (5, 15, 50, 150, 500)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("curves")
    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        home = Path(root)
        pool = make_pool(home / "pool", SMALL, 6, dtype="float32", moved_blocks=None)
        rows.curves["items"] = items(home, pool[:2])
        rows.curves["trials"] = trials(home)
    for name, points in rows.curves.items():
        slope, error = straightness(points)
        rows.add(f"seconds for one more of {name}", slope, "s")
        rows.add(f"{name}, largest distance from a straight line", error, "share")
    rows.write(options.out)


def items(home: Path, folders: list[Path]) -> list[dict[str, float]]:
    """Seconds of one evaluation against its number of items: the best of three."""
    heads = [read_checkpoint(folder, check_values=False) for folder in folders]
    points = []
    with Engine(Settings(home=home, engine_device="cpu", engine_threads=1), log_dir=home) as engine:
        engine.load([(head.digest, head.path) for head in heads], heads[0].dtype)
        # different ones: what the same candidate leaves behind its blocks would be kept
        recipes = [
            Recipe(parents=tuple(h.digest for h in heads), weights=(w, 1 - w), dtype=heads[0].dtype)
            for w in (0.1, 0.3, 0.6, 0.8)
        ]
        for count in ITEMS:
            file = make_suites(home, count)["choice"]
            suite = parse_suite("choice", file.read_text(), where=file.name)
            tries = [engine.evaluate(recipe, [suite], None).seconds for recipe in recipes]
            points.append({"x": count, "seconds": min(tries[1:])})
            print(points[-1], flush=True)
    return points


def trials(home: Path) -> list[dict[str, float]]:
    """Seconds of a whole study against its number of trials."""
    from pool_study import study

    from services.embedded import stop
    from services.settings import settings

    os.environ |= {"REMELT_HOME": str(home / "remelt"), "REMELT_ENGINE_THREADS": "1"}
    for name in ("REMELT_DATABASE_URL", "REMELT_BROKER_URL", "REMELT_STORE_URL"):
        os.environ.pop(name, None)
    (home / "suites").mkdir()
    shutil.move(make_suites(home, 40)["choice"], home / "suites/choice.jsonl")
    points = []
    for count in TRIALS:
        settings.cache_clear()
        (home / "remelt").mkdir()
        options = SimpleNamespace(
            pool=home / "pool", suites=home / "suites", use=None, items=None, reference="model-0",
            objectives=["macro"], method="random", trials=count, seed=0, finalists=1, threads=1,
        )  # fmt: skip
        started = time.perf_counter()
        try:
            study(options, home / "remelt")  # type: ignore[arg-type]
        finally:
            seconds = time.perf_counter() - started
            stop(home / "remelt")
            shutil.rmtree(home / "remelt", ignore_errors=True)
        points.append({"x": count, "seconds": seconds})
        print(points[-1], flush=True)
    return points


def straightness(points: list[dict[str, float]]) -> tuple[float, float]:
    """Slope of the line through the points, and the largest relative distance from it.

    Least squares of relative errors, so that small and large points count alike.
    """
    x, y = (np.array([point[key] for point in points]) for key in ("x", "seconds"))
    design = np.stack([np.ones_like(x, dtype=float), x], axis=1) / y[:, None]
    (start, slope), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    return float(slope), float(np.abs((start + slope * x) / y - 1).max())


if __name__ == "__main__":
    main()
