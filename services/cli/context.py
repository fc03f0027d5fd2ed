"""What commands share: the database, ready for use."""

from __future__ import annotations

from services.db import Database
from services.db.migrate import migrate, wait_for_schema
from services.embedded import database_url
from services.settings import settings


def open_database() -> Database:
    """The database of this process's settings. The embedded one is started and migrated; a
    configured one must have been migrated (`remelt migrate`)."""
    config = settings()
    url = database_url(config)
    if config.database_url is None:
        migrate(url)
    else:
        wait_for_schema(url, seconds=5)
    return Database(url)
