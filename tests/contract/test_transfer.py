"""Publishing and pulling: the same promises on a directory and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.checkpoints import files_digest, hash_file, manifest_text, read_checkpoint
from services.errors import BadInput, IntegrityError, NotFound, Unavailable
from services.settings import Settings
from services.store import DirectoryStore, Store, open_store, publish_checkpoint, pull_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture(params=["directory", "s3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose own store is the one under test."""
    if request.param == "directory":
        return Settings(store_url=(tmp_path / "store").as_uri())
    return request.getfixturevalue("s3_server").settings()


@pytest.fixture
def environment(config: Settings, request: pytest.FixtureRequest) -> dict[str, str]:
    """The same settings for another process."""
    if str(config.store_url).startswith("file:"):
        return os.environ | {"REMELT_STORE_URL": str(config.store_url)}
    return os.environ | request.getfixturevalue("s3_server").environment


@pytest.fixture
def store(config: Settings) -> Iterator[Store]:
    with open_store(None, config) as one:
        yield one


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that is a checkpoint as far as files go."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    return folder


def _flip(store: Store, key: str, config: Settings) -> None:
    """Change one bit of an object behind the store's back."""
    if isinstance(store, DirectoryStore):
        path = store.root / key
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        return
    from services.store.s3_client import make_client

    bucket, _, prefix = str(config.store_url).removeprefix("s3://").partition("/")
    client, name = make_client(config), f"{prefix}/{key}"
    raw = bytearray(client.get_object(Bucket=bucket, Key=name)["Body"].read())
    raw[len(raw) // 2] ^= 1
    client.put_object(Bucket=bucket, Key=name, Body=bytes(raw))
    client.close()


def test_there_and_back(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    digest = publish_checkpoint(store, checkpoint, lambda a, b: seen.append((a, b)))
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert seen[-1] == (size, size)
    assert store.list("") == [f"checkpoints/{digest}/{name}" for name in NAMES]
    seen.clear()
    out = pull_checkpoint(store, digest, tmp_path / "out", lambda a, b: seen.append((a, b)))
    assert seen[-1] == (size, size)
    assert sorted(os.listdir(out)) == NAMES
    for path in checkpoint.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted({"checkpoint", "out", *_store_folder(store)})


def _store_folder(store: Store) -> list[str]:
    return ["store"] if isinstance(store, DirectoryStore) else []


def test_the_manifest_of_the_folder_says_what_belongs(
    store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "README.md").write_text("card")
    names = ["README.md", *(p.name for p in checkpoint.iterdir() if p.name != "README.md")]
    files = {name: hash_file(checkpoint / name) for name in names}
    (checkpoint / "manifest.json").write_text(manifest_text(files, recipe="r"))
    digest = publish_checkpoint(store, checkpoint)
    assert digest == files_digest(files)
    out = pull_checkpoint(store, digest, tmp_path / "out")
    assert (out / "README.md").read_text() == "card"
    assert json.loads((out / "manifest.json").read_text())["recipe"] == "r"
    assert publish_checkpoint(store, out) == digest


def test_a_folder_that_is_not_what_its_manifest_says(store: Store, checkpoint: Path) -> None:
    files = {name: hash_file(checkpoint / name) for name in ("config.json", "model.safetensors")}
    (checkpoint / "manifest.json").write_text(manifest_text(files))
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.write(b"!")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes have"):
        publish_checkpoint(store, checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model\.safetensors: is missing"):
        publish_checkpoint(store, checkpoint)
    with pytest.raises(NotFound):
        pull_checkpoint(store, files_digest(files), checkpoint / "out")


def test_publishing_again_is_fine(store: Store, checkpoint: Path) -> None:
    first = publish_checkpoint(store, checkpoint)
    entries = store.entries("")
    assert publish_checkpoint(store, checkpoint) == first
    assert [e.version for e in store.entries("")] == [e.version for e in entries]


def test_several_publish_the_same_digest_at_once(config: Settings, checkpoint: Path) -> None:
    barrier, digests = threading.Barrier(4), []
    for number in range(30):  # more files, more chances to meet
        (checkpoint / f"extra{number}.txt").write_text("x")
    files = {path.name: hash_file(path) for path in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(manifest_text(files))

    def publish() -> None:
        with open_store(None, config) as mine:
            barrier.wait()
            digests.append(publish_checkpoint(mine, checkpoint))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1
    with open_store(None, config) as mine:
        out = pull_checkpoint(mine, digests[0], checkpoint.parent / "out")
        assert len(mine.list("")) == 34
    assert sorted(os.listdir(out)) == sorted([*files, "manifest.json"])


def test_killed_before_the_manifest_nothing_is_published(
    store: Store, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    code = """
import os, sys
from pathlib import Path
from services.settings import settings
from services.store import open_store, publish_checkpoint
def progress(done, total):
    if done == total:
        os._exit(9)
publish_checkpoint(open_store(None, settings()), Path(sys.argv[1]), progress)
"""
    command = [sys.executable, "-c", code, str(checkpoint)]
    assert subprocess.run(command, env=environment, cwd=ROOT).returncode == 9
    digest = files_digest({p.name: hash_file(p) for p in checkpoint.iterdir()})
    assert f"checkpoints/{digest}/model.safetensors" in store.list("")
    assert f"checkpoints/{digest}/manifest.json" not in store.list("")
    with pytest.raises(NotFound, match="an interrupted upload has no manifest"):
        pull_checkpoint(store, digest, tmp_path / "out")
    assert publish_checkpoint(store, checkpoint) == digest
    pull_checkpoint(store, digest, tmp_path / "out")


def test_an_interrupted_pull_goes_on(
    store: Store, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    code = """
import os, sys
from pathlib import Path
from services.settings import settings
from services.store import open_store, pull_checkpoint
def progress(done, total):
    if done > 100_000:
        os._exit(9)
pull_checkpoint(open_store(None, settings()), sys.argv[1], Path(sys.argv[2]), progress)
"""
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, digest, str(out)]
    assert subprocess.run(command, env=environment, cwd=ROOT).returncode == 9
    assert not out.exists()
    (staging,) = tmp_path.glob(".out.*.pulling")
    assert (staging / "config.json").exists()
    pull_checkpoint(store, digest, out)
    assert sorted(os.listdir(out)) == NAMES
    assert not staging.exists()


def test_what_an_interrupted_pull_left_is_hashed_before_it_is_kept(
    store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    staging = tmp_path / f".out.{digest[:16]}.pulling"
    staging.mkdir()
    (staging / "config.json").write_text("x" * (checkpoint / "config.json").stat().st_size)
    (staging / ".model.safetensors.0.part").write_text("half")
    out = pull_checkpoint(store, digest, tmp_path / "out")
    assert (out / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    assert sorted(os.listdir(out)) == NAMES


def test_an_object_flipped_in_the_store(
    store: Store, config: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    _flip(store, f"checkpoints/{digest}/model.safetensors", config)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes have SHA-256"):
        pull_checkpoint(store, digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_flipped_in_the_store(
    store: Store, config: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    _flip(store, f"checkpoints/{digest}/manifest.json", config)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        pull_checkpoint(store, digest, tmp_path / "out")
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        publish_checkpoint(store, checkpoint)


def test_the_manifest_of_another_artefact(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    digest = publish_checkpoint(store, checkpoint)
    text = store.get_bytes(f"checkpoints/{digest}/manifest.json")
    store.put_if_absent(f"checkpoints/{'0' * 64}/manifest.json", text)
    with pytest.raises(IntegrityError, match="of another artefact"):
        pull_checkpoint(store, "0" * 64, tmp_path / "out")


@pytest.mark.parametrize("digest", ["", "../x", "0" * 63, "Z" * 64])
def test_digests_that_are_none(store: Store, tmp_path: Path, digest: str) -> None:
    with pytest.raises((NotFound, BadInput)):
        pull_checkpoint(store, digest, tmp_path / "out")


def test_no_space_is_noticed_before_anything_is_fetched(
    store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    with pytest.raises(Unavailable, match=r"GB are free\. Free disk space"):
        pull_checkpoint(store, digest, tmp_path / "out", free_bytes=lambda path: 10**6)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_while_pulling(
    store: Store, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    digest = publish_checkpoint(store, checkpoint)
    code = """
import resource, signal, sys
from pathlib import Path
from services.errors import Unavailable
from services.settings import settings
from services.store import open_store, pull_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    pull_checkpoint(open_store(None, settings()), sys.argv[1], Path(sys.argv[2]))
except Unavailable as error:
    print(error)
"""
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, digest, str(out)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "the disk is full. Free disk space" in done.stdout, done.stderr
    assert not out.exists()
    assert not list(tmp_path.glob(".out.*.pulling/.*.part"))
    pull_checkpoint(store, digest, out)


def test_a_folder_in_use_is_left_alone(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    digest = publish_checkpoint(store, checkpoint)
    out = tmp_path / "out"
    out.mkdir()
    pull_checkpoint(store, digest, out)
    assert pull_checkpoint(store, digest, out) == out
    (out / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"config\.json: its bytes changed"):
        pull_checkpoint(store, digest, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="not empty and holds something else"):
        pull_checkpoint(store, digest, other)
    assert os.listdir(other) == ["thesis.tex"]
    with pytest.raises(BadInput, match="is no folder"):
        pull_checkpoint(store, digest, other / "thesis.tex")


def test_several_pull_into_one_folder(config: Settings, checkpoint: Path, tmp_path: Path) -> None:
    with open_store(None, config) as mine:
        digest = publish_checkpoint(mine, checkpoint)
    barrier, done = threading.Barrier(4), []

    def pull() -> None:
        with open_store(None, config) as mine:
            barrier.wait()
            done.append(pull_checkpoint(mine, digest, tmp_path / "out"))

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert sorted(os.listdir(tmp_path / "out")) == NAMES
    assert not list(tmp_path.glob(".out.*"))


def test_a_real_checkpoint_there_and_back(store: Store, shared: Path, tmp_path: Path) -> None:
    source = read_checkpoint(shared / "pools" / "stories" / "deployed")
    digest = publish_checkpoint(store, source.path)
    assert digest == source.digest
    assert read_checkpoint(pull_checkpoint(store, digest, tmp_path / "out")).digest == digest
