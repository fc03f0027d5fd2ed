"""Checkpoints small enough to be written byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2,
    "num_attention_heads": 1,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 4,
}
TOKENS = {"<s>": 0, "a": 1, "b": 2, "c": 3}
TENSORS = {
    "lm_head.weight": np.arange(8, dtype="<f4").reshape(4, 2),
    "model.embed_tokens.weight": np.arange(8, 16, dtype="<f4").reshape(4, 2),
    "model.norm.weight": np.ones(2, dtype="<f4"),
}
NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64", "float64": "F64"}


def _header(tensors: dict[str, np.ndarray]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, array in tensors.items():
        entries[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    return json.dumps(entries).encode()


@pytest.fixture
def write_safetensors() -> Callable[..., None]:
    """write(path, tensors, header=None): uint16 arrays stand for bfloat16."""

    def write(path: Path, tensors: dict[str, np.ndarray], header: bytes | None = None) -> None:
        header = _header(tensors) if header is None else header
        data = b"".join(array.tobytes() for array in tensors.values())
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)

    return write


@pytest.fixture
def make_checkpoint(tmp_path: Path, write_safetensors: Callable[..., None]) -> Callable[..., Path]:
    """make(name, tensors=…, config=…, tokens=…, shards=1) writes a checkpoint, returns its folder.

    `config` and `tensors` replace or add single entries; None removes one.
    """

    def make(
        name: str = "one",
        *,
        tensors: dict[str, np.ndarray | None] | None = None,
        config: dict[str, Any] | None = None,
        tokens: dict[str, int] | None = None,
        shards: int = 1,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        full = {k: v for k, v in (TENSORS | (tensors or {})).items() if v is not None}
        settings = {k: v for k, v in (CONFIG | (config or {})).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(settings))
        tokenizer = {"model": {"type": "WordLevel", "vocab": tokens or TOKENS}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        if shards == 1:
            write_safetensors(folder / "model.safetensors", full)
            return folder
        weight_map = {}
        for index in range(shards):
            part = {k: full[k] for k in sorted(full)[index::shards]}
            file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
            write_safetensors(folder / file, part)
            weight_map |= dict.fromkeys(part, file)
        index_file = folder / "model.safetensors.index.json"
        index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    return make
