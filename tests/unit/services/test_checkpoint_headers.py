"""Safetensors files: what is refused, compared with the format's own library."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from services.checkpoints import read_tensors
from services.checkpoints.headers import HEADER_MAX_BYTES, read_header
from services.errors import CheckpointRefused

Make = Callable[..., Path]


def _raw(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    tensors = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(2.5, dtype=np.float16),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    for tensor in read_header(path):
        expected = tensors[tensor.name]
        assert tensor.shape == expected.shape
        assert data[tensor.start : tensor.end] == expected.tobytes()
        assert tensor.count == expected.size
        assert tensor.file == "model.safetensors"


def test_shards_are_read_as_one(make_checkpoint: Make) -> None:
    whole, parts = make_checkpoint("whole"), make_checkpoint("parts", shards=3)
    found, expected = read_tensors(parts), read_tensors(whole)
    assert list(found) == list(expected) == sorted(expected)
    for name in found:
        assert (found[name].dtype, found[name].shape) == (
            expected[name].dtype,
            expected[name].shape,
        )
    assert {t.file for t in found.values()} == {
        f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)
    }


def test_truncated(make_checkpoint: Make) -> None:
    path = make_checkpoint() / "model.safetensors"
    data = path.read_bytes()
    for size in (0, 7, 8, 60, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointRefused, match=r"model\.safetensors: is truncated"):
            read_header(path)


def test_padded(make_checkpoint: Make) -> None:
    path = make_checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(CheckpointRefused, match="is padded: 2 bytes follow"):
        read_header(path)


def test_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    _write(path, b'{"__metadata__": {}}', b"")
    with pytest.raises(CheckpointRefused, match="holds no tensors"):
        read_header(path)


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{")
    with pytest.raises(CheckpointRefused, match="the limit is 10 MB"):
        read_header(path)
    header = b"{" + b" " * HEADER_MAX_BYTES + b"}"
    _write(path, header, b"")
    with pytest.raises(CheckpointRefused, match="the limit is 10 MB"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b"not json", "header is not JSON"),
        (b"[1]", "header is not a JSON object"),
        (b"[" * 100_000, "header is not JSON"),
        (b"\xff\xfe{}", "header is not JSON"),
        (b"{}", "is padded: 4 bytes"),
        (b'{"a": 1}', "'a' has no valid shape"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "no valid shape"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "no valid shape"),
        (b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}', "no valid shape"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "no valid shape"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', "cannot fill -4 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "cannot fill 4 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "does not start where"),
        (
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
            b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
            "a key stands twice",
        ),
        (
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
            b'"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
            "'b' does not start where",
        ),
    ],
)
def test_malformed_headers(tmp_path: Path, header: bytes, what: str) -> None:
    path = tmp_path / "model.safetensors"
    _write(path, header, b"\0" * 4)
    with pytest.raises(CheckpointRefused, match=what):
        read_header(path)


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F64", "F8_E4M3", "C64", None, 7])
def test_only_floats_that_can_be_merged(tmp_path: Path, dtype: object) -> None:
    path = tmp_path / "model.safetensors"
    header = {"a.buffer": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}
    _write(path, json.dumps(header).encode(), b"")
    with pytest.raises(
        CheckpointRefused, match=r"tensor 'a.buffer' is of dtype .* integer buffers"
    ):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.sampled_from(["F32", "BF16", "I64", ""]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 12, 16]), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=400, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from("abc"), ENTRY, min_size=1, max_size=3),
    size=st.sampled_from([0, 4, 8, 12, 16]),
)
def test_whatever_is_accepted_the_library_accepts_too(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    _write(path, json.dumps(header).encode(), bytes(size))
    try:
        tensors = read_header(path)
    except CheckpointRefused:
        return
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(t.name for t in tensors)
        for tensor in tensors:
            piece = file.get_slice(tensor.name)
            assert tuple(piece.get_shape()) == tensor.shape
            assert piece.get_dtype() == tensor.dtype


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_header_never_gets_past_both(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16)}, path)
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    raw[data.draw(st.integers(0, 7 + length))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        read_header(path)
    except CheckpointRefused:
        return
    try:
        safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise AssertionError("accepted what the library refuses") from error


def test_missing_shard_and_missing_index(make_checkpoint: Make) -> None:
    folder = make_checkpoint(shards=3)
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    index.unlink()
    with pytest.raises(CheckpointRefused, match=r"index\.json is missing"):
        read_tensors(folder)
    index.write_text(text)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointRefused, match=r"shard model-00002-of-00003\.safetensors is missing"
    ):
        read_tensors(folder)


def test_two_sets_of_weights(make_checkpoint: Make) -> None:
    folder = make_checkpoint(shards=2)
    first = folder / "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").write_bytes(first.read_bytes())
    with pytest.raises(CheckpointRefused, match="more than one set of weights"):
        read_tensors(folder)
    (folder / "model.safetensors").rename(folder / "model-00003-of-00002.safetensors")
    with pytest.raises(CheckpointRefused, match="no shard of that number among 00002"):
        read_tensors(folder)


def test_a_tensor_in_two_shards(
    make_checkpoint: Make, write_safetensors: Callable[..., None]
) -> None:
    folder = make_checkpoint(shards=2)
    (name,) = (t.name for t in read_header(folder / "model-00002-of-00002.safetensors"))
    write_safetensors(folder / "model-00001-of-00002.safetensors", {name: np.ones(1, "<f4")})
    with pytest.raises(CheckpointRefused, match=f"tensor '{name}' is also in model-00001"):
        read_tensors(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m | {"model.norm.weight": "../../etc/passwd"}, "not to a shard in this folder"),
        (lambda m: m | {"model.norm.weight": "/etc/passwd"}, "not to a shard in this folder"),
        (lambda m: m | {"model.norm.weight": "evil.safetensors"}, "not to a shard in this folder"),
        (lambda m: m | {"model.norm.weight": 7}, "not to a shard in this folder"),
        (
            lambda m: m | {"model.norm.weight": "model-00002-of-00002.safetensors"},
            "'model.norm.weight' is not in model-00002",
        ),
        (lambda m: m | {"ghost": "model-00001-of-00002.safetensors"}, "'ghost' is not in"),
        (lambda m: {"lm_head.weight": m["lm_head.weight"]}, "does not list tensor"),
        (lambda m: [], "has no weight_map"),
    ],
)
def test_an_index_that_lies(
    make_checkpoint: Make, change: Callable[[dict[str, str]], object], what: str
) -> None:
    folder = make_checkpoint(shards=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": change(weight_map)}))
    with pytest.raises(CheckpointRefused, match=what):
        read_tensors(folder)
