"""A store in an S3 bucket: what is sent, what is checked, and when it counts as there.

Every byte that is sent or received is hashed here as well: some servers store no checksum.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from services.errors import IntegrityError, Unavailable
from services.settings import Settings
from services.store.base import (
    SMALL_OBJECT_MAX_BYTES,
    Entry,
    Store,
    check_key,
    check_sha256,
    disk_errors,
)
from services.store.directory import replacing
from services.store.s3_client import (
    ATTEMPTS,
    CONFLICT,
    EXISTS,
    GONE,
    PAUSE_SECONDS,
    error_code,
    make_client,
    server_errors,
    server_name,
)

PART_BYTES = 64 * 2**20
#: S3 allows 10,000
MAX_PARTS = 9_000
CHUNK_BYTES = 2**20


class S3Store(Store):
    """Objects of one bucket below a prefix."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._server = server_name(settings.s3_endpoint)
        self._client = make_client(settings)

    def put_file(
        self, key: str, path: Path, sha256: str, progress: Callable[[int], None] | None = None
    ) -> None:
        name, where = self._name(key), self._where(key)
        with disk_errors(str(path)), path.open("rb") as file, server_errors(self._server, where):
            size = file.seek(0, 2)
            file.seek(0)
            if self._holds(name, size, sha256):
                if progress:
                    progress(size)
                return
            if size <= PART_BYTES:
                checksum = self._put_whole(name, file, sha256, path)
            else:
                checksum = self._put_parts(name, file, size, sha256, path, progress)
            head = self._client.head_object(Bucket=self.bucket, Key=name, ChecksumMode="ENABLED")
            stored = head.get("ChecksumSHA256", checksum)
            if head["ContentLength"] != size or stored != checksum:
                raise IntegrityError(
                    "the server does not hold what was sent", where=where, mend="Publish it again"
                )
            if progress and size <= PART_BYTES:
                progress(size)

    def _holds(self, name: str, size: int, sha256: str) -> bool:
        head = self._head(name)
        return (
            head is not None
            and head["ContentLength"] == size
            and head.get("Metadata", {}).get("sha256") == sha256
        )

    def _put_whole(self, name: str, file: IO[bytes], sha256: str, path: Path) -> str:
        data = file.read()
        digest = hashlib.sha256(data)
        check_sha256(digest.hexdigest(), sha256, str(path))
        checksum = base64.b64encode(digest.digest()).decode()
        self._client.put_object(
            Bucket=self.bucket,
            Key=name,
            Body=data,
            ChecksumSHA256=checksum,
            Metadata={"sha256": sha256},
        )
        return checksum

    def _put_parts(
        self,
        name: str,
        file: IO[bytes],
        size: int,
        sha256: str,
        path: Path,
        progress: Callable[[int], None] | None,
    ) -> str:
        part_bytes = max(PART_BYTES, math.ceil(size / MAX_PARTS))
        upload = self._client.create_multipart_upload(
            Bucket=self.bucket,
            Key=name,
            ChecksumAlgorithm="SHA256",
            Metadata={"sha256": sha256},
        )
        target: Any = {"Bucket": self.bucket, "Key": name, "UploadId": upload["UploadId"]}
        parts: list[dict[str, Any]] = []
        whole, of_parts = hashlib.sha256(), hashlib.sha256()
        try:
            while data := file.read(part_bytes):
                whole.update(data)
                part = hashlib.sha256(data).digest()
                of_parts.update(part)
                checksum = base64.b64encode(part).decode()
                number = len(parts) + 1
                answer = self._client.upload_part(
                    **target, PartNumber=number, Body=data, ChecksumSHA256=checksum
                )
                parts.append(
                    {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
                )
                if progress:
                    progress(len(data))
            check_sha256(whole.hexdigest(), sha256, str(path))
            self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**target)
            raise
        return f"{base64.b64encode(of_parts.digest()).decode()}-{len(parts)}"

    def get_file(
        self,
        key: str,
        path: Path,
        sha256: str | None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        where = self._where(key)
        with disk_errors(str(path)), replacing(path) as temporary, temporary.open("xb") as file:
            digest = hashlib.sha256()
            with server_errors(self._server, where):
                for chunk in self._stream(self._name(key), where):
                    file.write(chunk)
                    digest.update(chunk)
                    if progress:
                        progress(len(chunk))
            if sha256 is not None:
                check_sha256(digest.hexdigest(), sha256, where)

    def _stream(self, name: str, where: str) -> Iterator[bytes]:
        """An object's bytes; a stream that breaks goes on where it broke, in the same version."""
        received, request = 0, {"Bucket": self.bucket, "Key": name}
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                response = self._client.get_object(**request)
            except ClientError as error:
                if error_code(error) in EXISTS:
                    raise IntegrityError(
                        "changed while it was read", where=where, mend="Try again"
                    ) from None
                raise
            size = received + response["ContentLength"]
            with closing(response["Body"]) as body, suppress(HTTPClientError, IncompleteReadError):
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    received += len(chunk)
                    yield chunk
            if received == size:
                return
            if received:
                request |= {"Range": f"bytes={received}-", "IfMatch": response["ETag"]}
        raise Unavailable(
            f"the server {self._server} keeps sending less than it promised",
            where=where,
            mend="Try again later",
        )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        name, where = self._name(key), self._where(key)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with server_errors(self._server, where):
            for attempt in range(ATTEMPTS):
                try:
                    self._client.put_object(
                        Bucket=self.bucket,
                        Key=name,
                        Body=data,
                        ChecksumSHA256=checksum,
                        IfNoneMatch="*",
                    )
                except ClientError as error:
                    if error_code(error) in EXISTS:
                        return False
                    if error_code(error) not in CONFLICT:
                        raise
                    # somebody writes the same key now: wait until it is there or gave up
                    if self._head(name) is not None:
                        return False
                    time.sleep(PAUSE_SECONDS * 2**attempt)
                else:
                    return True
        raise Unavailable("others keep writing this key", where=where, mend="Try again")

    def get_bytes(self, key: str, limit_bytes: int = SMALL_OBJECT_MAX_BYTES) -> bytes:
        where, data = self._where(key), bytearray()
        with server_errors(self._server, where):
            for chunk in self._stream(self._name(key), where):
                data += chunk
                if len(data) > limit_bytes:
                    raise IntegrityError(f"is larger than {limit_bytes} bytes", where=where)
        return bytes(data)

    def exists(self, key: str) -> bool:
        with server_errors(self._server, self._where(key)):
            return self._head(self._name(key)) is not None

    def entries(self, prefix: str) -> list[Entry]:
        found = []
        pages = self._client.get_paginator("list_objects_v2")
        with server_errors(self._server, f"{self.url}/{prefix}"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.prefix)
                    found.append(Entry(key=key, bytes=item["Size"], version=item["ETag"]))
        return sorted(found, key=lambda entry: entry.key)

    def close(self) -> None:
        self._client.close()

    def _head(self, name: str) -> Any:
        try:
            return self._client.head_object(Bucket=self.bucket, Key=name)
        except ClientError as error:
            if error_code(error) in GONE:
                return None
            raise

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"
