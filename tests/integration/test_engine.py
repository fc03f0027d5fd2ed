"""The engine as the worker uses it: a real process, real weights, and every way it can end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optim.merge import linear_, weights_digest
from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.errors import BadInput, EngineFailed, IntegrityError, TrialRejected
from services.settings import Settings
from services.suites import Item, Suite, parse_suite
from workers.engine.client import Engine, Progress, SuiteResult
from workers.engine.connection import Aborted

NAMES = ("now", "left", "right", "far")


def make_engine(folder: Path, **more: object) -> Engine:
    return Engine(Settings(**{"home": folder, "engine_device": "cpu", **more}), log_dir=folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(scope="module")
def members(tiny_pool: Path) -> list[tuple[str, Path]]:
    folders = [tiny_pool / "pool" / name for name in NAMES]
    return [(read_checkpoint(folder).digest, folder) for folder in folders]


@pytest.fixture(scope="module")
def suites(tiny_pool: Path) -> list[Suite]:
    files = sorted((tiny_pool / "suites").glob("*.jsonl"))
    return [parse_suite(file.stem, file.read_text(), where=str(file)) for file in files]


def recipe_of(members: list[tuple[str, Path]], *weights: float, dtype: str = "float32") -> Recipe:
    return Recipe(parents=tuple(d for d, _ in members), weights=weights, dtype=dtype)


def run(
    engine: Engine, recipe: Recipe, suites: list[Suite], split: str | None = "search"
) -> tuple[str, dict[str, SuiteResult]]:
    results: dict[str, SuiteResult] = {}
    done = engine.evaluate(
        recipe, suites, split, on_suite=lambda result: results.update({result.suite: result})
    )
    return done.weights_digest, results


def copy_with(source: Path, target: Path, change: Callable[[dict], None]) -> tuple[str, Path]:
    """A copy of a checkpoint whose tensors were changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return read_checkpoint(target).digest, target


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_one_hot_is_the_parent_bit_for_bit(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], index: int
) -> None:
    engine.load(members, "float32")
    found, _ = run(engine, Recipe.one_hot(tuple(d for d, _ in members), index), suites[:1])
    assert found == weights_digest(load_file(members[index][1] / "model.safetensors").items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_digest_is_that_of_the_merged_tensors(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], dtype: str
) -> None:
    weights = (0.5, 0.8, -0.3, 0.0)
    engine.load(members, dtype)
    found, _ = run(engine, recipe_of(members, *weights, dtype=dtype), suites[:1])
    files = [load_file(folder / "model.safetensors") for _, folder in members]
    merged = {}
    for name, tensor in files[0].items():
        flat = torch.empty(tensor.numel(), dtype=getattr(torch, dtype))
        linear_(flat, [file[name].flatten() for file in files], weights)
        merged[name] = flat.view(tensor.shape)
    assert found == weights_digest(merged.items())


def test_frozen_tensors_come_through_every_kind_of_neighbour(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], tmp_path: Path
) -> None:
    """They are written, hashed and widened once, as long as nothing changes them."""
    frozen = load_file(members[0][1] / "model.safetensors")
    folders = []
    for digest, folder in members:
        copy = copy_with(
            folder,
            tmp_path / digest,
            lambda tensors: tensors.update(
                {k: v for k, v in frozen.items() if ".layers.0." in k or "norm" in k}
            ),
        )
        folders.append(copy)
    files = [load_file(folder / "model.safetensors") for _, folder in folders]
    engine.load(folders, "bfloat16")
    rejected = recipe_of(folders, 1e38, 1e38, 1e38, 1e38, dtype="bfloat16")
    for weights in ((0.1, 0.2, 0.3, 0.4), (0.4, 0.4, 0.1, 0.1), (0.5, 0.5, 0.5, 0), (0, 0, 0, 1)):
        found, results = run(engine, recipe_of(folders, *weights, dtype="bfloat16"), suites)
        merged = {}
        for name, tensor in files[0].items():
            flat = torch.empty(tensor.numel(), dtype=torch.bfloat16)
            linear_(flat, [file[name].flatten() for file in files], weights)
            merged[name] = flat.view(tensor.shape)
        assert found == weights_digest(merged.items())
        with pytest.raises(TrialRejected):
            run(engine, rejected, suites[:1])
    alone = tmp_path / "alone"
    shutil.copytree(folders[3][1], alone)
    save_file(merged, alone / "model.safetensors", metadata={"format": "pt"})
    pair = (read_checkpoint(alone).digest, alone)
    engine.load([pair], "bfloat16")
    assert "mapped" in engine.about["pool"] or "host" in engine.about["pool"]
    again, expected = run(engine, Recipe.one_hot((pair[0],), 0, "bfloat16"), suites)
    assert again == found
    for name in results:
        assert np.array_equal(results[name].margins, expected[name].margins)


def test_results_do_not_depend_on_what_ran_before(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine.load(members, "float32")
    recipe, other = recipe_of(members, 0.4, 0.3, 0.2, 0.1), recipe_of(members, 0, 0, 0, 1)
    digest, first = run(engine, recipe, suites)
    run(engine, other, suites, "validation")
    again, second = run(engine, recipe, suites[::-1])
    assert digest == again
    for suite in suites:
        one, two = first[suite.name].predictions, second[suite.name].predictions
        assert one.items == two.items
        for name in ("correct", "answer", "margin", "nll", "tokens"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a is None and b is None) or np.array_equal(a, b)
        assert one.texts == two.texts


def test_what_an_evaluation_reports(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine.load(members, "float32")
    seen: list[Progress] = []
    results: list[SuiteResult] = []
    done = engine.evaluate(
        recipe_of(members, 1, 0, 0, 0),
        suites,
        "search",
        on_suite=results.append,
        on_tick=lambda progress: seen.append(progress) is None,
    )
    assert [result.suite for result in results] == [suite.name for suite in suites]
    for result, suite in zip(results, suites, strict=True):
        assert result.digest == suite.digest
        assert len(result.predictions) == len(suite.split("search")) == len(result.item_tokens)
        assert result.tokens > 0
    assert done.tokens == sum(result.tokens for result in results)
    assert set(done.phases) == {"compile", "form", "score", "forward", "digest", "total"}
    assert 0 < done.form_seconds <= done.seconds
    assert done.peak_memory_bytes > 50e6
    assert done.cost()["phases"] == done.phases
    assert all(0 <= progress.share <= 1 for progress in seen)


@pytest.mark.parametrize("budget", [2**30, 0], ids=["memory", "disk"])
def test_a_study_shows_what_was_skipped_and_what_that_takes(
    members: list[tuple[str, Path]], suites: list[Suite], tmp_path: Path, budget: int
) -> None:
    other = copy_with(members[0][1], tmp_path / "other", _other_norm)
    home = tmp_path / "home"
    with make_engine(home, activation_bytes=budget) as engine:
        engine.load([members[0], other], "float32")
        recipe = Recipe(parents=(members[0][0], other[0]), weights=(0.5, 0.5), dtype="float32")
        cost = engine.evaluate(recipe, suites, "search").cost()
    assert cost["skipped_blocks"] == 2
    assert (cost["activation_memory_bytes"] > 0) == (budget > 0)
    assert (cost["activation_file_bytes"] > 0) == (budget == 0)
    spill = home / "activations"
    assert spill.stat().st_mode & 0o777 == 0o700
    assert list(spill.iterdir()) == []


def _other_norm(tensors: dict) -> None:
    """Both blocks stay as they are: only what stands behind them is another."""
    tensors["model.norm.weight"] *= 1.5


def test_nothing_is_kept_for_a_checkpoint_alone(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine.load(members[:1], "float32")
    recipe = Recipe(parents=(members[0][0],), weights=(1.0,), dtype="float32")
    cost = engine.evaluate(recipe, suites, "search").cost()
    assert cost["skipped_blocks"] == 0
    assert cost["activation_memory_bytes"] == cost["activation_file_bytes"] == 0


def test_a_suite_scored_twice_under_two_names(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine.load(members, "float32")
    pick = next(suite for suite in suites if suite.form == "choice")
    twin = Suite(name="twin", form=pick.form, items=pick.items)
    assert twin.digest == pick.digest
    _, results = run(engine, recipe_of(members, 0, 1, 0, 0), [pick, twin])
    assert set(results) == {pick.name, "twin"}


def test_shards_change_nothing(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], tmp_path: Path
) -> None:
    engine.load(members[:2], "float32")
    pair = tuple(d for d, _ in members[:2])
    expected, _ = run(engine, Recipe(parents=pair, weights=(0.25, 0.75)), suites[:1])
    sharded = tmp_path / "sharded"
    shutil.copytree(members[1][1], sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(members[1][1]).save_pretrained(
        sharded, max_shard_size="20KB"
    )
    assert len(list(sharded.glob("*.safetensors"))) > 1
    other = (read_checkpoint(sharded).digest, sharded)
    engine.load([members[0], other], "float32")
    found, _ = run(engine, Recipe(parents=(pair[0], other[0]), weights=(0.25, 0.75)), suites[:1])
    assert found == expected


def test_stopped_from_outside_and_ready_again(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    engine.load(members, "float32")
    pid, recipe = engine.pid, recipe_of(members, 0.5, 0.5, 0, 0)
    long = [Suite(name=f"s{i}", form=s.form, items=s.items) for i, s in enumerate(suites * 60)]
    with pytest.raises(Aborted):
        engine.evaluate(recipe, long, None, on_tick=lambda progress: progress.phase != "score")
    before, _ = run(engine, recipe, suites)
    assert engine.pid == pid

    def fail(_: SuiteResult) -> None:
        raise ZeroDivisionError("the caller's own mistake")

    with pytest.raises(ZeroDivisionError):
        engine.evaluate(recipe, long, None, on_suite=fail)
    assert run(engine, recipe, suites)[0] == before
    assert engine.pid == pid


def test_the_same_pool_is_not_loaded_twice(engine: Engine, members: list[tuple[str, Path]]) -> None:
    engine.load(members, "float32")
    seen: list[Progress] = []
    started = time.monotonic()
    engine.load(members, "float32", on_tick=lambda progress: seen.append(progress) is None)
    assert not seen
    assert time.monotonic() - started < 0.1


def test_candidates_that_are_not_finite(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], tmp_path: Path
) -> None:
    engine.load(members, "float16")
    with pytest.raises(TrialRejected, match=r"tensor 'model\..*' is not finite in float16"):
        run(engine, recipe_of(members, 3e5, 3e5, 0, 0, dtype="float16"), suites)

    def huge(tensors: dict) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"].fill_(3e38)

    overflows = copy_with(members[0][1], tmp_path / "huge", huge)
    engine.load([overflows], "float32")
    with pytest.raises(TrialRejected, match="is not finite"):
        run(engine, Recipe.one_hot((overflows[0],), 0), suites)
    engine.load(members, "float32")
    assert run(engine, recipe_of(members, 1, 0, 0, 0), suites)[0]


def test_pools_that_cannot_be_used(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], tmp_path: Path
) -> None:
    extra = copy_with(
        members[0][1], tmp_path / "extra", lambda t: t.update({"model.odd.weight": torch.ones(3)})
    )
    missing = copy_with(members[0][1], tmp_path / "less", lambda t: t.pop("model.norm.weight"))
    for (digest, folder), word in ((extra, "model.odd.weight"), (missing, "model.norm.weight")):
        with pytest.raises(BadInput, match=word):
            engine.load([(digest, folder)], "float32")
        with pytest.raises(BadInput, match=f"tensor '{word}' is not the same"):
            engine.load([members[0], (digest, folder)], "float32")
    with pytest.raises(IntegrityError, match="registered was"):
        engine.load([("0" * 64, members[0][1])], "float32")
    engine.load(members[:1], "float32")
    with pytest.raises(BadInput, match="not in the resident pool"):
        run(engine, recipe_of(members, 0.5, 0.5, 0, 0), suites)
    long = parse_suite(
        "long", '{"id": "x", "text": "' + "a" * 99 + '"}', where="", require_splits=False
    )
    with pytest.raises(BadInput, match=r"suite 'long', item 'x': needs 99 positions"):
        run(engine, Recipe.one_hot((members[0][0],), 0), [long], None)
    lone = Item(id="1", context="c", choices=("d",), gold=0)
    with pytest.raises(BadInput, match="choices is not a list of at least two"):
        run(
            engine,
            Recipe.one_hot((members[0][0],), 0),
            [Suite(name="s", form="choice", items=(lone,))],
        )
    assert engine.alive


def test_killed_in_the_middle_of_a_suite(
    tmp_path: Path, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    long = [Suite(name=f"s{i}", form=s.form, items=s.items) for i, s in enumerate(suites * 60)]
    with make_engine(tmp_path) as engine:
        engine.load(members, "float32")
        pid, killed = engine.pid, []

        def kill(_: SuiteResult) -> None:
            if not killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(time.monotonic())

        with pytest.raises(EngineFailed, match="ended with SIGKILL"):
            engine.evaluate(recipe_of(members, 1, 0, 0, 0), long, None, on_suite=kill)
        assert time.monotonic() - killed[0] < 2
        assert not engine.alive
        with pytest.raises(EngineFailed, match="does not run"):
            run(engine, recipe_of(members, 1, 0, 0, 0), suites)
        engine.load(members, "float32")
        assert engine.pid != pid
        assert run(engine, recipe_of(members, 1, 0, 0, 0), suites)[0]


def test_a_hung_engine_is_killed_after_its_time(
    tmp_path: Path, members: list[tuple[str, Path]], suites: list[Suite]
) -> None:
    with make_engine(tmp_path, engine_hang_seconds=60) as engine:
        engine.load(members, "float32")
        engine._settings = engine._settings.model_copy(update={"engine_hang_seconds": 1.0})
        assert engine.pid is not None
        process, ticks = psutil.Process(engine.pid), []
        process.suspend()
        started = time.monotonic()
        with pytest.raises(EngineFailed, match="silent for"):
            engine.evaluate(
                recipe_of(members, 1, 0, 0, 0),
                suites,
                None,
                on_tick=lambda progress: ticks.append(time.monotonic()) is None,
            )
        assert 1 <= time.monotonic() - started < 4
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        assert max(np.diff([started, *ticks])) < 0.5


def test_an_engine_that_ignores_an_abort_is_killed(
    tmp_path: Path,
    members: list[tuple[str, Path]],
    suites: list[Suite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.engine.connection.ABORT_SECONDS", 0.5)
    with make_engine(tmp_path) as engine:
        engine.load(members, "float32")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(Aborted):
            engine.evaluate(recipe_of(members, 1, 0, 0, 0), suites, None, on_tick=lambda _: False)
        assert not engine.alive


def test_killed_from_another_thread_while_waiting(
    tmp_path: Path, members: list[tuple[str, Path]]
) -> None:
    engine = make_engine(tmp_path)
    threading.Timer(0.5, engine.kill).start()
    with pytest.raises(EngineFailed):
        engine.load(members, "float32")
    engine.close()
    engine.kill()


PARENT = """
import sys, time
from pathlib import Path
from services.settings import Settings
from workers.engine.client import Engine
assert not {"torch", "transformers", "deepspeed", "lm_eval", "datasets"} & set(sys.modules)
engine = Engine(Settings(home=Path(sys.argv[1]), engine_device="cpu"), log_dir=Path(sys.argv[1]))
if sys.argv[2] == "thread":
    import threading
    thread = threading.Thread(target=engine.start)
    thread.start()
    thread.join()
else:
    engine.start()
assert engine.alive
print(engine.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("started_in", ["main", "thread"])
def test_no_engine_outlives_its_worker(tmp_path: Path, started_in: str) -> None:
    secret = {"REMELT_DATABASE_URL": "postgresql://u:hidden@h/d", "AWS_SECRET_ACCESS_KEY": "hidden"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), started_in],
        stdout=subprocess.PIPE,
        env=os.environ | secret,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        assert "hidden" not in str(child.environ())
        assert os.getpgid(child.pid) == child.pid
        # a thread of its own started it: it must not die with that thread
        time.sleep(1.5)
        assert child.is_running()
        parent.kill()
        parent.wait()
    psutil.wait_procs([child], timeout=4)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, engine_device="cuda", engine_ranks=2)
    with pytest.raises(BadInput, match="2 ranks need as many GPUs, this machine has 0"):
        engine.start()
    assert not engine.alive


def test_an_engine_that_cannot_start_says_where_its_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engine.process.ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers/__init__.py").write_text("raise RuntimeError('broken installation')")
    engine = make_engine(tmp_path / "logs")
    with pytest.raises(EngineFailed, match="exit code 1") as failed:
        engine.start()
    assert str(engine.log_path) in str(failed.value)
    assert "broken installation" in engine.log_path.read_text()
