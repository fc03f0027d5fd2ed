"""From a URL to a store: which kinds there are, and which buckets may be named.

The S3 server itself is never part of a URL; it comes from the settings.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from services.errors import BadInput
from services.settings import Settings
from services.store.base import Store
from services.store.directory import DirectoryStore

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def allowed_buckets(settings: Settings) -> frozenset[str]:
    """The buckets that a user may name: those of the settings, and the store's own."""
    names = {name.strip() for name in settings.s3_buckets.split(",") if name.strip()}
    if settings.store_url and settings.store_url.startswith("s3://"):
        names.add(parse_s3(settings.store_url)[0])
    return frozenset(names)


def parse_s3(url: str) -> tuple[str, str]:
    """(bucket, prefix) of s3://bucket/prefix; BadInput for anything that is not plainly that."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if not _BUCKET.fullmatch(bucket) or any(
        part in {"", ".", ".."} or not part.isprintable() for part in parts
    ):
        raise BadInput(
            f"{url[:200]!r} is not s3://bucket/prefix", mend="For example s3://models/team/run-7"
        )
    return bucket, prefix


def check_bucket(url: str, settings: Settings) -> tuple[str, str]:
    """(bucket, prefix) of an S3 URL whose bucket is in the allow-list; else BadInput."""
    bucket, prefix = parse_s3(url)
    allowed = allowed_buckets(settings)
    if bucket not in allowed:
        raise BadInput(
            f"bucket {bucket!r} is not in the allow-list ({', '.join(sorted(allowed)) or 'empty'})",
            where=url[:200],
            mend="The operator adds it to REMELT_S3_BUCKETS",
        )
    return bucket, prefix


def local_path(url: str) -> Path | None:
    """The path of a file:// URL or a plain path; None for other schemes."""
    if url.startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in {"", "localhost"} or not parts.path:
            raise BadInput(f"{url[:200]!r} names no local folder", mend="Use file:///folder")
        return Path(unquote(parts.path))
    return None if "://" in url else Path(url)


def open_store(url: str | None, settings: Settings) -> Store:
    """The store at file:///dir or s3://bucket/prefix; None: the settings' own, or `home`/store."""
    url = url or settings.store_url
    if url is None:
        return DirectoryStore(settings.home / "store")
    if (path := local_path(url)) is not None:
        return DirectoryStore(path)
    if not url.startswith("s3://"):
        raise BadInput(
            f"{url.split('://')[0][:40]}:// is no kind of store",
            mend="Use file:///dir or s3://bucket/prefix",
        )
    bucket, prefix = check_bucket(url, settings)
    from services.store.s3 import S3Store  # boto3 takes 0.3 s to import: only where it is needed

    return S3Store(bucket, prefix, settings)
