"""The tolerance that docs/studies.md states: however rows are batched, whatever is shared between
rows or candidates, answers are the same and numbers agree within 1e-4 nats in float32."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import Suite, parse_suite
from tests.plugins.shuffled import Shuffled
from workers.engine.client import Engine, SuiteResult

TOLERANCE_NATS = 1e-4
WAYS = {"64": (64, False), "2048": (2048, False), "plain": (2048, True), "plain 64": (64, True)}
COMPILERS = ("c++", "g++", "clang++")

Results = list[dict[str, SuiteResult]]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """One engine for every way of batching."""
    home = tmp_path_factory.mktemp("batching")
    # a study may not go below 128; here small batches are wanted
    config = Settings(home=home, engine_device="cpu")
    made = {
        name: Engine(
            config.model_copy(update={"batch_tokens": tokens}), log_dir=home / name, plain=plain
        )
        for name, (tokens, plain) in WAYS.items()
    }
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="module")
def suites(tiny_pool: Path) -> list[Suite]:
    """One suite of each form, and two whose items share a long start, as few-shot prompts do."""
    files = sorted((tiny_pool / "suites").glob("*.jsonl"))
    found = [parse_suite(file.stem, file.read_text(), where=str(file)) for file in files]
    rng = random.Random(5)
    shots = "abc = a . bad = b . head = h . "

    def word() -> str:
        return "".join(rng.choice("abcdefgh") for _ in range(rng.randint(2, 6)))

    pick, say = [], []
    for index in range(40):
        choices = [f" {word()}", f" {word()} {word()}", " a"]
        item = {"id": str(index), "context": f"{shots}{word()} =", "choices": choices, "gold": 0}
        pick.append(json.dumps(item))
        target = f" {word()[0]}"
        say.append(json.dumps({"id": str(index), "prompt": f"{shots}{word()} =", "target": target}))
    for name, lines in (("pick-shots", pick), ("say-shots", say)):
        found.append(parse_suite(name, "\n".join(lines), where=name, require_splits=False))
    return found


@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="layers compiled on a CPU need a C++ compiler"
)
def test_compiled_layers_do_not_matter(
    engines: dict[str, Engine],
    tiny_pool: Path,
    suites: list[Suite],
    tmp_path: Path,
) -> None:
    """Real code, of the real compiler, for candidates that are formed in one buffer."""
    folders = [tiny_pool / "pool" / name for name in ("now", "left", "right", "far")]
    pool = [(read_checkpoint(folder).digest, folder) for folder in folders]
    parents = tuple(digest for digest, _ in pool)
    weights = ((1.0, 0.0, 0.0, 0.0), (-0.2, 0.1, 0.1, 1.0))
    recipes = [Recipe(parents=parents, weights=w, dtype="float32") for w in weights]
    config = Settings(home=tmp_path, engine_device="cpu", engine_compile=True)
    config = config.model_copy(update={"batch_tokens": 64})
    with Engine(config, log_dir=tmp_path) as engine:
        compiled = results(engine, pool, recipes, suites)
        assert engine.about["compiled"], engine.about["compiled_why"]
        log = engine.log_path.read_text()
    # plain rows, trees and what is behind a head, one a batch or several
    assert 3 <= log.count("layers compiled for ") <= 6
    assert "layers stay as they are" not in log
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700
    for one, two in zip(results(engines["64"], pool, recipes, suites), compiled, strict=True):
        for suite, result in one.items():
            assert_agree(result, two[suite])
    assert engines["64"].about["compiled"] is False


def results(
    engine: Engine, pool: list[tuple[str, Path]], recipes: list[Recipe], suites: list[Suite]
) -> Results:
    """Every suite of every candidate, all items."""
    engine.load(pool, "float32")
    found: Results = []
    for recipe in recipes:
        found.append({})
        engine.evaluate(recipe, suites, None, on_suite=lambda r: found[-1].update({r.suite: r}))
    return found


def assert_agree(one: SuiteResult, two: SuiteResult) -> None:
    """Same answers, numbers within the tolerance."""
    a, b = one.predictions, two.predictions
    assert a.items == b.items
    assert a.texts == b.texts
    for name in ("correct", "answer", "tokens"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or np.array_equal(x, y), (one.suite, name)
    for x, y in ((one.margins, two.margins), (a.nll, b.nll)):
        if x is not None and y is not None:
            assert float(np.abs(x - y).max()) <= TOLERANCE_NATS, one.suite


def test_batches_do_not_matter(
    engines: dict[str, Engine], tiny_pool: Path, suites: list[Suite]
) -> None:
    folders = [tiny_pool / "pool" / name for name in ("now", "left", "right", "far")]
    pool = [(read_checkpoint(folder).digest, folder) for folder in folders]
    parents = tuple(digest for digest, _ in pool)
    weights = ((1.0, 0.0, 0.0, 0.0), (0.4, 0.3, 0.2, 0.1), (-0.2, 0.1, 0.1, 1.0))
    recipes = [Recipe(parents=parents, weights=w, dtype="float32") for w in weights]
    found = {name: results(engine, pool, recipes, suites) for name, engine in engines.items()}
    for other in ("64", "2048", "plain 64"):
        for one, two in zip(found["plain"], found[other], strict=True):
            for name, result in one.items():
                assert_agree(result, two[name])
    # the ways were really different ones
    spent = {name: sum(r.tokens for r in found[name][0].values()) for name in engines}
    assert spent["2048"] < spent["plain"]
    assert engines["64"].about["batch_tokens"] == 64


def test_the_order_of_blocks_does_not_matter(
    engines: dict[str, Engine], tiny_pool: Path, suites: list[Suite]
) -> None:
    """Batches of all suites interleaved: shared heads and known answers are still the right ones.
    Small batches make heads of many batches, which are kept while others run."""
    folders = [tiny_pool / "pool" / name for name in ("now", "far")]
    pool = [(read_checkpoint(folder).digest, folder) for folder in folders]
    parents = tuple(digest for digest, _ in pool)
    scored = [suite.name for suite in suites if suite.form != "text"]
    for name in ("64", "2048"):
        engines[name].load(pool, "float32")
        for seed, share in enumerate((0.0, 0.4, 0.7)):
            recipe = Recipe(parents=parents, weights=(1 - share, share), dtype="float32")
            (whole,) = results(engines[name], pool, [recipe], suites)
            race, found = Shuffled(seed, scored), list[SuiteResult]()
            engines[name].evaluate(recipe, suites, None, on_suite=found.append, race=race)
            assert len(found) == len(suites)
            for result in found:
                assert_agree(whole[result.suite], result)
            for suite in suites:
                if suite.form != "text":
                    assert sorted(race.items(suite.name)) == list(range(len(suite)))
            names = [suite for suite, _ in race.drawn]
            assert min(names.count(one) for one in scored) >= 8
            changes = sum(a != b for a, b in itertools.pairwise(names))
            assert changes > len(names) / 2


def test_skipped_blocks_do_not_matter(
    engines: dict[str, Engine], tiny_pool: Path, tmp_path: Path, suites: list[Suite]
) -> None:
    now, other = tiny_pool / "pool/now", tmp_path / "other"
    shutil.copytree(now, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] *= 1.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    pool = [(read_checkpoint(folder).digest, folder) for folder in (now, other)]
    parents = tuple(digest for digest, _ in pool)
    recipes = [
        Recipe(parents=parents, weights=(1 - w, w), dtype="float32") for w in (0.0, 0.5, 2.0)
    ]
    plain = results(engines["plain"], pool, recipes, suites)
    for name in ("64", "2048"):
        for one, two in zip(plain, results(engines[name], pool, recipes, suites), strict=True):
            for suite, result in one.items():
                assert_agree(result, two[suite])
