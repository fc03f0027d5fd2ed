"""The registry of suites, checked when they are added, pinned by digest."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

from psycopg.types.json import Jsonb

from services.access import User, allow
from services.db import Connection, Database, Row, row, rows
from services.errors import BadInput, IntegrityError, NotFound
from services.registry import check_name
from services.suites import SPLITS, SplitBy, Suite, parse_suite

log = logging.getLogger(__name__)

MAX_SUITE_BYTES = 64 * 2**20


def add_suite(
    database: Database,
    name: str,
    path: Path,
    *,
    normalise: bool = False,
    by: User | None = None,
) -> tuple[Suite, bool]:
    """Read, check and store a suite; (suite, whether it is new). Raises SuiteRefused, BadInput,
    Forbidden for a viewer."""
    allow(by, "register a suite")
    check_name(name, "suite")
    by_before = dealt_before(database, name)
    suite = parse_suite(
        name, read_items(path), where=str(path), normalise=normalise, split_by=by_before
    )
    return suite, store_suite(database, suite, by=by)


def read_items(path: Path) -> str:
    """The text of a file of items; BadInput when it is too large, or no UTF-8."""
    try:
        if path.stat().st_size > MAX_SUITE_BYTES:
            raise BadInput(
                f"is larger than {MAX_SUITE_BYTES >> 20} MiB",
                where=str(path),
                mend="Cut it into several suites",
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("cannot be read as UTF-8 text", where=str(path), mend=str(error)) from error


def add_suite_bytes(
    database: Database, name: str, data: bytes, *, normalise: bool = False, by: User
) -> tuple[Suite, bool]:
    """The same for a file's content that somebody sends."""
    allow(by, "register a suite")
    check_name(name, "suite")
    where = f"suite {name}"
    if len(data) > MAX_SUITE_BYTES:
        raise BadInput(f"is larger than {MAX_SUITE_BYTES >> 20} MiB", where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", where=where, mend=str(error)) from error
    suite = parse_suite(
        name, text, where=where, normalise=normalise, split_by=dealt_before(database, name)
    )
    return suite, store_suite(database, suite, by=by)


def dealt_before(database: Database, name: str) -> SplitBy | None:
    """How the newest suite of that name is dealt to splits, None where there is none: a new version
    must not move an item from one split to another."""
    found = database.row("registry.suite", name=name)
    return None if found is None else found["settings"].get("split_by", "item")


def store_suite(database: Database, suite: Suite, *, by: User | None = None) -> bool:
    """Store a suite; whether it is new. Raises BadInput when it is too large, Forbidden for a
    viewer."""
    user = allow(by, "register a suite")
    text = suite.to_jsonl().encode()
    if len(text) > MAX_SUITE_BYTES:
        raise BadInput(
            f"its items take more than {MAX_SUITE_BYTES >> 20} MiB",
            where=f"suite {suite.name}",
            mend="Take fewer of them",
        )
    made = database.row(
        "registry.add_suite",
        name=suite.name,
        digest=suite.digest,
        form=suite.form,
        items=len(suite.items),
        settings=Jsonb(suite.settings),
        content=zlib.compress(text),
        **{f"{split}_items": len(suite.split(split)) for split in SPLITS},
    )
    log.info("suite %s registered by %s", suite.name, user.name)
    return made is not None


def suite_row(connection: Connection, name: str) -> Row:
    """The newest row of a suite's name; raises NotFound."""
    found = row(connection, "registry.suite", name=name)
    if found is None:
        known = [r["name"] for r in rows(connection, "registry.suites")]
        raise NotFound(
            f"no suite is called {name!r}",
            mend=f"Known: {', '.join(known) or 'none'}. Add one with `remelt suite add`",
        )
    return found


def suite_from_row(found: Row) -> Suite:
    """A stored suite with its items; raises IntegrityError when its content is not its digest's."""
    text = zlib.decompress(found["content"]).decode()
    suite = parse_suite(found["name"], text, where=f"suite {found['name']}", **found["settings"])
    if suite.digest != found["digest"]:
        raise IntegrityError(
            "its stored items do not match its digest",
            where=f"suite {found['name']}",
            mend="Register the suite again and submit a new study",
        )
    return suite
