"""The demo pool on disk: it loads, it is made once, and no interruption spoils it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.checkpoints import check_mergeable, read_checkpoint
from services.suites import parse_suite
from workers.demo import build as building
from workers.demo.build import build
from workers.demo.data import TASKS, Corpus, load_corpus
from workers.demo.plan import EARLY, REFERENCE, Plan, Stage, demo_plan

pytestmark = pytest.mark.usefixtures("one_thread")
PATIENCE_SECONDS = 240


class Interrupted(Exception):
    """Raised in the middle of training."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(autouse=True)
def _read_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "load_corpus", lambda: corpus)


@pytest.fixture
def plan() -> Plan:
    """The first stage and one branch, in seconds."""
    whole = demo_plan().scaled(10)
    small = {"hidden_size": 16, "intermediate_size": 24, "layers": 2, "heads": 2, "batch": 8}
    return replace(whole, stages=whole.stages[:2], **small)


def run(path: Path, plan: Plan, *, stop_in: str = "", seconds: float = 600) -> list[str]:
    """Build; returns the stages that were trained."""
    trained: list[str] = []

    def on_step(stage: Stage, step: int, over: float) -> None:
        if stage.name == stop_in:
            raise Interrupted
        if over == 1:
            trained.append(stage.name)

    build(path, plan, seconds=seconds, on_step=on_step)
    return trained


def stamps(path: Path) -> dict[str, int]:
    """Every file of a demo and when it was last written."""
    return {
        str(file.relative_to(path)): file.stat().st_mtime_ns
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_checkpoints_and_suites_are_what_the_services_want(tmp_path: Path, plan: Plan) -> None:
    branch = plan.stages[1].name
    assert run(tmp_path, plan) == [REFERENCE, branch]
    manifest = json.loads((tmp_path / "demo.json").read_text())
    assert list(manifest["pool"]) == [REFERENCE, EARLY, branch]
    assert manifest["reference"] == REFERENCE
    assert {"torch", "lemminflect"} <= set(manifest["versions"])
    read = [(name, read_checkpoint(tmp_path / at)) for name, at in manifest["pool"].items()]
    check_mergeable(read)
    assert len({checkpoint.digest for _, checkpoint in read}) == 3
    assert set(manifest["suites"]) == set(TASKS)
    for name, file in manifest["suites"].items():
        parse_suite(name, (tmp_path / file).read_text(encoding="utf-8"), where=file)

    steps = {}
    for name, at in manifest["pool"].items():
        said = json.loads((tmp_path / at / "provenance.json").read_text())
        assert said["name"] == name
        assert said["parent"] == (REFERENCE if name == branch else None)
        assert {"mixture", "lr", "seed", "seconds"} <= set(said)
        steps[name] = said["steps"]
    assert steps == {REFERENCE: 10, EARLY: 4, branch: plan.stages[1].steps}

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pool" / branch).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pool" / branch)
    inputs = tokenizer("Plural: child =", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    with torch.inference_mode():
        answer = model.generate(inputs["input_ids"], max_new_tokens=4, do_sample=False)
    text = str(tokenizer.decode(answer[0], skip_special_tokens=True))
    assert text.startswith("Plural: child =")


def test_a_second_run_writes_nothing(tmp_path: Path, plan: Plan) -> None:
    run(tmp_path, plan)
    before = stamps(tmp_path)
    assert run(tmp_path, plan) == []
    assert stamps(tmp_path) == before


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, plan: Plan) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, plan)
    branch = plan.stages[1].name
    with pytest.raises(Interrupted):
        run(cut, plan, stop_in=branch)
    assert not (cut / "demo.json").exists()
    finished = stamps(cut / "pool")
    assert {Path(file).parts[0] for file in finished} == {REFERENCE, EARLY}
    assert run(cut, plan) == [branch]
    assert finished.items() <= stamps(cut / "pool").items()
    for name in (REFERENCE, EARLY, branch):
        file = f"pool/{name}/model.safetensors"
        assert (cut / file).read_bytes() == (whole / file).read_bytes()


def test_a_run_cut_in_the_first_stage_starts_it_again(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, plan, stop_in=REFERENCE)
    (tmp_path / "pool" / f"{building.PARTIAL}deployed-1").mkdir(parents=True)
    assert run(tmp_path, plan) == [stage.name for stage in plan.stages]
    assert not list(tmp_path.rglob(f"{building.PARTIAL}*"))


@pytest.mark.parametrize("lost", ["pool/early/config.json", "suites/class.jsonl", "demo.json"])
def test_what_is_lost_is_made_again(tmp_path: Path, plan: Plan, lost: str) -> None:
    run(tmp_path, plan)
    (tmp_path / lost).unlink()
    run(tmp_path, plan)
    assert (tmp_path / lost).is_file()
    assert run(tmp_path, plan) == []


def test_another_plan_replaces_ours_and_leaves_the_users_folders(
    tmp_path: Path, plan: Plan
) -> None:
    run(tmp_path, plan)
    own = tmp_path / "pool" / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    first = replace(plan, stages=plan.stages[:1], batch=4)
    assert run(tmp_path, first) == [REFERENCE]
    assert {folder.name for folder in (tmp_path / "pool").iterdir()} == {REFERENCE, EARLY, "own"}


def test_stages_cut_by_the_clock_say_so(tmp_path: Path, plan: Plan) -> None:
    whole = replace(plan, stages=tuple(replace(stage, steps=100_000) for stage in plan.stages))
    started = time.monotonic()
    run(tmp_path, whole, seconds=2)
    assert time.monotonic() - started < 60
    for stage in whole.stages:
        said = json.loads((tmp_path / "pool" / stage.name / "provenance.json").read_text())
        assert 1 <= said["steps"] < said["planned_steps"] == 100_000


def test_killed_without_warning_then_run_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workers.demo", str(tmp_path), "--steps", "3", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE_SECONDS
        while not (tmp_path / "pool" / REFERENCE).exists() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "demo.json").exists()
    weights = tmp_path / "pool" / REFERENCE / "model.safetensors"
    written = weights.stat().st_mtime_ns
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    manifest = json.loads(done.stdout)
    assert len(manifest["pool"]) == 9
    assert weights.stat().st_mtime_ns == written
    # off a terminal: one line a stage, and the last line says where everything is
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("trained languages: ")]
    assert not [line for line in lines if line.startswith("trained deployed: ")]
    assert "9 checkpoints, 5 suites" in " ".join(lines[-2:])
