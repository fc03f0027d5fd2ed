"""`remelt study attribute`, `study explore` and `pool kinship`, on a study that has ended."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import services.cli as command_line
from services import kinship, registry
from services.access import User
from services.errors import BadInput, Forbidden, IntegrityError, RemeltError
from services.settings import Settings
from services.studies import control, read

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: asked
pool: tiny
suites: [pick, say, read]
objectives: [macro, churn]
search: {method: random, space: simplex, parallelism: 4, seed: 1}
budget: {trials: 4, finalists: 2}
"""
Run = Callable[..., str]


@pytest.fixture
def remelt(driver: Driver, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the driver's database; what it printed."""

    def run(*arguments: Any) -> str:
        command_line.cli([str(a) for a in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_attribute_from_the_plan_to_the_table(
    driver: Driver, remelt: Run, assert_invariants: AssertInvariants
) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    soup = next(t for t in driver.trials(number) if t.role == "uniform").number
    ask = ("study", "attribute", number, "--candidate", soup)
    planned = json.loads(remelt(*ask, "--plan", "--json"))
    known = planned["merges"]["told"]
    # single checkpoints and the whole; the greedy soup may have met a coalition too
    assert known >= 5
    assert (planned["merges"]["total"], planned["merges"]["failed"]) == (15, [])
    assert not driver.queued(number)
    begun = remelt(*ask)
    assert f"{known} of 15 merges evaluated, {15 - known} to come" in begun
    assert len(driver.queued(number)) == 15 - known
    worker = threading.Timer(0.7, driver.run, [number])
    worker.start()
    data = json.loads(remelt(*ask, "--wait", "--json"))
    worker.join()
    done = {"total": 15, "told": 15, "open": 0, "failed": [], "held": False}
    assert data["merges"] == done
    assert [o["name"] for o in data["objectives"]] == ["macro", "churn"]
    for objective in data["objectives"]:
        values = [p["shapley"]["value"] for p in objective["parents"]]
        assert sum(values) == pytest.approx(objective["all"] - objective["empty"])
    shown = remelt(*ask)
    assert "4 parents, all orders of joining; shares of the others are renormalised" in shown
    assert "macro (higher is better): none 0." in shown
    assert "churn (lower is better): none 0.000" in shown
    assert_invariants(driver.database, number, driver.config)


def test_merges_that_fail_are_named_and_tried_once_more(driver: Driver, remelt: Run) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    ask = ("study", "attribute", number, "--candidate", 4, "--split", "search")
    remelt(*ask)
    driver.fail(driver.claim(driver.queued(number)[0]), "out of memory")
    driver.run(number)
    shown = remelt(*ask, "--plan")
    assert "has no results: out of memory" in shown
    assert "–" in shown
    control_error = pytest.raises(RemeltError, match=r"1 of 15 merges have no results: cancelled")
    remelt(*ask)
    control.pause(driver.database, number)
    said = r"probes \(paused\): \d+ complete on search, 1 failed on search, 1 queued on search\n"
    assert re.search(said, remelt("study", "show", number))
    control.cancel(driver.database, number)
    with control_error:
        # nothing is asked for here: the plan alone does not try again
        remelt(*ask, "--plan", "--wait")
    remelt(*ask)
    driver.run(number)
    assert json.loads(remelt(*ask, "--json"))["merges"]["failed"] == []


def test_explore_says_how_many_moves_are_near(driver: Driver, remelt: Run) -> None:
    number = driver.submit(SPEC)
    driver.run(number)
    ask = ("study", "explore", number, "--moves", 6, "--step", 0.02)
    assert "0 of 0 moves stay within 0.01" in remelt(*ask)
    driver.run(number)
    data = json.loads(remelt(*ask, "--json", "--epsilon", 1))
    assert data["candidate"] == read.study_summary(driver.database, number)["chosen"]
    assert (len(data["moves"]), data["near"]) == (6, 6)
    assert "6 of 6 moves stay within 1; between them and the candidate" in remelt(
        *ask, "--epsilon", 1
    )


def _vectors(pool: Path, base: str, names: list[str]) -> np.ndarray:
    def whole(name: str) -> np.ndarray:
        found = load_file(pool / name / "model.safetensors")
        return np.concatenate([found[key].ravel().astype(np.float64) for key in sorted(found)])

    return np.stack([whole(name) - whole(base) for name in names])


def test_kinship_of_a_pool_is_read_once(
    driver: Driver, remelt: Run, tiny_pool: Path, tmp_path: Path
) -> None:
    names = ("now", "left", "far")
    copies = [shutil.copytree(tiny_pool / "pool" / n, tmp_path / n) for n in names]
    registry.add_pool(
        driver.database, driver.config, "kin", list(map(str, copies)), reference="now"
    )
    with pytest.raises(
        Forbidden, match="eve is a viewer and may not measure the kinship of pool kin"
    ):
        kinship.of_pool(driver.database, driver.config, "kin", by=User("eve", "viewer"))
    assert kinship.stored(driver.database, "kin") is None
    said: list[tuple[str, int, int]] = []
    found = kinship.of_pool(
        driver.database, driver.config, "kin", progress=lambda *told: said.append(told)
    )
    assert said[-1][0] == "comparing"
    assert said[-1][1] == said[-1][2]
    assert (found.base, found.names) == ("now", ("left", "far"))
    d = _vectors(tmp_path, "now", ["left", "far"])
    norms = np.linalg.norm(d, axis=1)
    assert found.kinship.n == d.shape[1]
    assert found.kinship.norms == pytest.approx(norms, rel=1e-9)
    assert found.kinship.cosine[0, 1] == pytest.approx(d[0] @ d[1] / norms.prod(), rel=1e-9)
    assert found.kinship.pearson[0, 1] == pytest.approx(np.corrcoef(d)[0, 1], rel=1e-6)
    # stored by digests: in another order, under another name, without the files
    registry.add_pool(
        driver.database, driver.config, "nik", list(map(str, copies[::-1])), reference="left"
    )
    for copy in copies:
        shutil.rmtree(copy)
    data = json.loads(remelt("pool", "kinship", "nik", "--base", "now", "--json"))
    assert data["checkpoints"] == ["far", "left"]
    assert data["norm"] == pytest.approx(norms[::-1].tolist(), rel=1e-9)
    assert data["cosine"][0][0] == 1
    # who may not measure may look at what was measured
    eve = User("eve", "viewer")
    assert (
        kinship.of_pool(driver.database, driver.config, "nik", base="now", by=eve).to_dict() == data
    )
    assert "cosine of task vectors from now (2410.12613)" in remelt("pool", "kinship", "kin")
    assert "l2 of task vectors" in remelt("pool", "kinship", "kin", "--measure", "l2")
    with pytest.raises(BadInput, match="'then' is not in pool 'kin'"):
        remelt("pool", "kinship", "kin", "--base", "then")


def test_kinship_refuses_files_that_changed(
    driver: Driver, config: Settings, tiny_pool: Path, tmp_path: Path
) -> None:
    copies = [shutil.copytree(tiny_pool / "pool" / n, tmp_path / n) for n in ("now", "left")]
    registry.add_pool(driver.database, config, "kin", list(map(str, copies)), reference="now")
    shutil.copyfile(
        tiny_pool / "pool" / "right" / "model.safetensors", tmp_path / "left" / "model.safetensors"
    )
    with pytest.raises(IntegrityError, match="registered as 'left'"):
        kinship.of_pool(driver.database, config, "kin")
