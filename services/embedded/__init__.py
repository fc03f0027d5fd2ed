"""Embedded servers: Postgres and Valkey from wheels, for a machine without Docker and without root.

They only stand in for servers that settings leave out; the code that uses them is the same. They
listen on 127.0.0.1 or on a socket in a private folder, and outlive the process that started them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.embedded.broker import broker_status, ensure_broker, stop_broker
from services.embedded.postgres import ensure_postgres, postgres_status, stop_postgres
from services.settings import Settings

__all__ = ["broker_url", "database_url", "ensure_broker", "ensure_postgres", "status", "stop"]


def database_url(config: Settings) -> str:
    """The configured Postgres, or the embedded one, started when it does not run."""
    if config.database_url is not None:
        return config.database_url.get_secret_value()
    return ensure_postgres(config.home)


def broker_url(config: Settings) -> str:
    """The configured broker, or the embedded one, started when it does not run."""
    if config.broker_url is not None:
        return config.broker_url.get_secret_value()
    return ensure_broker(config.home)


def stop(home: Path) -> None:
    """Stop what runs under `home`; the data stay."""
    stop_broker(home)
    stop_postgres(home)


def status(home: Path) -> dict[str, Any]:
    """Whether each server runs, without starting it."""
    return {"postgres": postgres_status(home), "broker": broker_status(home)}
