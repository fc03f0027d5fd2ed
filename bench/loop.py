"""The whole loop, form + evaluate + record, against mergekit to disk, load, lm-eval.

    python bench/loop.py --peers PEERS/bin/python [--small POOL SUITES] [--large POOL SUITES]

Remelt's side is a whole study with random search, through registry, Celery worker, engine and
embedded Postgres; a candidate's seconds are the time from one result in the database to the next.
The peer's side is one warm process that merges, loads and scores the same number of items. Without
--small and --large, random pools of stories260K's and SmolLM2-135M's shapes. One thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pools import LARGE, SMALL, make_pool, make_suites
from rows import Rows

PEER = Path(__file__).parent / "peers/merge_and_evaluate.py"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", help="python of an environment with mergekit and lm-eval")
    parser.add_argument("--small", type=Path, nargs=2, metavar=("POOL", "SUITES"))
    parser.add_argument("--large", type=Path, nargs=2, metavar=("POOL", "SUITES"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("loop")
    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        # (which, its data, trials, most items of a suite, goal)
        for name, given, trials, items, goal in (
            ("small", options.small, 12, None, 20.0),
            ("large", options.large, 6, 60, 10.0),
        ):
            home = Path(root) / name
            home.mkdir()
            pool, suites = given or random_ones(home, name)
            compare(rows, home, name, (pool, suites), trials, items, goal, options.peers)
    rows.write(options.out)


def random_ones(home: Path, name: str) -> tuple[Path, Path]:
    """A pool and suites without few-shot heads, which no peer could do in time."""
    small = name == "small"
    make_pool(
        home / "pool", SMALL if small else LARGE, 8 if small else 4,
        dtype="float32" if small else "bfloat16", moved_blocks=None if small else 3,
    )  # fmt: skip
    (home / "suites").mkdir()
    make_suites(home / "suites", 500 if small else 100)["few_shot"].unlink()
    return home / "pool", home / "suites"


def compare(
    rows: Rows,
    home: Path,
    name: str,
    data: tuple[Path, Path],
    trials: int,
    items: int | None,
    goal: float,
    peers: str | None,
) -> None:
    """One study and, with `peers`, one or two candidates of the old loop on the same items."""
    pool, suites = data
    files = [f for f in sorted(suites.glob("*.jsonl")) if "shot" not in f.stem]
    mine = run_study(home, pool, suites, [f.stem for f in files], trials, items)
    rows.add(f"{name}, seconds a candidate", mine["wall"], "s")
    rows.add(f"{name}, of which in the model", mine["forward"], "s")
    beyond = 1 - mine["forward"] / mine["wall"]
    rows.add(f"{name}, loop beyond the forward passes", beyond, "share", at_most=0.10)
    if not peers:
        return
    searched = cut_files(home, files, mine["items"])
    found = old_loop(home, pool, searched, peers, 2 if name == "small" else 1)
    total = sum(found.values())
    rows.add(f"{name}, mergekit + load + lm-eval", total, "s")
    rows.add(f"{name}, of which merging and loading", found["merge"] + found["load"], "s")
    rows.add(
        f"{name}, candidates a minute over the peers", total / mine["wall"], "×", at_least=goal
    )


def run_study(
    home: Path, pool: Path, suites: Path, names: list[str], trials: int, most: int | None
) -> dict[str, Any]:
    """Median seconds from one candidate's result to the next, and items of the search split."""
    os.environ |= {"REMELT_HOME": str(home / "remelt"), "REMELT_ENGINE_THREADS": "1"}
    for name in ("REMELT_DATABASE_URL", "REMELT_BROKER_URL", "REMELT_STORE_URL"):
        os.environ.pop(name, None)
    from pool_study import study

    from services.cli.context import open_database
    from services.embedded import stop
    from services.settings import settings

    settings.cache_clear()
    (home / "remelt").mkdir()
    reference = sorted(path.parent.name for path in pool.glob("*/config.json"))[0]
    options = SimpleNamespace(
        pool=pool, suites=suites, use=names, items=most, reference=reference,
        objectives=["macro"], method="random", trials=trials, seed=0, finalists=1, threads=1,
    )  # fmt: skip
    try:
        study(options, home / "remelt")  # type: ignore[arg-type]
        with open_database().transaction() as connection:
            found = connection.execute(
                "SELECT extract(epoch FROM e.finished_at)::float8 AS at, e.cost FROM evaluation e "
                "WHERE e.split = 'search' AND e.state = 'complete' ORDER BY e.finished_at"
            ).fetchall()
            items = connection.execute("SELECT name, search_items FROM suite").fetchall()
    finally:
        stop(home / "remelt")
        shutil.rmtree(home / "remelt", ignore_errors=True)
    last = found[-trials // 2 :]
    gaps = sorted(b["at"] - a["at"] for a, b in pairwise(last))
    forward = sorted(row["cost"]["phases"]["forward"] for row in last[1:])
    return {
        "wall": gaps[len(gaps) // 2],
        "forward": forward[len(forward) // 2],
        "items": {row["name"]: row["search_items"] for row in items},
    }


def cut_files(home: Path, files: list[Path], items: dict[str, int]) -> list[Path]:
    """As many items of every suite as the search split has."""
    out = []
    for file in files:
        lines = file.read_text().strip().split("\n")[: items[file.stem]]
        out.append(home / f"search-{file.name}")
        out[-1].write_text("\n".join(lines) + "\n")
    return out


def old_loop(
    home: Path, pool: Path, files: list[Path], peers: str, repeat: int
) -> dict[str, float]:
    """Seconds of merging, loading and scoring: the least of what was measured."""
    folders = sorted(path.parent for path in pool.glob("*/config.json"))
    config = {
        "merge_method": "linear",
        "models": [{"model": str(f), "parameters": {"weight": 1 / len(folders)}} for f in folders],
        "dtype": "float32" if "float32" in (folders[0] / "config.json").read_text() else "bfloat16",
    }
    (home / "merge.yaml").write_text(json.dumps(config))
    # the quicker of one item and sixteen at a time, which depends on the model's size
    batch = "16" if repeat > 1 else "1"
    command = [peers, str(PEER), str(home / "merge.yaml"), str(home / "merged")]
    command += ["--batch-size", batch]
    done = subprocess.run(
        [*command, *map(str, files), "--repeat", str(repeat)],
        capture_output=True,
        text=True,
        check=True,
    )
    rounds = [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"merge')]
    return min(rounds, key=lambda one: sum(one.values()))


if __name__ == "__main__":
    main()
