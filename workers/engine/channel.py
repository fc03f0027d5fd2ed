"""Messages between the Celery worker and its engine: length-prefixed JSON plus raw array bytes.

Both ends use it, so it imports neither torch nor anything that could execute what it reads: no
pickle, no object arrays.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: magic, bytes of JSON, bytes of arrays
HEADER = struct.Struct("<4sIQ")
MAGIC = b"RMLT"
MAX_JSON_BYTES, MAX_ARRAY_BYTES = 2**30, 2**32
READ_BYTES = 2**20
ARRAY_DTYPES = frozenset({"|b1", "<u8", "<i8", "<i4", "<f4", "<f8", "<f2"})


class ChannelClosed(Exception):
    """The other end is gone, or sent something that is not a message."""


@dataclass(frozen=True)
class Message:
    """One message: JSON data and named arrays."""

    data: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Channel:
    """One end of a stream socket. One thread may send while another receives."""

    def __init__(self, sock: socket.socket, *, send_timeout: float | None = None) -> None:
        self._sock = sock
        self._received = bytearray()
        self._sending = threading.Lock()
        sock.settimeout(send_timeout)

    def send(self, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Send one message; ChannelClosed when the other end is gone or stopped reading."""
        described, chunks = [], []
        for name, array in (arrays or {}).items():
            if array.dtype.str not in ARRAY_DTYPES:
                raise TypeError(f"array {name!r}: dtype {array.dtype} cannot be sent")
            described.append([name, array.dtype.str, list(array.shape)])
            chunks.append(np.ascontiguousarray(array).tobytes())
        text = json.dumps({"data": dict(data), "arrays": described}).encode()
        body = b"".join(chunks)
        with self._sending:
            try:
                self._sock.sendall(HEADER.pack(MAGIC, len(text), len(body)) + text + body)
            except (OSError, ValueError) as error:
                raise ChannelClosed(f"cannot send: {error}") from error

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, or None when `timeout` seconds passed without a whole one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._take()
            if message is not None:
                return message
            left = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
            try:
                # not select(), which refuses descriptors beyond 1023
                poller = select.poll()
                poller.register(self._sock, select.POLLIN)
                if not poller.poll(left):
                    return None
                chunk = self._sock.recv(READ_BYTES)
            except (OSError, ValueError) as error:
                raise ChannelClosed(f"cannot receive: {error}") from error
            if not chunk:
                raise ChannelClosed("the other end closed the channel")
            self._received += chunk

    def close(self) -> None:
        """Close this end; the other end's next `receive` raises ChannelClosed."""
        self._sock.close()

    def _take(self) -> Message | None:
        """Cut one whole message off the received bytes, if there is one."""
        if len(self._received) < HEADER.size:
            return None
        magic, json_bytes, array_bytes = HEADER.unpack_from(self._received)
        if magic != MAGIC or json_bytes > MAX_JSON_BYTES or array_bytes > MAX_ARRAY_BYTES:
            raise ChannelClosed("received bytes that are not a message")
        start, end = HEADER.size + json_bytes, HEADER.size + json_bytes + array_bytes
        if len(self._received) < end:
            return None
        try:
            message = _parse(bytes(self._received[HEADER.size : start]), self._received[start:end])
        except (ValueError, KeyError, TypeError) as error:
            raise ChannelClosed(f"received a malformed message: {error}") from error
        del self._received[:end]
        return message


def _parse(text: bytes, body: bytearray) -> Message:
    parsed = json.loads(text)
    arrays, start = {}, 0
    for name, dtype, shape in parsed["arrays"]:
        if dtype not in ARRAY_DTYPES:
            raise ValueError(f"array {name!r} has dtype {dtype!r}")
        count = math.prod(shape)
        stop = start + count * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(body[start:stop], dtype=dtype, count=count).reshape(shape)
        start = stop
    if start != len(body) or not isinstance(parsed["data"], dict):
        raise ValueError("sizes do not add up")
    return Message(parsed["data"], arrays)
