"""One model on its suites: Remelt's engine against lm-eval's Hugging Face back end; and what
blocks that are frozen in the whole pool save.

    python bench/evaluating.py --peers PEERS/bin/python [--pool DIR --suites DIR]

Without --pool and --suites it makes random ones of SmolLM2-135M's shape. Items of a suite whose
name holds "shot" share a few heads. lm-eval gets every fourth item of such a suite and every second
of the others: its seconds an item do not depend on how many there are. One thread each, float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pools import LARGE, make_pool, make_suites
from rows import Rows

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import Suite, parse_suite
from workers.engine.client import Engine, SuiteResult

PEER = Path(__file__).parent / "peers/lm_eval_hf.py"
#: candidates that are scored with and without skipping frozen blocks
CANDIDATES = 5
#: items of a suite that they are scored on
ITEMS = 60


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", help="python of an environment with lm-eval; left out: no peer")
    parser.add_argument("--pool", type=Path, help="folder of checkpoints; the first is evaluated")
    parser.add_argument("--suites", type=Path, help="folder of JSONL suites")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("evaluating")
    with tempfile.TemporaryDirectory(prefix="remelt-bench-") as root:
        home = Path(root)
        if options.pool:
            pool = sorted(path.parent for path in options.pool.glob("*/config.json"))
            files = {path.stem: path for path in sorted(options.suites.glob("*.jsonl"))}
        else:
            pool = make_pool(home / "pool", LARGE, 3, dtype="bfloat16", moved_blocks=3)
            files = make_suites(home, 60)
        texts = {name: file.read_text() for name, file in files.items()}
        suites = [parse_suite(n, text, where=n) for n, text in texts.items()]
        against_peer(rows, home, pool[0], suites, files, options.peers)
        # without few-shot suites, which would only take longer to gain as much
        few = {n: "\n".join(t.split("\n")[:ITEMS]) for n, t in texts.items() if "shot" not in n}
        skipping(rows, home, pool, [parse_suite(n, text, where=n) for n, text in few.items()])
    rows.write(options.out)


def against_peer(
    rows: Rows, home: Path, folder: Path, suites: list[Suite], files: dict[str, Path], peers: Any
) -> None:
    """Items a second of one model, each suite for itself."""
    head = read_checkpoint(folder, check_values=False)
    found: dict[str, SuiteResult] = {}
    with engine(home) as started:
        started.load([(head.digest, folder)], head.dtype)
        recipe = Recipe.one_hot((head.digest,), 0, head.dtype)
        for suite in suites:
            begun = time.perf_counter()
            keep(started, recipe, [suite], found)
            seconds = time.perf_counter() - begun
            few = "shot" in suite.name
            every = 8 if few else 4
            rows.add(f"{suite.name}, items a second", len(suite) / seconds, "items/s")
            if peers:
                other = ask_peer(peers, folder, files[suite.name], every=every)
                rate = other["items"] / other["seconds"]
                goal = {"at_least": 5.0 if few else 1.5}
                rows.add(f"{suite.name}, lm-eval HF", rate, "items/s")
                rows.add(f"{suite.name}, over lm-eval HF", len(suite) / seconds / rate, "×", **goal)
                if suite.form != "text":  # there lm-eval scores the first token too
                    same = agreement(suite, found[suite.name], other["answers"], every)
                    rows.add(f"{suite.name}, same answers", same, "share", at_least=1.0)


def skipping(rows: Rows, home: Path, pool: list[Path], suites: list[Suite]) -> None:
    """Candidates a minute behind frozen blocks, against the same ones computed from the bottom."""
    heads = [read_checkpoint(folder, check_values=False) for folder in pool]
    digests = tuple(head.digest for head in heads)
    rng = np.random.default_rng(0)
    recipes = [
        Recipe(parents=digests, weights=tuple(w / w.sum()), dtype=heads[0].dtype)
        for w in rng.dirichlet(np.ones(len(pool)), CANDIDATES)
    ]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    answers: list[dict[str, SuiteResult]] = []
    for skip in (True, False):
        with engine(home) as started:
            started.load([(head.digest, head.path) for head in heads], heads[0].dtype)
            for recipe in recipes if skip else recipes[-1:]:
                # weights that miss 1 by a hair may change frozen tensors: nothing is skipped
                if not skip:
                    recipe = Recipe(
                        parents=digests,
                        weights=(recipe.weights[0] + 3e-6, *recipe.weights[1:]),
                        dtype=recipe.dtype,
                    )
                begun, found = time.perf_counter(), dict[str, SuiteResult]()
                keep(started, recipe, suites, found)
                seconds[skip].append(time.perf_counter() - begun)
                answers += [found] if skip else []
    # the first candidate fills the store, and the answers that are known grow for a while
    fast, slow = min(seconds[True][1:]), min(seconds[False])
    rows.add("a candidate behind frozen blocks", fast, "s")
    rows.add("the same from the bottom", slow, "s")
    rows.add("candidates a minute, frozen blocks skipped", slow / fast, "×", at_least=4.0)
    # the same candidate once more, with nothing shared, skipped or known
    asked, whole = [s for s in suites if s.form != "text"], dict[str, SuiteResult]()
    with engine(home, plain=True) as started:
        started.load([(head.digest, head.path) for head in heads], heads[0].dtype)
        keep(started, recipes[-1], asked, whole)
    skipped = answers[-1]
    same = [
        np.array_equal(skipped[s.name].predictions.answer, whole[s.name].predictions.answer)
        for s in asked
    ]
    rows.add("suites with the same answers either way", float(np.mean(same)), "share", at_least=1.0)


def engine(home: Path, *, plain: bool = False) -> Engine:
    """An engine of one rank and one thread."""
    settings = Settings(home=home, engine_device="cpu", engine_threads=1)
    return Engine(settings, log_dir=home, plain=plain)


def keep(
    started: Engine, recipe: Recipe, suites: list[Suite], into: dict[str, SuiteResult]
) -> None:
    """Evaluate all items of the suites, and keep the results by name."""
    started.evaluate(recipe, suites, None, on_suite=lambda done: into.update({done.suite: done}))


def ask_peer(python: str, folder: Path, file: Path, *, every: int) -> Any:
    """What lm-eval found, one item at a time: on a CPU larger batches only add padding."""
    command = [python, str(PEER), str(folder), str(file), "--every", str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().split("\n")[-1])


def agreement(suite: Suite, found: SuiteResult, answers: list[Any], every: int) -> float:
    """Share of items with the same answer."""
    if suite.form == "choice":
        assert found.predictions.answer is not None
        return float(
            np.mean(found.predictions.answer[::every] == np.array(answers, dtype=np.uint64))
        )
    mine = list(found.predictions.texts or ())[::every]
    return float(np.mean([a == b for a, b in zip(mine, answers, strict=True)]))


if __name__ == "__main__":
    main()
