"""One recipe, four doors: resident pool, cast, `remelt merge`, and mergekit's own YAML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from optim.merge import weights_digest
from optim.recipe import Group, Recipe
from services.cast import cast
from services.checkpoints import Checkpoint, read_checkpoint
from services.cli import cli
from services.mergekit import to_mergekit
from services.settings import settings
from workers.engine.loading import load_pool

NAMES = ("now", "left", "right")
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def parents(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three checkpoints in bfloat16 that share layer 0."""
    root = tmp_path_factory.mktemp("doors")
    frozen = load_file(tiny_pool / "pool/now/model.safetensors")
    made = []
    for name in NAMES:
        shutil.copytree(tiny_pool / "pool" / name, root / name)
        tensors = load_file(root / name / "model.safetensors")
        tensors |= {k: v for k, v in frozen.items() if ".layers.0." in k}
        tensors = {k: v.to(torch.bfloat16) for k, v in tensors.items()}
        save_file(tensors, root / name / "model.safetensors", metadata={"format": "pt"})
        made.append(read_checkpoint(root / name))
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMELT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return tmp_path / "home"


def recipes() -> dict[str, dict[str, object]]:
    rows = np.random.default_rng(0).normal(size=(3, 48)).tolist()
    return {
        "plain": {"weights": (0.2, 0.3, 0.5)},
        "not normalised": {"weights": (0.4, 0.4, 0.4)},
        "one left out": {"weights": (1.5, 0.0, -0.5), "dtype": "float32"},
        "groups": {
            "weights": (0.2, 0.3, 0.5),
            "groups": (
                Group(layers=(1, 1), kinds=("attention",), weights=(0, 1, 0)),
                Group(names=("embed",), weights=(2, 0, 1)),
            ),
        },
        "columns": {"weights": (0, 0, 1), "columns": {DOWN: rows}, "dtype": "float16"},
    }


def merge_file(recipe: Recipe, parents: list[Checkpoint], place: Path) -> Path:
    """The recipe in the words of a merge file, parents by folder."""
    names = [str(parent.path) for parent in parents]
    groups = [
        {**group.to_dict(), "weights": dict(zip(names, group.weights, strict=True))}
        for group in recipe.groups
    ]
    data = {
        "parents": dict(zip(names, recipe.weights, strict=True)),
        "groups": groups,
        "columns": recipe.to_dict().get("columns", {}),
        "dtype": recipe.dtype,
    }
    place.write_text(yaml.safe_dump({k: v for k, v in data.items() if v}, sort_keys=False))
    return place


def merged(file: Path, out: Path, *options: str) -> dict[str, object]:
    result = CliRunner().invoke(
        cli, ["merge", str(file), str(out), "--json", "--threads", "1", *options]
    )
    assert result.exception is None, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", recipes())
def test_every_door_gives_the_same_bytes(
    parents: list[Checkpoint], tmp_path: Path, name: str
) -> None:
    words = {"dtype": "bfloat16", **recipes()[name]}
    recipe = Recipe(parents=tuple(p.digest for p in parents), **words)  # type: ignore[arg-type]
    digests = {}
    for tier in ("host", "mapped"):
        pool = load_pool(
            [(parent.digest, parent.path) for parent in parents],
            device=torch.device("cpu"),
            buffer_bytes_per_value=4,
            tier=tier,  # type: ignore[arg-type]
            progress=lambda done, total: None,
        )
        out = torch.zeros(pool.layout.size, dtype=getattr(torch, recipe.dtype))
        pool.form_(out, Recipe.one_hot(recipe.parents, 1, recipe.dtype))
        pool.form_(out, recipe)
        digests[tier] = weights_digest(pool.layout.views(out))
    made = cast(recipe, parents, tmp_path / "cast")
    digests["cast"] = weights_digest(load_file(made.path / "model.safetensors").items())
    said = merged(merge_file(recipe, parents, tmp_path / "m.yaml"), tmp_path / "merge")
    digests["merge"] = weights_digest(load_file(tmp_path / "merge/model.safetensors").items())
    assert len(set(digests.values())) == 1, digests
    # not only the weights: the folders are one and the same artefact
    assert said["recipe"] == recipe.digest
    assert said["digest"] == made.digest == read_checkpoint(tmp_path / "merge").digest
    assert sorted(os.listdir(tmp_path / "merge")) == sorted(os.listdir(made.path))
    for file in os.listdir(made.path):
        assert (made.path / file).read_bytes() == (tmp_path / "merge" / file).read_bytes(), file


def test_several_files_and_a_recipe_that_a_cast_left(
    parents: list[Checkpoint], tmp_path: Path
) -> None:
    recipe = Recipe(
        parents=tuple(p.digest for p in parents), weights=(0.2, 0.3, 0.5), dtype="bfloat16"
    )
    one = cast(recipe, parents, tmp_path / "one")
    file = merge_file(recipe, parents, tmp_path / "m.yaml")
    said = merged(
        file, tmp_path / "many", "--shard-size", str(20_000 / 2**30), "--dtype", "float32"
    )
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    assert said["digest"] == read_checkpoint(tmp_path / "many").digest
    # the same list form that recipe.yaml has
    listed = yaml.safe_load((one.path / "recipe.yaml").read_text())
    listed["parents"] = [str(parent.path) for parent in parents]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(listed))
    assert merged(tmp_path / "again.yaml", tmp_path / "again")["digest"] == one.digest


def test_what_was_read_before_is_remembered_until_it_changes(
    parents: list[Checkpoint], tmp_path: Path, home: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parents[0].path, copy)
    os.utime(copy / "model.safetensors")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"parents": {str(copy): 1.0}}))
    first = merged(tmp_path / "m.yaml", tmp_path / "a")
    tensors = load_file(copy / "model.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, copy / "model.safetensors", {"format": "pt"})
    second = merged(tmp_path / "m.yaml", tmp_path / "b")
    assert first["parents"] != second["parents"]
    assert first["digest"] != second["digest"]


def test_mergekit_yaml_is_read_as_mergekit_means_it(
    parents: list[Checkpoint], tmp_path: Path
) -> None:
    names = [str(parent.path) for parent in parents]
    settings_of = ([0.0, 1.0], 0.5, [{"filter": "mlp", "value": 2}, {"value": 1}])
    config = {
        "merge_method": "linear",
        "models": [
            {"model": name, "parameters": {"weight": weight}}
            for name, weight in zip(names[:2], settings_of[:2], strict=True)
        ],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    (tmp_path / "mk.yaml").write_text(yaml.safe_dump(config))
    merged(tmp_path / "mk.yaml", tmp_path / "ours")
    ours = load_file(tmp_path / "ours/model.safetensors")
    files = [load_file(parent.path / "model.safetensors") for parent in parents[:2]]
    shares = {"model.embed_tokens.weight": 0.0, DOWN: 1.0, "model.norm.weight": 1.0}
    for name, share in shares.items():
        expected = (share * files[0][name].float() + 0.5 * files[1][name].float()) / (share + 0.5)
        assert torch.allclose(ours[name].float(), expected, rtol=2**-7, atol=1e-6), name
    python = os.environ.get("REMELT_PEERS_PYTHON")
    if python is None:
        return  # mergekit is not among our dependencies
    subprocess.run(
        [python, "-m", "mergekit.scripts.run_yaml", "mk.yaml", "theirs", "--no-write-model-card"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    theirs = load_file(tmp_path / "theirs/model.safetensors")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        # one rounding to bfloat16 apart, at most
        assert torch.allclose(tensor.float(), ours[name].float(), rtol=2**-7, atol=1e-30), name


def test_our_recipes_mean_the_same_to_mergekit(parents: list[Checkpoint], tmp_path: Path) -> None:
    python = os.environ.get("REMELT_PEERS_PYTHON")
    if python is None:
        pytest.skip("REMELT_PEERS_PYTHON names no environment with mergekit")
    recipe = Recipe(
        parents=tuple(p.digest for p in parents),
        weights=(0.7, -0.1, 0.4),
        groups=(Group(names=("self_attn",), weights=(0, 1, 1)),),
        dtype="bfloat16",
    )
    places = {parent.digest: str(parent.path) for parent in parents}
    (tmp_path / "mk.yaml").write_text(to_mergekit(recipe, places))
    subprocess.run(
        [python, "-m", "mergekit.scripts.run_yaml", "mk.yaml", "theirs", "--no-write-model-card"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    ours = load_file(cast(recipe, parents, tmp_path / "ours").path / "model.safetensors")
    theirs = load_file(tmp_path / "theirs/model.safetensors")
    for name, tensor in theirs.items():
        assert torch.allclose(tensor.float(), ours[name].float(), rtol=2**-7, atol=1e-6), name


def test_merge_runs_as_a_program_and_says_what_it_did(
    parents: list[Checkpoint], tmp_path: Path
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump({"parents": {str(p.path): 1 / 3 for p in parents}}))
    command = [sys.executable, "-m", "services.cli", "merge", str(file), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"merged 3 checkpoints into {tmp_path / 'out'}\ndigest ")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert not list(tmp_path.glob(".*casting"))
