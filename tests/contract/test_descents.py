"""Descents through an engine: several ranks find what one finds, a stopped one goes on as if it had
not been, and what cannot be had is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.descent import Job, State, Task
from services.checkpoints import read_checkpoint
from services.errors import BadInput
from services.settings import Settings
from services.suites import Suite, parse_suite
from workers.engine.client import Engine
from workers.engine.connection import Aborted

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    folder = tmp_path_factory.mktemp("engines")
    made = {}
    for name, ranks, spread in (
        ("one", 1, "auto"), ("zero3", 2, "zero3"), ("offload", 3, "zero3-offload"),
        ("tensor", 2, "tensor"),
    ):  # fmt: skip
        settings = Settings(
            home=folder, engine_device="cpu", engine_ranks=ranks, engine_parallel=spread
        )
        made[name] = Engine(settings, log_dir=folder / name)
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="module")
def members(tiny_pool: Path) -> list[tuple[str, Path]]:
    folders = [tiny_pool / "pool" / name for name in ("now", "left", "right")]
    return [(read_checkpoint(folder).digest, folder) for folder in folders]


@pytest.fixture(scope="module")
def suites(tiny_pool: Path) -> list[Suite]:
    files = sorted((tiny_pool / "suites").glob("*.jsonl"))
    return [parse_suite(file.stem, file.read_text(), where=str(file)) for file in files]


TASKS = (
    Task(suite="pick", loss="supervised"),
    Task(suite="say", loss="entropy", weight=0.5),
    Task(suite="read", loss="imitate", teacher=2),
)


def job(members: list[tuple[str, Path]], **more: Any) -> Job:
    given = {
        "low": (-0.5,) * 3, "high": (1.5,) * 3, "start": (1 / 3,) * 3, "steps": 5, "batch": 8,
        "dtype": "float32", "tasks": TASKS,
    }  # fmt: skip
    return Job(parents=tuple(digest for digest, _ in members), **{**given, **more})


@pytest.mark.parametrize(
    ("kind", "grain"), [("zero3", "layers"), ("zero3", "columns"), ("offload", "layers")]
)
def test_several_ranks_descend_as_one(
    engines: dict[str, Engine],
    members: list[tuple[str, Path]],
    suites: list[Suite],
    kind: str,
    grain: str,
) -> None:
    found = []
    for name in ("one", kind):
        engine = engines[name]
        engine.load(members, "float32")
        # what ZeRO-3 has traced of forward passes alone must not mislead it
        first = engine.evaluate(job_recipe(members), suites, "search").weights_digest
        found.append(engine.descend(job(members, grain=grain), suites))
        assert engine.evaluate(job_recipe(members), suites, "search").weights_digest == first
    one, many = found
    assert many.state.x == pytest.approx(one.state.x, abs=1e-4)
    assert np.abs(one.state.x - 1 / 3).max() > 0.03
    assert many.state.loss == pytest.approx(one.state.loss, rel=1e-4)
    assert (many.steps, many.state.items, many.state.tokens) == (
        *(one.steps, one.state.items, one.state.tokens),
    )
    assert engines["one"].evaluate(one.recipe, suites, "search").weights_digest


def job_recipe(members: list[tuple[str, Path]]) -> Any:
    from optim.recipe import Recipe

    return Recipe(parents=tuple(digest for digest, _ in members), weights=(0.5, 0.3, 0.2))


@pytest.mark.parametrize("kind", ["one", "zero3"])
def test_stopped_and_gone_on_with(
    engines: dict[str, Engine], members: list[tuple[str, Path]], suites: list[Suite], kind: str
) -> None:
    engine = engines[kind]
    engine.load(members, "float32")
    long = job(members, steps=40)
    whole = engine.descend(long, suites)
    kept: list[State] = []
    with pytest.raises(Aborted):
        engine.descend(
            long,
            suites,
            save_seconds=0,
            on_state=kept.append,
            on_tick=lambda progress: not kept,
        )
    assert engine.alive
    assert 0 < kept[0].step < 40
    again = engine.descend(long, suites, state=State.from_bytes(kept[0].to_bytes()))
    assert again.state.values.tobytes() == whole.state.values.tobytes()
    assert again.recipe == whole.recipe
    assert again.weights == whole.weights
    assert again.state.items == whole.state.items


def test_one_epoch_shows_every_item_once(
    engines: dict[str, Engine], members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engines["one"].load(members, "float32")
    found = engines["one"].descend(job(members, steps=None, tasks=TASKS[:1]), suites)
    pick = next(suite for suite in suites if suite.name == "pick")
    assert found.state.items == len(pick.split("search"))
    assert found.cost()["passes"] == 3 * found.state.items


def test_tensor_parallelism_is_refused(
    engines: dict[str, Engine], members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine = engines["tensor"]
    engine.load(members, "float32")
    with pytest.raises(BadInput, match=r"no backward pass.*REMELT_ENGINE_PARALLEL=zero3"):
        engine.descend(job(members), suites)
    assert engine.evaluate(job_recipe(members), suites, "search").weights_digest
