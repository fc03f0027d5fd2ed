"""Reading a checkpoint: values, configuration, tokenizer, tied weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.checkpoints import read, read_checkpoint
from services.errors import CheckpointRefused

Make = Callable[..., Path]
EMBEDDING = np.arange(8, dtype="<f4").reshape(4, 2)


def test_what_is_read(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    seen: list[tuple[int, int]] = []
    checkpoint = read_checkpoint(folder, progress=lambda a, b: seen.append((a, b)))
    assert checkpoint.path == folder
    assert list(checkpoint.tensors) == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    assert checkpoint.parameters == 18
    assert checkpoint.dtype == "float32"
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.embedding_padding == 0
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_the_dtype_is_the_majority_of_the_values(make_checkpoint: Make) -> None:
    half = np.zeros((4, 2), dtype=np.uint16)
    folder = make_checkpoint(
        tensors={"lm_head.weight": half, "model.embed_tokens.weight": half},
        config={"torch_dtype": "float32"},
    )
    assert read_checkpoint(folder).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("value", "dtype", "what"),
    [
        (np.float32("nan"), "<f4", "1 NaN of 8"),
        (np.float32("-inf"), "<f4", "1 inf of 8"),
        (np.float16("nan"), "<f2", "1 NaN of 8"),
        (np.float16("inf"), "<f2", "1 inf of 8"),
        (0x7FC1, "<u2", "1 NaN of 8"),
        (0xFFFF, "<u2", "1 NaN of 8"),
        (0xFF80, "<u2", "1 inf of 8"),
    ],
)
def test_non_finite_values(make_checkpoint: Make, value: float, dtype: str, what: str) -> None:
    array = np.ones((4, 2), dtype=dtype)
    array[2, 1] = value
    folder = make_checkpoint(tensors={"lm_head.weight": array}, shards=2)
    with pytest.raises(
        CheckpointRefused,
        match=rf"model-00001-of-00002\.safetensors: tensor 'lm_head.weight' holds {what} values\. ",
    ):
        read_checkpoint(folder)
    assert read_checkpoint(folder, check_values=False).parameters == 18


def test_non_finite_values_are_counted_over_chunks(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "CHUNK_BYTES", 8)
    array = EMBEDDING.copy()
    array[0, 0], array[3, 1], array[1, 0] = np.nan, np.nan, np.inf
    folder = make_checkpoint(tensors={"lm_head.weight": array})
    with pytest.raises(CheckpointRefused, match="holds 2 NaN and 1 inf of 8 values"):
        read_checkpoint(folder)


@given(st.binary(max_size=400).map(lambda raw: raw[: len(raw) // 4 * 4]))
def test_counts_agree_with_numpy(raw: bytes) -> None:
    for dtype, kind in (("F32", "<f4"), ("F16", "<f2")):
        values = np.frombuffer(raw, dtype=kind)
        assert read.count_non_finite(raw, dtype) == (np.isnan(values).sum(), np.isinf(values).sum())
    wide = (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4")
    assert read.count_non_finite(raw, "BF16") == (np.isnan(wide).sum(), np.isinf(wide).sum())


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("config.json", {"model_type": "llama", "auto_map": {"AutoModel": "evil.Model"}}),
        ("config.json", {"model_type": "x", "text_config": {"auto_map": {"AutoModel": "e.M"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
        ("generation_config.json", {"custom_generate": "evil/repo"}),
    ],
)
def test_remote_code(make_checkpoint: Make, file: str, data: object) -> None:
    folder = make_checkpoint()
    (folder / file).write_text(json.dumps(data))
    with pytest.raises(CheckpointRefused, match=rf"{file}: asks for remote code"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no model_type"),
        ('{"model_type": 7}', "has no model_type"),
        ('{"model_type": "llama", "quantization_config": {"bits": 4}}', "are quantised"),
        (" " * (10**7 + 1), "is larger than 10 MB"),
    ],
)
def test_config(make_checkpoint: Make, text: str, what: str) -> None:
    folder = make_checkpoint()
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointRefused, match=rf"config\.json: .*{what}"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointRefused, match=r"config\.json is missing"):
        read_checkpoint(folder)


def test_tied_weights_that_agree_count_once(make_checkpoint: Make) -> None:
    tied = make_checkpoint(
        "tied",
        tensors={"lm_head.weight": EMBEDDING, "model.embed_tokens.weight": EMBEDDING},
        config={"tie_word_embeddings": True},
    )
    once = make_checkpoint(
        "once",
        tensors={"lm_head.weight": None, "model.embed_tokens.weight": EMBEDDING},
        config={"tie_word_embeddings": True},
    )
    assert list(read_checkpoint(tied).tensors) == list(read_checkpoint(once).tensors)
    assert read_checkpoint(tied).parameters == 10


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": None, "text_config": {"tie_word_embeddings": True}},
        {"tie_word_embeddings": None, "model_type": "gemma2"},
    ],
)
def test_tied_weights_that_disagree(make_checkpoint: Make, config: dict[str, object]) -> None:
    folder = make_checkpoint(config=config)
    with pytest.raises(CheckpointRefused, match=r"'lm_head.weight' and .* although .* ties them"):
        read_checkpoint(folder)


def test_padded_embeddings_are_recorded(make_checkpoint: Make) -> None:
    folder = make_checkpoint(tokens={"<s>": 0, "a": 1})
    assert read_checkpoint(folder).embedding_padding == 2


def _with_tokenizer(folder: Path, files: dict[str, object]) -> Path:
    (folder / "tokenizer.json").unlink()
    for name, data in files.items():
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / name).write_text(text)
    return folder


def test_one_map_has_one_digest_however_it_is_stored(make_checkpoint: Make) -> None:
    unigram = {"model": {"type": "Unigram", "vocab": [["<s>", 0.0], ["a", -1.0]]},
               "added_tokens": [{"id": 2, "content": "b"}, {"id": 3, "content": "c"}]}  # fmt: skip
    stored: list[dict[str, object]] = [
        {"tokenizer.json": unigram},
        {"vocab.json": {"c": 3, "b": 2, "a": 1, "<s>": 0}, "merges.txt": ""},
        {"vocab.json": {"a": 1, "<s>": 0}, "added_tokens.json": {"b": 2, "c": 3}},
        {"vocab.txt": "<s>\na\nb\nc\n"},
    ]
    digests = {read_checkpoint(make_checkpoint("plain")).tokenizer_digest}
    for number, files in enumerate(stored):
        folder = _with_tokenizer(make_checkpoint(f"n{number}"), files)
        digests.add(read_checkpoint(folder).tokenizer_digest)
    assert len(digests) == 1


def test_sentencepiece_models_are_hashed_whole(make_checkpoint: Make) -> None:
    a = _with_tokenizer(make_checkpoint("a"), {"tokenizer.model": "binary"})
    b = _with_tokenizer(make_checkpoint("b"), {"tokenizer.model": "binarx"})
    assert read_checkpoint(a).tokenizer_digest != read_checkpoint(b).tokenizer_digest
    assert read_checkpoint(a).embedding_padding is None


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": {"model": {}}}, r"tokenizer\.json: has no readable vocabulary"),
        ({"tokenizer.json": []}, r"tokenizer\.json: has no readable vocabulary"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: is not JSON"),
        ({"vocab.json": {"a": "1"}}, r"vocab\.json: is not a map of tokens to ids"),
        ({"vocab.json": [1]}, r"vocab\.json: is not a map of tokens to ids"),
    ],
)
def test_tokenizers_that_are_none(
    make_checkpoint: Make, files: dict[str, object], what: str
) -> None:
    with pytest.raises(CheckpointRefused, match=what):
        read_checkpoint(_with_tokenizer(make_checkpoint(), files))
