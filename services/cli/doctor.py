"""`remelt doctor`: what is there, what is not, and what to do about it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from services.artefacts import store_url
from services.db import Database
from services.db.migrate import available, current_version
from services.embedded import database_url
from services.errors import RemeltError
from services.queue import make_app
from services.settings import Settings
from services.store import open_store

PACKAGES = ("torch", "transformers", "deepspeed", "celery", "optuna", "psycopg", "streamlit")
#: free space under which casts and caches are likely to fail
MIN_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and the mend when it is not well."""

    check: str
    ok: bool
    found: str
    mend: str = ""


def findings(config: Settings) -> list[Finding]:
    """Every check, in an order in which an early failure explains the later ones."""
    checks: list[tuple[str, Callable[[Settings], str], str]] = [
        ("python", _python, "Use Python 3.11, 3.12 or 3.13"),
        ("packages", _packages, "Install Remelt again: pip install -e . -c constraints.txt"),
        ("disk", _disk, f"Free space, or set REMELT_HOME (now {config.home})"),
        ("database", _database, "Check REMELT_DATABASE_URL, or unset it for the embedded server"),
        ("schema", _schema, "Run `remelt migrate`"),
        ("broker", _broker, "Check REMELT_BROKER_URL, or unset it for the embedded server"),
        ("store", _store, "Check REMELT_STORE_URL and the REMELT_S3_* settings"),
        ("workers", _workers, "Start them: `remelt up` or `remelt worker`"),
        ("device", _device, "Install a torch build for your GPU, or set REMELT_ENGINE_DEVICE=cpu"),
    ]
    return [_run(config, *check) for check in checks]


def _run(config: Settings, name: str, check: Callable[[Settings], str], mend: str) -> Finding:
    try:
        return Finding(name, True, check(config))
    except RemeltError as error:
        return Finding(name, False, error.what, error.mend or mend)
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {error}", mend)


def _python(_: Settings) -> str:
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        raise RemeltError(platform.python_version())
    return platform.python_version()


def _packages(_: Settings) -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError as error:
            raise RemeltError(f"{name} is not installed") from error
    return ", ".join(found)


def _disk(config: Settings) -> str:
    config.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.home).free
    text = f"{free / 2**30:.1f} GiB free under {config.home}"
    if free < MIN_FREE_BYTES:
        raise RemeltError(text)
    return text


def _database(config: Settings) -> str:
    database = Database(database_url(config), timeout=5)
    try:
        with database.transaction() as connection:
            found = connection.execute("SHOW server_version").fetchone()
    finally:
        database.close()
    kind = "embedded" if config.database_url is None else "configured"
    return f"Postgres {found['server_version'] if found else '?'} ({kind})"


def _schema(config: Settings) -> str:
    newest, have = max(v for v, _, _ in available()), current_version(database_url(config))
    if have < newest:
        raise RemeltError(f"version {have}, this release needs {newest}")
    return f"version {have}"


def _broker(config: Settings) -> str:
    with make_app(config).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        kind = "embedded" if config.broker_url is None else "configured"
        return f"{connection.transport.driver_type} ({kind})"


def _store(config: Settings) -> str:
    url = store_url(config)
    with open_store(url, config) as store:
        store.exists("doctor")
    return url


def _workers(config: Settings) -> str:
    answers = make_app(config).control.ping(timeout=2.0) or []
    names = sorted(name for answer in answers for name in answer)
    for kind in ("control", "evaluate"):
        if not any(name.startswith(f"{kind}-") for name in names):
            raise RemeltError(f"no {kind} worker answers")
    return f"{len(names)} answer"


def _device(config: Settings) -> str:
    if config.engine_device == "cpu":
        return "cpu (as set)"
    # asked in a process of its own: importing torch takes seconds and must not stay
    code = (
        "import torch; n = torch.cuda.device_count(); "
        "print(torch.cuda.get_device_name(0) if n else 'cpu', '' if n < 2 else f'x {n}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RemeltError(f"torch does not start: {done.stderr.strip().splitlines()[-1]}")
    if config.engine_device == "cuda" and done.stdout.startswith("cpu"):
        raise RemeltError("no GPU is visible, but REMELT_ENGINE_DEVICE=cuda")
    return done.stdout.strip()
