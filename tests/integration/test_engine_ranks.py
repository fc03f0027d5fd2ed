"""A group of two ranks and every way it can end: all of it ends, and the next load starts anew."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from optim.merge import weights_digest
from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.errors import EngineFailed
from services.settings import Settings
from services.suites import Suite, parse_suite
from workers.engine.client import Engine, SuiteResult


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    settings = Settings(home=folder, engine_device="cpu", engine_ranks=2)
    with Engine(settings, log_dir=folder) as made:
        yield made


@pytest.fixture(scope="module")
def member(tiny_pool: Path) -> tuple[str, Path]:
    folder = tiny_pool / "pool/now"
    return read_checkpoint(folder).digest, folder


@pytest.fixture(scope="module")
def suites(tiny_pool: Path) -> list[Suite]:
    files = sorted((tiny_pool / "suites").glob("*.jsonl"))
    return [parse_suite(file.stem, file.read_text(), where=str(file)) for file in files]


def ranks(engine: Engine) -> list[psutil.Process]:
    """All processes of the group, rank 0 first."""
    first = psutil.Process(engine.pid)
    others = first.children()
    assert len(others) == 1
    assert os.getpgid(others[0].pid) == engine.pid
    return [first, *others]


def strike(
    engine: Engine, member: tuple[str, Path], suites: list[Suite], rank: int, number: int
) -> list[psutil.Process]:
    """Send a signal to one rank as soon as the first suite is finished; wait for the failure."""
    engine.load([member], "float32")
    group = ranks(engine)
    long = [Suite(name=f"s{i}", form=s.form, items=s.items) for i, s in enumerate(suites * 60)]
    struck: list[float] = []

    def hit(_: SuiteResult) -> None:
        if not struck:
            os.kill(group[rank].pid, number)
            struck.append(time.monotonic())

    with pytest.raises(EngineFailed) as failed:
        engine.evaluate(Recipe.one_hot((member[0],), 0), long, None, on_suite=hit)
    assert time.monotonic() - struck[0] < 5
    assert not engine.alive
    assert ("silent for" in str(failed.value)) == (number == signal.SIGSTOP)
    return group


def gone(group: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(group, timeout=5)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize(
    ("rank", "number"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_a_rank_takes_the_group_with_it(
    engine: Engine, member: tuple[str, Path], suites: list[Suite], rank: int, number: int
) -> None:
    engine.load([member], "float32")  # a new group after the one before
    done = engine.evaluate(Recipe.one_hot((member[0],), 0), suites, None)
    assert done.weights_digest == weights_digest(load_file(member[1] / "model.safetensors").items())
    patience = 1.0 if number == signal.SIGSTOP else 600.0
    settings = engine._settings
    engine._settings = settings.model_copy(update={"engine_hang_seconds": patience})
    try:
        group = strike(engine, member, suites, rank, number)
    finally:
        engine._settings = settings
    assert gone(group)


def test_no_rank_outlives_rank_0(engine: Engine, member: tuple[str, Path]) -> None:
    engine.load([member], "float32")
    group = ranks(engine)
    # not the whole group, as `kill_group` does
    os.kill(group[0].pid, signal.SIGKILL)
    assert gone(group)
