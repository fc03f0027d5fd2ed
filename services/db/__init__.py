"""Postgres: the connection pool, transactions, and the named queries of `queries/*.sql`.

Nothing here knows what the rows mean. Values always travel as bound parameters; time is the
database's clock, in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from services.errors import Unavailable

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
QUERIES = Path(__file__).parent / "queries"


@cache
def query(name: str) -> bytes:
    """The SQL named `file.query`: the block under `-- name: query` in `queries/file.sql`."""
    file, _, wanted = name.partition(".")
    blocks = (QUERIES / f"{file}.sql").read_text().split("-- name: ")[1:]
    for block in blocks:
        title, _, sql = block.partition("\n")
        if title.strip() == wanted:
            return sql.strip().encode()
    raise KeyError(f"no query {name}")


class Database:
    """A pool of connections to one Postgres database; opened at first use, safe across threads."""

    def __init__(self, url: str, *, max_size: int = 8, timeout: float = 10.0) -> None:
        self._pool = ConnectionPool(
            url,
            min_size=0,
            max_size=max_size,
            timeout=timeout,
            check=ConnectionPool.check_connection,
            kwargs={
                "row_factory": dict_row,
                "options": "-c timezone=UTC",
                "application_name": "remelt",
                "connect_timeout": 10,
            },
            open=False,
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection inside one transaction: committed at the end, rolled back on an error."""
        self._pool.open()
        try:
            with self._pool.connection() as connection:
                yield cast(Connection, connection)
        except PoolTimeout as error:
            raise Unavailable(
                "Postgres did not answer in time",
                where="database",
                mend="Check that the server runs and that REMELT_DATABASE_URL is right "
                "(remelt doctor)",
            ) from error

    def rows(self, name: str, /, **values: Any) -> list[Row]:
        """All rows of one named query, in a transaction of its own."""
        with self.transaction() as connection:
            return rows(connection, name, **values)

    def row(self, name: str, /, **values: Any) -> Row | None:
        """The first row of one named query, or None."""
        with self.transaction() as connection:
            return row(connection, name, **values)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def rows(connection: Connection, name: str, /, **values: Any) -> list[Row]:
    """All rows of a named query inside the caller's transaction ([] for a plain UPDATE)."""
    cursor = connection.execute(query(name), values)
    return cursor.fetchall() if cursor.description else []


def row(connection: Connection, name: str, /, **values: Any) -> Row | None:
    """The first row of a named query inside the caller's transaction, or None."""
    found = rows(connection, name, **values)
    return found[0] if found else None
