"""The token→id map of a checkpoint, read from its tokenizer files without running them.

Two checkpoints whose maps differ must never be merged, even when their vocabularies have one size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.checkpoints.files import hash_file, open_regular, read_json
from services.errors import CheckpointRefused

SENTENCEPIECE_NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def token_map(folder: Path, names: Sequence[str]) -> dict[str, int] | None:
    """Every token, added ones included, with its id; None where only a binary model is there.

    Raises CheckpointRefused when there is no tokenizer or its files make no sense.
    """
    if "tokenizer.json" in names:
        return _from_tokenizer_json(folder / "tokenizer.json")
    if "vocab.json" in names:
        tokens = _ids(read_json(folder / "vocab.json"), folder / "vocab.json")
    elif "vocab.txt" in names:
        with open_regular(folder / "vocab.txt") as file:
            lines = file.read().decode(errors="surrogateescape").split("\n")
        tokens = {line.rstrip("\r"): index for index, line in enumerate(lines) if line}
    elif any(name in names for name in SENTENCEPIECE_NAMES):
        return None
    else:
        raise CheckpointRefused(
            "holds no tokenizer",
            where=str(folder),
            mend="Save it beside the weights: tokenizer.save_pretrained(FOLDER)",
        )
    if "added_tokens.json" in names:
        path = folder / "added_tokens.json"
        tokens |= _ids(read_json(path), path)
    return tokens


def tokenizer_digest(folder: Path, names: Sequence[str], tokens: dict[str, int] | None) -> str:
    """Hex SHA-256 of the sorted token→id map, or of a binary SentencePiece model's bytes."""
    if tokens is None:
        name = next(name for name in SENTENCEPIECE_NAMES if name in names)
        return hash_file(folder / name).sha256
    pairs = sorted(tokens.items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def _ids(data: Any, path: Path) -> dict[str, int]:
    if not isinstance(data, dict) or not all(type(value) is int for value in data.values()):
        raise CheckpointRefused(
            "is not a map of tokens to ids", where=str(path), mend="Save the tokenizer again"
        )
    return dict(data)


def _from_tokenizer_json(path: Path) -> dict[str, int]:
    data = read_json(path)
    try:
        vocab = data["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [token, score] in order of ids
            vocab = {token: index for index, (token, _) in enumerate(vocab)}
        added = {entry["content"]: entry["id"] for entry in data.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointRefused(
            "has no readable vocabulary", where=str(path), mend="Save the tokenizer again"
        ) from error
    return _ids(vocab, path) | _ids(added, path)
