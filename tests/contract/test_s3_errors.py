"""What an S3 server can do wrong, and what a user may name: a real server behind a bad line."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from services.errors import (
    BadInput,
    CheckpointRefused,
    IntegrityError,
    NotFound,
    RemeltError,
    Unavailable,
)
from services.store import Store, fetch_checkpoint, open_store, publish_checkpoint, s3, s3_client

SECRET = "do-not-print-me"


class BadLine(http.server.ThreadingHTTPServer):
    """Passes requests on to a server; `faults` (method, kind) are used up from the left."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = str(urlsplit(target).netloc)
        self.faults: list[tuple[str, str]] = []
        self.seen: list[str] = []

    def fault(self, method: str) -> str | None:
        """The next fault, when it is meant for this method."""
        if self.faults and self.faults[0][0] == method:
            return self.faults.pop(0)[1]
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadLine

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.command)
        self.server.seen.append(f"{self.command} {self.headers.get('Range', '')}".strip())
        if fault in {"500", "503"}:
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "hang up":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(self.server.target, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if fault == "lose the answer":
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        if fault == "short":
            data, self.close_connection = data[: len(data) // 2], True
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on


@pytest.fixture
def line(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadLine]:
    monkeypatch.setattr(s3, "PAUSE_SECONDS", 0.01)
    with BadLine(s3_server.endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(s3_server: Any, line: BadLine) -> Iterator[Store]:
    endpoint = f"http://127.0.0.1:{line.server_port}"
    with open_store(None, s3_server.settings(s3_endpoint=endpoint)) as one:
        yield one


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, str]:
    path, data = tmp_path / "a", os.urandom(3_000_000)
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["500", "503", "hang up", "lose the answer"])
def test_bursts_are_ridden_out(
    store: Store, line: BadLine, source: tuple[Path, str], tmp_path: Path, kind: str
) -> None:
    path, sha256 = source
    line.faults = [("PUT", kind), ("PUT", kind), ("GET", kind), ("GET", kind)]
    store.put_file("a", path, sha256)
    store.get_file("a", tmp_path / "b", sha256)
    assert line.faults == []
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_an_outage_is_unavailable(
    s3_server: Any, line: BadLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    endpoint = f"http://127.0.0.1:{line.server_port}"
    line.faults = [("GET", "503")] * 9
    with (
        open_store(None, s3_server.settings(s3_endpoint=endpoint)) as store,
        pytest.raises(Unavailable, match=r"fails \(503\)"),
    ):
        store.get_bytes("a")


def test_a_short_read_goes_on_where_it_broke(
    store: Store, line: BadLine, source: tuple[Path, str], tmp_path: Path
) -> None:
    path, sha256 = source
    store.put_file("a", path, sha256)
    line.seen, line.faults = [], [("GET", "short"), ("GET", "short"), ("GET", "500")]
    got: list[int] = []
    store.get_file("a", tmp_path / "b", sha256, got.append)
    assert (tmp_path / "b").read_bytes() == path.read_bytes()
    assert sum(got) == 3_000_000
    assert line.seen[0] == "GET"
    assert line.seen[1].startswith("GET bytes=")
    assert len(line.seen) == 4


def test_endless_short_reads_end(
    store: Store, line: BadLine, source: tuple[Path, str], tmp_path: Path
) -> None:
    path, sha256 = source
    store.put_file("a", path, sha256)
    line.faults = [("GET", "short")] * 99
    with pytest.raises(Unavailable, match="keeps sending less than it promised"):
        store.get_file("a", tmp_path / "b", sha256)
    assert not (tmp_path / "b").exists()


def test_bits_flipped_on_the_way(
    store: Store, line: BadLine, source: tuple[Path, str], tmp_path: Path
) -> None:
    path, sha256 = source
    store.put_file("a", path, sha256)
    line.faults = [("GET", "flip")]
    with pytest.raises(IntegrityError):
        store.get_file("a", tmp_path / "b", sha256)
    assert not (tmp_path / "b").exists()


def test_an_object_replaced_between_two_reads(
    store: Store, line: BadLine, s3_server: Any, source: tuple[Path, str], tmp_path: Path
) -> None:
    path, sha256 = source
    store.put_file("a", path, sha256)
    other = tmp_path / "other"
    other.write_bytes(os.urandom(3_000_000))
    line.faults = [("GET", "short")]

    def replace(count: int) -> None:
        if other.exists():
            with open_store(None, s3_server.settings()) as direct:
                direct.put_file("a", other, hashlib.sha256(other.read_bytes()).hexdigest())
            other.unlink()

    with pytest.raises(IntegrityError, match="changed while it was read"):
        store.get_file("a", tmp_path / "b", None, replace)


def test_a_manifest_whose_answer_was_lost_is_published_all_the_same(
    store: Store, line: BadLine, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    line.faults = [("PUT", "lose the answer")] * 3
    digest = publish_checkpoint(store, folder)
    assert line.faults == []
    assert f"checkpoints/{digest}/manifest.json" in store.list("")


def _attempt(act: Any) -> RemeltError:
    with pytest.raises(RemeltError) as caught:
        act()
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert SECRET not in text
    return caught.value


def test_refusals_by_kind_and_without_secrets(
    s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    cases: list[tuple[dict[str, Any], type[RemeltError], str]] = [
        ({"s3_secret_key": SecretStr(SECRET)}, BadInput, "refuses .* REMELT_S3_ACCESS_KEY"),
        ({"s3_access_key": SecretStr(SECRET)}, BadInput, "refuses"),
        ({"s3_access_key": None, "s3_secret_key": None}, BadInput, "no S3 keys are set"),
        ({"store_url": "s3://no-such-bucket-here/x"}, NotFound, "no such bucket"),
        (
            {"s3_endpoint": f"http://u:{SECRET}@127.0.0.1:9"},
            Unavailable,
            "127.0.0.1:9 did not answer",
        ),
        ({"s3_endpoint": "http://no-such-host.invalid"}, Unavailable, "did not answer"),
    ]
    for change, kind, what in cases:
        with open_store(None, s3_server.settings(**change)) as store:
            for act in (lambda s=store: s.get_bytes("a"), lambda s=store: s.entries("")):
                error = _attempt(act)
                assert isinstance(error, kind), (change, error)
                assert error.mend
            with pytest.raises(kind, match=what):
                store.get_bytes("a")


def test_settings_that_make_no_client(s3_server: Any) -> None:
    with pytest.raises(BadInput, match="make no client"):
        open_store(None, s3_server.settings(s3_endpoint="not a url"))


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://A/x", "s3://ok-bucket/../x", "s3://ok-bucket/a//b",
            "s3://user:pass@host/x", "s3://host:9000/x", "http://127.0.0.1/x", "ftp://x",
            "file://host/x"],
)  # fmt: skip
def test_urls_that_are_no_store(s3_server: Any, url: str) -> None:
    with pytest.raises(BadInput):
        open_store(url, s3_server.settings())


def test_only_buckets_of_the_allow_list(s3_server: Any, tmp_path: Path) -> None:
    settings = s3_server.settings(s3_buckets="models, more-models")
    open_store("s3://models/x", settings).close()
    open_store("s3://more-models", settings).close()
    open_store(f"s3://{s3_server.bucket}/elsewhere", settings).close()
    for act in (
        lambda: open_store("s3://secrets/x", settings),
        lambda: fetch_checkpoint("s3://secrets/x", tmp_path, settings),
    ):
        with pytest.raises(
            BadInput, match=r"'secrets' is not in the allow-list .*REMELT_S3_BUCKETS"
        ):
            act()


@pytest.fixture
def plain(s3_server: Any, tmp_path: Path) -> str:
    """A Hugging Face folder in the bucket that nobody published."""
    uri = f"s3://{s3_server.bucket}/team/run 7"
    with open_store(f"s3://{s3_server.bucket}", s3_server.settings()) as store:
        client: Any = store._client  # type: ignore[attr-defined]
        for name in ("config.json", "model.safetensors", "tokenizer.json", "optimizer.pt",
                     "README.md", "nested/model.safetensors"):  # fmt: skip
            client.put_object(Bucket=s3_server.bucket, Key=f"team/run 7/{name}", Body=name.encode())
        client.put_object(Bucket=s3_server.bucket, Key="team/run 70/config.json", Body=b"other")
    return uri


def test_fetching_a_plain_folder(s3_server: Any, plain: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    settings = s3_server.settings()
    folder = fetch_checkpoint(plain, tmp_path, settings, lambda a, b: seen.append((a, b)))
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(folder)) == names
    assert all((folder / name).read_text() == name for name in names)
    assert seen[-1] == (42, 42)
    assert folder.parent == tmp_path
    assert os.listdir(tmp_path) == [folder.name]
    stamp = folder.stat().st_mtime_ns
    assert fetch_checkpoint(plain, tmp_path, settings) == folder
    assert folder.stat().st_mtime_ns == stamp


def test_a_changed_folder_is_fetched_anew(s3_server: Any, plain: str, tmp_path: Path) -> None:
    settings = s3_server.settings()
    first = fetch_checkpoint(plain, tmp_path, settings)
    with open_store(f"s3://{s3_server.bucket}", settings) as store:
        client: Any = store._client  # type: ignore[attr-defined]
        client.put_object(
            Bucket=s3_server.bucket, Key="team/run 7/config.json", Body=b"CONFIG.json"
        )
    second = fetch_checkpoint(plain, tmp_path, settings)
    assert second != first
    assert (first / "config.json").read_text() == "config.json"
    assert (second / "config.json").read_text() == "CONFIG.json"


def test_fetching_what_is_not_there(s3_server: Any, plain: str, tmp_path: Path) -> None:
    settings = s3_server.settings()
    with pytest.raises(CheckpointRefused, match="holds no model"):
        fetch_checkpoint(f"s3://{s3_server.bucket}/team", tmp_path, settings)
    with pytest.raises(Unavailable, match="are free"):
        fetch_checkpoint(plain, tmp_path, settings, free_bytes=lambda path: 0)
    with pytest.raises(BadInput, match="is no place of a checkpoint"):
        fetch_checkpoint("https://hub/x", tmp_path, settings)
    with pytest.raises(NotFound, match="no such folder"):
        fetch_checkpoint("file:///no/such/folder", tmp_path, settings)
    assert fetch_checkpoint(tmp_path.as_uri(), tmp_path, settings) == tmp_path


def test_fetching_a_published_one_checks_its_manifest(s3_server: Any, tmp_path: Path) -> None:
    settings, folder = s3_server.settings(), tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    with open_store(None, settings) as store:
        digest = publish_checkpoint(store, folder)
        uri = f"{store.url}/checkpoints/{digest}"
        found = fetch_checkpoint(uri, tmp_path / "cache", settings)
        assert (found / "model.safetensors").read_bytes() == b"weights"
        client: Any = store._client  # type: ignore[attr-defined]
        key = f"store/checkpoints/{digest}/model.safetensors"
        client.put_object(Bucket=s3_server.bucket, Key=key, Body=b"weightz")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes have"):
        fetch_checkpoint(uri, tmp_path / "cache", settings)
