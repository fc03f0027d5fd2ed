"""Migrations on a real Postgres: once, in order, by one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from services.db.migrate import available, current_version, migrate, wait_for_schema
from services.errors import IntegrityError, Unavailable


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """A database without any schema."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bare WITH (FORCE)")
        connection.execute("CREATE DATABASE bare")
        yield postgres_url.rsplit("/", 1)[0] + "/bare"
        connection.execute("DROP DATABASE bare WITH (FORCE)")


def test_migrates_once(empty_url: str) -> None:
    assert current_version(empty_url) == 0
    assert migrate(empty_url) == [name for _, name, _ in available()]
    assert migrate(empty_url) == []
    assert current_version(empty_url) == max(version for version, _, _ in available())


def test_many_at_once_apply_each_migration_once(empty_url: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(migrate, [empty_url] * 6))
    assert sorted(name for names in results for name in names) == [n for _, n, _ in available()]


def test_a_changed_migration_is_refused(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("UPDATE schema_migration SET sha256 = 'other' WHERE version = 1")
    with pytest.raises(IntegrityError, match=r"0001_first_schema\.sql: was changed after"):
        migrate(empty_url)


def test_workers_wait_for_the_schema(empty_url: str) -> None:
    with pytest.raises(Unavailable, match=r"older than version .*remelt migrate"):
        wait_for_schema(empty_url, seconds=0)
    migrate(empty_url)
    wait_for_schema(empty_url, seconds=0)
