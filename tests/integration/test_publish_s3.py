"""A trial evaluated by a real engine, published to a real S3 server and pulled, by commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from services import evaluations
from services.checkpoints import read_checkpoint
from services.db import Database
from services.settings import Settings
from services.store import open_store
from services.studies.advance import advance
from workers.evaluation import EngineKeeper, run_claim

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = "name: s3\npool: tiny\nsuites: [pick]\nbudget: {trials: 2}\n"
TRIAL = 4  # the uniform soup: the first that is no parent


@pytest.fixture
def evaluated(driver: Driver, config: Settings) -> int:
    """A study whose trial 4 was evaluated by the real engine."""
    study = driver.submit(SPEC)
    advance(driver.database, study)
    (wanted,) = [t for t in driver.trials(study) if t.number == TRIAL]
    held = evaluations.claim(driver.database, wanted.evaluation_id, "test", config)
    assert held is not None
    keeper = EngineKeeper(config)
    try:
        run_claim(driver.database, config, keeper, held, Event())
    finally:
        keeper.drop()
    return study


@pytest.fixture
def remelt(database_url: str, config: Settings, s3_server: Any) -> Callable[..., Any]:
    """Run `remelt …` as a process of its own whose store is the S3 server."""
    assert config.broker_url is not None
    env = os.environ | s3_server.environment
    env |= {
        "REMELT_DATABASE_URL": database_url,
        "REMELT_BROKER_URL": config.broker_url.get_secret_value(),
        "REMELT_HOME": str(config.home),
        "OMP_NUM_THREADS": "1",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    return run


def test_publish_pull_load_and_refuse_flipped_bytes(
    evaluated: int,
    driver: Driver,
    remelt: Callable[..., Any],
    s3_server: Any,
    tmp_path: Path,
) -> None:
    published = remelt("publish", str(evaluated), str(TRIAL), "--json")
    assert published.returncode == 0, published.stderr
    said = json.loads(published.stdout)
    assert said["store"] == f"s3://{s3_server.bucket}/store"
    again = remelt("publish", str(evaluated), str(TRIAL), "--json")
    assert json.loads(again.stdout) == said

    out = tmp_path / "pulled"
    pulled = remelt("pull", f"{evaluated}/{TRIAL}", str(out))
    assert pulled.returncode == 0, pulled.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["weights"] == _evaluated_digest(driver.database)
    assert read_checkpoint(out).parameters > 0
    assert "far" in (out / "README.md").read_text()
    _loads(out)
    # by digest, no database is asked
    assert remelt("pull", said["digest"], str(tmp_path / "by-digest")).returncode == 0

    with open_store(None, s3_server.settings()) as store:
        key = next(k for k in store.list("checkpoints/") if k.endswith("model.safetensors"))
    _flip(s3_server, f"store/{key}")
    broken = remelt("pull", f"{evaluated}/{TRIAL}", str(tmp_path / "broken"))
    assert broken.returncode == 1
    assert "model.safetensors" in broken.stderr
    assert not (tmp_path / "broken").exists()
    for output in (published, pulled, broken):
        assert s3_server.secret_key not in output.stdout + output.stderr


def _evaluated_digest(database: Database) -> str:
    with database.transaction() as connection:
        found = connection.execute(
            "SELECT weights_digest AS d FROM evaluation WHERE state = 'complete'"
        ).fetchall()
    assert len(found) == 1
    return str(found[0]["d"])


def _loads(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        assert model(**tokenizer("abc =", return_tensors="pt")).logits.isfinite().all()


def _flip(server: Any, key: str) -> None:
    """Flip one bit of a stored object, as a bad disk would."""
    from services.store.s3_client import make_client

    client = make_client(server.settings())
    raw = bytearray(client.get_object(Bucket=server.bucket, Key=key)["Body"].read())
    raw[-5] ^= 1
    client.put_object(Bucket=server.bucket, Key=key, Body=bytes(raw))
    client.close()
