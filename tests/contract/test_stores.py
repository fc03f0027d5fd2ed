"""What every store promises, checked on a directory and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import BadInput, IntegrityError, NotFound
from services.store import DirectoryStore, Store, open_store
from services.store.base import check_key


@pytest.fixture(params=["directory", "s3"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the store under test; each call gives another connection to the same one."""
    if request.param == "directory":
        return lambda: DirectoryStore(tmp_path / "store")
    settings = request.getfixturevalue("s3_server").settings()
    return lambda: open_store(None, settings)


@pytest.fixture
def store(open_again: Callable[[], Store]) -> Iterator[Store]:
    with open_again() as one:
        yield one


def _file(path: Path, data: bytes) -> tuple[Path, str]:
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_a_file_comes_back_as_it_was(store: Store, tmp_path: Path, size: int) -> None:
    source, sha256 = _file(tmp_path / "a", os.urandom(size))
    sent: list[int] = []
    store.put_file("models/a.bin", source, sha256, sent.append)
    store.get_file("models/a.bin", tmp_path / "b", sha256)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert sum(sent) == size


def test_a_file_of_many_parts_comes_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.store import s3

    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    source, sha256 = _file(tmp_path / "a", os.urandom(12 * 2**20 + 7))
    sent: list[int] = []
    store.put_file("a", source, sha256, sent.append)
    store.get_file("a", tmp_path / "b", sha256)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert sum(sent) == source.stat().st_size
    with pytest.raises(IntegrityError):
        store.put_file("c", source, "0" * 64)
    assert not store.exists("c")


def test_put_file_refuses_other_bytes_than_promised(store: Store, tmp_path: Path) -> None:
    source, _ = _file(tmp_path / "a", b"what is there")
    with pytest.raises(IntegrityError, match=r"a: its bytes have SHA-256"):
        store.put_file("a", source, hashlib.sha256(b"what was promised").hexdigest())
    assert not store.exists("a")
    assert store.list("") == []


def test_put_file_again_is_fine_and_new_bytes_replace_old_ones(
    store: Store, tmp_path: Path
) -> None:
    for data in (b"one", b"one", b"two!"):
        source, sha256 = _file(tmp_path / "a", data)
        store.put_file("a", source, sha256)
    assert store.get_bytes("a") == b"two!"


def test_get_file_leaves_no_trace_of_wrong_bytes(store: Store, tmp_path: Path) -> None:
    source, sha256 = _file(tmp_path / "a", b"flipped")
    store.put_file("a", source, sha256)
    (tmp_path / "target").mkdir()
    target = tmp_path / "target" / "a"
    target.write_bytes(b"old")
    with pytest.raises(IntegrityError, match="/a: its bytes have SHA-256"):
        store.get_file("a", target, hashlib.sha256(b"intact").hexdigest())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path / "target") == ["a"]


def test_unknown_hash_is_taken_as_it_comes(store: Store, tmp_path: Path) -> None:
    source, sha256 = _file(tmp_path / "a", b"x" * 1000)
    store.put_file("a", source, sha256)
    store.get_file("a", tmp_path / "b", None)
    assert (tmp_path / "b").read_bytes() == b"x" * 1000


def test_absent_keys(store: Store, tmp_path: Path) -> None:
    assert not store.exists("none/such")
    with pytest.raises(NotFound, match="none/such"):
        store.get_bytes("none/such")
    with pytest.raises(NotFound, match="none/such"):
        store.get_file("none/such", tmp_path / "b", None)
    assert not (tmp_path / "b").exists()


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("b/2", "a/1", "b/1", "bb"):
        assert store.put_if_absent(key, key.encode())
    assert store.list("") == ["a/1", "b/1", "b/2", "bb"]
    assert store.list("b") == ["b/1", "b/2", "bb"]
    assert [(e.key, e.bytes) for e in store.entries("b/")] == [("b/1", 3), ("b/2", 3)]
    assert store.list("nothing") == []


def test_a_version_changes_with_the_object(store: Store, tmp_path: Path) -> None:
    versions = set()
    for data in (b"one", b"two", b"three"):
        source, sha256 = _file(tmp_path / "a", data)
        store.put_file("a", source, sha256)
        versions |= {entry.version for entry in store.entries("a")}
    assert len(versions) == 3


def test_put_if_absent_writes_once(store: Store) -> None:
    assert store.put_if_absent("m/manifest.json", b"first")
    assert not store.put_if_absent("m/manifest.json", b"second")
    assert store.get_bytes("m/manifest.json") == b"first"


def test_of_many_writers_at_once_one_wins(open_again: Callable[[], Store]) -> None:
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        with open_again() as mine:
            barrier.wait()
            if mine.put_if_absent("m", b"%d" % number):
                won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    with open_again() as mine:
        assert mine.get_bytes("m") == b"%d" % won[0]


def test_get_bytes_has_a_limit(store: Store) -> None:
    store.put_if_absent("m", b"x" * 100)
    assert len(store.get_bytes("m", limit_bytes=100)) == 100
    with pytest.raises(IntegrityError, match="larger than 99"):
        store.get_bytes("m", limit_bytes=99)


HOSTILE = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    ".hidden",
    "a\\b",
    "a\0",
    "a\nb",
    "é",
    "a" * 999,
]


def test_hostile_keys_are_refused_before_anything_is_sent(store: Store, tmp_path: Path) -> None:
    source, sha256 = _file(tmp_path / "a", b"x")
    acts: list[Callable[[str], object]] = [
        lambda key: store.put_file(key, source, sha256),
        lambda key: store.get_file(key, tmp_path / "b", None),
        lambda key: store.put_if_absent(key, b"x"),
        lambda key: store.get_bytes(key),
        lambda key: store.exists(key),
    ]
    for key in HOSTILE:
        for act in acts:
            with pytest.raises(BadInput, match="no key of a store"):
                act(key)


@given(st.text())
def test_a_key_never_leads_out_of_the_store(key: str) -> None:
    try:
        check_key(key)
    except BadInput:
        return
    root = Path("/store")
    assert Path(os.path.normpath(root / key)).is_relative_to(root)


def test_a_writer_that_is_killed_leaves_nothing_half_written(
    open_again: Callable[[], Store], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = os.urandom(24 * 2**20)
    source, sha256 = _file(tmp_path / "a", data)
    url = tmp_path.joinpath("store").as_uri()
    environment = dict(os.environ)
    if "s3" in request.node.name:
        environment |= request.getfixturevalue("s3_server").environment
        url = ""
    code = """
import os, sys
from services.settings import settings
from services.store import open_store, s3
from pathlib import Path
s3.PART_BYTES = 8 * 2**20
store = open_store(sys.argv[1] or None, settings())
seen = []
def tick(count):
    seen.append(count)
    if len(seen) == 2:
        os._exit(9)
store.put_file("a", Path(sys.argv[2]), sys.argv[3], tick)
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, url, str(source), sha256],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert killed.returncode == 9
    with open_again() as store:
        assert not store.exists("a")
        assert store.list("") == []
        store.put_file("a", source, sha256)
        store.get_file("a", tmp_path / "b", sha256)
    assert (tmp_path / "b").read_bytes() == data


def test_what_a_dead_writer_left_in_a_directory_goes_after_a_day(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    source, sha256 = _file(tmp_path / "a", b"x")
    (tmp_path / "store").mkdir()
    young, old = (tmp_path / "store" / f".a.{name}.part" for name in ("young", "old"))
    young.write_text("")
    old.write_text("")
    os.utime(old, (0, 0))
    store.put_file("a", source, sha256)
    assert young.exists()
    assert not old.exists()
