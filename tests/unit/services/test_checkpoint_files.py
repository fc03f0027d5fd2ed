"""Which files belong to a checkpoint, and digests that notice every changed byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.checkpoints import (
    FileInfo,
    files_digest,
    manifest_text,
    parse_manifest,
    read_checkpoint,
    verify_digest,
)
from services.errors import CheckpointRefused, IntegrityError

Make = Callable[..., Path]
INFOS = st.builds(
    FileInfo,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    bytes=st.integers(0, 2**53),
)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,40}", fullmatch=True)


def test_the_digest_is_the_hash_of_the_canonical_manifest(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in folder.iterdir()
    }
    text = json.dumps({"files": files}, sort_keys=True, separators=(",", ":"))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.digest == hashlib.sha256(text.encode()).hexdigest()
    assert checkpoint.manifest() == {"files": files}


def test_other_files_do_not_count(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    before = read_checkpoint(folder).digest
    for name in ("README.md", "provenance.json", "pytorch_model.bin", "training_args.bin", ".x"):
        (folder / name).write_text("anything")
    (folder / "runs").mkdir()
    (folder / "latest").symlink_to("/nowhere")
    assert read_checkpoint(folder).digest == before
    (folder / "generation_config.json").write_text("{}")
    assert read_checkpoint(folder).digest != before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.PKL", "model.ckpt"])
def test_pickles_are_refused_and_never_opened(make_checkpoint: Make, name: str) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / name)  # opening it would hang
    with pytest.raises(
        CheckpointRefused, match=r"a pickle: opening it could run code.*safetensors"
    ):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "what"), [("model.gguf", "not safetensors"), ("x.txt", "holds no")]
)
def test_no_weights(make_checkpoint: Make, name: str, what: str) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("")
    with pytest.raises(CheckpointRefused, match=what):
        read_checkpoint(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="no such folder"):
        read_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "model-1-of-2.safetensors", "model-00001.safetensors",
     "Model.safetensors", "delta.safetensors", ".safetensors", "model\n.safetensors"],
)  # fmt: skip
def test_shard_names(make_checkpoint: Make, name: str) -> None:
    folder = make_checkpoint()
    (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointRefused, match=r"is not named model\.safetensors"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_symlinks_and_special_files(make_checkpoint: Make, tmp_path: Path, name: str) -> None:
    folder = make_checkpoint()
    real = tmp_path / "elsewhere"
    (folder / name).rename(real)
    (folder / name).symlink_to(real)
    with pytest.raises(CheckpointRefused, match=rf"{name}: is a symlink.*cp -rL"):
        read_checkpoint(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointRefused, match="not a regular file"):
        read_checkpoint(folder)


@given(data=st.data())
def test_a_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("bits")
    content = {"config.json": b"{}", "model.safetensors": bytes(range(50))}
    files = {}
    for name, raw in content.items():
        (folder / name).write_bytes(raw)
        files[name] = FileInfo(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))
    verify_digest(folder, files)
    verify_digest(folder, {name: info.to_dict() for name, info in files.items()})
    name = data.draw(st.sampled_from(sorted(content)))
    raw = bytearray(content[name])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=f"{name}: its bytes changed"):
        verify_digest(folder, files)
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: is missing"):
        verify_digest(folder, files)


@given(files=st.dictionaries(NAMES, INFOS, min_size=1, max_size=5))
def test_manifests_round_trip(files: dict[str, FileInfo]) -> None:
    files.pop("manifest.json", None)
    text = manifest_text(files, recipe="abc")
    assert parse_manifest(text, where="x") == files
    assert json.loads(text)["digest"] == files_digest(files)
    assert files_digest(dict(reversed(files.items()))) == files_digest(files)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".hidden", "..", "manifest.json", "a\nb", "a" * 300]
)
def test_a_manifest_names_bare_files_only(name: str) -> None:
    text = manifest_text({name: FileInfo(sha256="0" * 64, bytes=1)})
    with pytest.raises(IntegrityError, match="is not a bare file name"):
        parse_manifest(text, where="x")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', "[" * 10_000, b"\xff",
     '{"files": {"a": {"sha256": "0", "bytes": 1}}, "digest": ""}',
     '{"files": {"a": {"sha256": 7, "bytes": 1}}, "digest": ""}',
     '{"files": {"a": {"sha256": "' + "0" * 64 + '", "bytes": true}}, "digest": ""}',
     '{"files": {"a": {"sha256": "' + "0" * 64 + '", "bytes": 1}}, "digest": "wrong"}'],
)  # fmt: skip
def test_manifests_that_are_none(text: str | bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^where: "):
        parse_manifest(text, where="where")
