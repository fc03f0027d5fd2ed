"""Migrations: numbered SQL files, applied in order under an advisory lock, each with its hash kept.

Two processes that migrate at once wait for each other; a file changed after it was applied is
refused rather than guessed at.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import psycopg

from services.errors import IntegrityError, Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
#: advisory lock key of "somebody is migrating"
LOCK_KEY = 0x52656D65

CREATE_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version int PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


def available() -> list[tuple[int, str, str]]:
    """(version, file name, SQL text) of every migration, in order."""
    files = sorted(MIGRATIONS.glob("[0-9]*.sql"))
    return [(int(file.name.split("_")[0]), file.name, file.read_text()) for file in files]


def migrate(url: str) -> list[str]:
    """Bring the database up to this release; returns the names of the migrations applied now.

    Raises IntegrityError when an applied migration's file was changed since.
    """
    done: list[str] = []
    with psycopg.connect(url, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
        connection.execute(CREATE_LEDGER)
        ledger = connection.execute("SELECT version, sha256 FROM schema_migration").fetchall()
        applied: dict[int, str] = dict(ledger)
        for version, name, sql in available():
            sha256 = hashlib.sha256(sql.encode()).hexdigest()
            if version in applied:
                if applied[version] != sha256:
                    raise IntegrityError(
                        "was changed after it had been applied",
                        where=f"migration {name}",
                        mend="Restore the file and add a new migration instead",
                    )
                continue
            connection.execute(sql.encode())
            connection.execute(
                "INSERT INTO schema_migration (version, name, sha256) VALUES (%s, %s, %s)",
                (version, name, sha256),
            )
            done.append(name)
    return done


def current_version(url: str) -> int:
    """The newest applied version, 0 for an empty database."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        found = connection.execute("SELECT to_regclass('schema_migration')").fetchone()
        if found is None or found[0] is None:
            return 0
        newest = connection.execute("SELECT max(version) FROM schema_migration").fetchone()
        return int(newest[0] or 0) if newest else 0


def wait_for_schema(url: str, *, seconds: float = 60.0) -> None:
    """Return once the database has the schema this release needs; raise Unavailable otherwise."""
    needed = max(version for version, _, _ in available())
    deadline = time.monotonic() + seconds
    while True:
        try:
            if current_version(url) >= needed:
                return
            problem = f"the schema is older than version {needed}"
        except psycopg.OperationalError:
            problem = "Postgres does not answer"
        if time.monotonic() > deadline:
            raise Unavailable(problem, where="database", mend="Run `remelt migrate`")
        time.sleep(0.5)
