"""Framing between worker and engine: what is sent arrives, whatever else arrives ends the talk."""

import json
import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from workers.engine.channel import HEADER, MAGIC, Channel, ChannelClosed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.sampled_from(["?", "u8", "i4", "f4", "f2"]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=2, min_side=0))
    ),
    max_size=3,
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    a, b = socket.socketpair()
    yield Channel(a), b
    a.close()
    b.close()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.dictionaries(st.text(), JSON, max_size=3), ARRAYS), max_size=3))
def test_messages_arrive_whole_and_in_order(messages: list) -> None:
    a, b = socket.socketpair()
    with a, b:
        sender, receiver = Channel(a), Channel(b)
        for data, arrays in messages:
            sender.send(data, arrays)
        for data, arrays in messages:
            got = receiver.receive(5)
            assert got is not None
            assert got.data == data
            assert got.arrays.keys() == arrays.keys()
            for name, array in arrays.items():
                assert got.arrays[name].dtype == array.dtype
                assert got.arrays[name].shape == array.shape
                assert got.arrays[name].tobytes() == array.tobytes()
        assert receiver.receive(0) is None


def test_a_message_may_come_in_pieces(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    text = json.dumps({"data": {"a": 1}, "arrays": [["x", "<f4", [2]]]}).encode()
    raw = HEADER.pack(MAGIC, len(text), 8) + text + np.array([1, 2], np.float32).tobytes()
    for byte in raw[:-1]:
        other.sendall(bytes([byte]))
        assert channel.receive(0) is None
    other.sendall(raw[-1:])
    message = channel.receive(5)
    assert message is not None
    assert message.arrays["x"].tolist() == [1, 2]


def test_megabytes_pass_while_the_other_end_reads(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    big = np.arange(2_000_000, dtype=np.int32)
    thread = threading.Thread(target=Channel(other).send, args=({"n": 1}, {"big": big}))
    thread.start()
    message = channel.receive(30)
    thread.join()
    assert message is not None
    assert np.array_equal(message.arrays["big"], big)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HEADER.pack(b"XXXX", 2, 0) + b"{}",
        HEADER.pack(MAGIC, 2**31, 0),
        HEADER.pack(MAGIC, 0, 2**40),
        HEADER.pack(MAGIC, 5, 0) + b"nope!",
        HEADER.pack(MAGIC, 2, 0) + b"{}",
        HEADER.pack(MAGIC, 24, 0) + b'{"data": 1,"arrays": [] }'[:24],
        HEADER.pack(MAGIC, 43, 0) + b'{"data": {}, "arrays": [["x", "<f4", [10]]]}'[:43],
        HEADER.pack(MAGIC, 42, 8) + b'{"data": {}, "arrays": [["x","|O",[1]]]}  ' + bytes(8),
    ],
)
def test_anything_else_ends_the_talk(pair: tuple[Channel, socket.socket], raw: bytes) -> None:
    channel, other = pair
    other.sendall(raw)
    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_arrays_that_do_not_add_up(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    text = json.dumps({"data": {}, "arrays": [["x", "<f4", [1]]]}).encode()
    other.sendall(HEADER.pack(MAGIC, len(text), 8) + text + bytes(8))
    with pytest.raises(ChannelClosed, match="malformed"):
        channel.receive(5)


def test_objects_are_not_sent(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(TypeError, match="dtype object"):
        pair[0].send({}, {"x": np.array([object()])})


def test_closing_is_heard_even_in_the_middle(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    other.sendall(struct.pack("<4s", MAGIC))
    other.close()
    with pytest.raises(ChannelClosed, match="closed"):
        channel.receive(5)
    with pytest.raises(ChannelClosed, match="cannot send"):
        channel.send({"a": 1})
    channel.close()
    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_sending_to_one_who_does_not_read_ends() -> None:
    a, b = socket.socketpair()
    with a, b, pytest.raises(ChannelClosed, match="cannot send"):
        Channel(a, send_timeout=0.2).send({}, {"big": np.zeros(10_000_000, np.float32)})
