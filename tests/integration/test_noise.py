"""`remelt noise`: a real model against itself, what is stored of it, and where a study shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services import noise, registry
from services.cli import front
from services.db import Database
from services.settings import Settings
from workers.noise import main

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = "name: one\npool: half\nsuites: [pick, say, read]\nbudget: {trials: 2}\n"


@pytest.fixture
def half(driver: Driver, database: Database, config: Settings, tiny_pool: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A pool of two checkpoints in bfloat16, as pools of real models are."""
    folders = []
    for name in ("now", "left"):
        folder = tmp_path / "half" / name
        folder.mkdir(parents=True)
        for file in (tiny_pool / "pool" / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(folder / "model.safetensors")
        tensors = {n: t.to(torch.bfloat16) for n, t in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(str(folder))
    return registry.add_pool(database, config, "half", folders, reference="now")


def rows(database: Database) -> list[dict[str, Any]]:
    """Everything stored, oldest first."""
    with database.transaction() as connection:
        return connection.execute("SELECT * FROM noise_floor ORDER BY id").fetchall()


@pytest.mark.usefixtures("half")
def test_it_is_measured_stored_and_shown(
    driver: Driver, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["half", "--suite", "pick", "say", "--suite", "read", "--json", "--device", "cpu"])
    told = json.loads(capsys.readouterr().out)
    stored = rows(database)
    assert [(r["variant"], r["n"]) for r in stored] == [
        (f["variant"], f["n"]) for f in told["floors"]
    ]
    assert len(stored) == 6
    for row, floor in zip(stored, told["floors"], strict=True):
        assert row["checkpoint_digest"] == told["digest"]
        assert row["split"] == "search"
        assert row["settings"] == floor["settings"]
        usual, other = floor["settings"]["usual"], floor["settings"]["other"]
        assert (usual["dtype"], usual["plain"], usual["batch_tokens"]) == ("float32", False, 512)
        if row["variant"] == "batching":
            assert (other["dtype"], other["plain"], other["batch_tokens"]) == ("float32", True, 384)
            assert row["changed"] in (0, None)
            assert row["largest_difference"] is None or row["largest_difference"] < 1e-4
        else:
            assert (other["dtype"], other["plain"]) == ("bfloat16", False)
            assert row["largest_difference"] is None or row["largest_difference"] > 1e-3
        if floor["suite"] == "read":
            assert row["changed"] is row["negative_flips"] is None
        else:
            assert len(row["flips"]) == row["changed"]
    study = driver.study(driver.submit(SPEC))
    scored = [f for f in told["floors"] if f["suite"] != "read" and f["variant"] == "dtype"]
    n, changed = sum(f["n"] for f in scored), sum(f["changed"] for f in scored)
    line = noise.line(database, study, "search")
    assert line is not None
    assert line.startswith("noise floor of the reference (now, search split): 0 of ")
    assert f"; {changed} of {n} in bfloat16 (95 %" in line
    # what was measured on another split is shown with its name
    assert noise.line(database, study, "validation") == line
    assert len(front.front_data(database, study.id)["noise_floor"]) == 6


@pytest.mark.usefixtures("half")
def test_the_newest_counts_and_a_table_says_n(
    driver: Driver, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["half", "--suite", "pick", "--split", "validation", "--checkpoint"]
    main([*arguments, "left"])
    study = driver.study(driver.submit(SPEC))
    assert noise.line(database, study, "search") is None, "left is not the reference"
    main([*arguments, "now"])
    main([*arguments, "now"])
    out = capsys.readouterr().out
    n = rows(database)[0]["n"]
    assert out.count(f"0 of {n}") >= 3
    assert "noise floor of now on the validation split" in out
    shown = noise.of_study(database, study, "search")
    assert [f.variant for f in shown] == ["batching", "dtype"]
    assert shown[0].measured_at == rows(database)[4]["measured_at"]
    line = noise.line(database, study, "search")
    assert line is not None
    assert "(now, validation split)" in line
    assert "on pick" in line, "say was not measured"


def test_float32_weights_are_tried_in_bfloat16(driver: Driver, database: Database) -> None:
    main(["pair", "--suite", "pick"])
    other = [(r["variant"], r["settings"]["other"]["dtype"]) for r in rows(database)]
    assert other == [("batching", "float32"), ("dtype", "bfloat16")]
    assert rows(database)[1]["largest_difference"] > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "--suite", "pick"], "no pool is called 'nope'. Known: tiny, pair"),
        (["tiny", "--suite", "nope"], "no suite is called 'nope'"),
        (["tiny", "--suite", "pick", "--checkpoint", "then"], "has no checkpoint 'then'"),
        (["tiny", "--suite", "pick", "--threads", "0"], "0 threads"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    driver: Driver,
    database: Database,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("remelt: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert rows(database) == []


def test_the_test_split_stays_sealed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tiny", "--suite", "pick", "--split", "test"])
    assert ended.value.code == 2
    assert "invalid choice: 'test'" in capsys.readouterr().err


def test_it_is_a_command_and_a_part_of_remelt() -> None:
    for command in (["-m", "workers.noise"], ["-m", "services.cli", "noise"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, check=True
        )
        assert "usage: remelt noise" in done.stdout
