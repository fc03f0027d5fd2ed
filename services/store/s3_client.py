"""The one place where S3 retries, timeouts and the meaning of S3's errors are decided.

The server and the keys come from the settings. Messages never repeat what a server answered, nor
anything of a URL but its host, so no secret can get into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from services.errors import BadInput, IntegrityError, NotFound, RemeltError, Unavailable
from services.settings import Settings

#: tries of one request, and of one download's stream
ATTEMPTS = 5
CONNECT_SECONDS = 5
READ_SECONDS = 60
#: first pause before a broken download goes on; doubles
PAUSE_SECONDS = 0.5

#: codes by meaning; HEAD answers have no body, hence the bare numbers
GONE = {"404", "NoSuchKey", "NotFound"}
CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}
EXISTS = {"412", "PreconditionFailed"}
_DAMAGED = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_BUSY = {"429", "RequestTimeout", "SlowDown"}


def make_client(settings: Settings) -> Any:
    """A boto3 client for the server of the settings; opens no connection yet."""
    access, secret = settings.s3_access_key, settings.s3_secret_key
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # boto3 >= 1.36 adds CRC32 trailers that other servers refuse
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=access.get_secret_value() if access else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=config,
        )
    except (ValueError, BotoCoreError) as error:
        raise BadInput(
            "the S3 settings make no client",
            where="REMELT_S3_ENDPOINT",
            mend="Give a URL such as http://s3.example:8333, and both keys or none",
        ) from error


@contextmanager
def server_errors(server: str, where: str) -> Iterator[None]:
    """Turn botocore's errors into ours; `server` is a `server_name`, `where` the object's URL."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error, server, where) from None
    except (NoCredentialsError, PartialCredentialsError):
        raise BadInput(
            "no S3 keys are set",
            where=where,
            mend="Set REMELT_S3_ACCESS_KEY and REMELT_S3_SECRET_KEY, or files of these names",
        ) from None
    except BotoCoreError as error:
        raise Unavailable(
            f"the server {server} did not answer ({type(error).__name__})",
            where=where,
            mend="Check that it runs and that REMELT_S3_ENDPOINT is its URL",
        ) from None


def error_code(error: ClientError) -> str:
    """The server's own name of an error, or its HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))[:60]


def server_name(endpoint: str | None) -> str:
    """Host and port of an endpoint: the URL itself may carry a user and a password."""
    if endpoint is None:
        return "AWS"
    parts = urlsplit(endpoint)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _meaning(error: ClientError, server: str, where: str) -> RemeltError:
    code = error_code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return NotFound(
            f"the server {server} has no such bucket",
            where=where,
            mend="Create it, or correct the URL",
        )
    if code in GONE:
        return NotFound("no such object", where=where, mend="Check the digest and the store")
    if code in _DAMAGED:
        return IntegrityError("was damaged on its way", where=where, mend="Publish it again")
    if status >= 500 or status == 429 or code in _BUSY:
        return Unavailable(
            f"the server {server} fails ({code})", where=where, mend="Try again later"
        )
    return BadInput(
        f"the server {server} refuses ({code})",
        where=where,
        mend="Check REMELT_S3_ACCESS_KEY, REMELT_S3_SECRET_KEY and the rights on the bucket",
    )
