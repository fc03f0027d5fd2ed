"""Reading one checkpoint: every rule that can be checked before a GPU is touched, in one pass.

The bytes are read once, hashed and searched for NaN and infinity together; nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.checkpoints.files import (
    CHUNK_BYTES,
    FileInfo,
    belonging_files,
    files_digest,
    hash_file,
    open_regular,
    read_json,
)
from services.checkpoints.headers import TensorInfo, read_tensors
from services.checkpoints.remembered import Remembered
from services.checkpoints.tokenizer import token_map, tokenizer_digest
from services.errors import CheckpointRefused

TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
#: unsigned type of the same width, and the bits that are all ones in NaN and infinity
EXPONENTS: dict[str, tuple[type[np.unsignedinteger[Any]], int, int]] = {
    "F32": (np.uint32, 0x7F800000, 0x007FFFFF),
    "BF16": (np.uint16, 0x7F80, 0x007F),
    "F16": (np.uint16, 0x7C00, 0x03FF),
}
#: (output, input) embeddings that are one parameter when the config ties them
TIED_NAMES = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("lm_head.weight", "model.decoder.embed_tokens.weight"),
    ("lm_head.weight", "model.language_model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.word_embeddings.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
)
#: architectures that tie when their config does not say
TIED_BY_DEFAULT = frozenset(
    {"biogpt", "bloom", "cohere", "cohere2", "falcon", "falcon_mamba", "gemma", "gemma2",
     "gemma3", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "lfm2", "mamba", "mpt", "opt",
     "recurrent_gemma", "smollm3", "starcoder2", "xglm"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that passed every check that concerns it alone."""

    path: Path
    #: hex SHA-256 of the canonical manifest of `files`
    digest: str
    files: Mapping[str, FileInfo] = field(repr=False)
    #: sorted by name; where the config ties the output to the input embedding, only the input one
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    #: hash of the token→id map
    tokenizer_digest: str
    #: torch's name of the dtype that most parameters have
    dtype: str
    #: number of values in `tensors`
    parameters: int
    #: rows of the input embedding beyond the highest token id; None where it is not known
    embedding_padding: int | None = None

    def manifest(self) -> dict[str, Any]:
        """The manifest whose canonical JSON `digest` is the hash of."""
        return {"files": {name: info.to_dict() for name, info in self.files.items()}}


def read_checkpoint(
    path: Path,
    *,
    check_values: bool = True,
    progress: Callable[[int, int], None] | None = None,
    remembered: Remembered | None = None,
) -> Checkpoint:
    """Read and check the checkpoint in folder `path`.

    `progress` gets (bytes read, bytes in all). Without `check_values` NaN and infinity pass, and
    weights whose hash is `remembered` are not read again. Raises CheckpointRefused with file,
    reason and mend.
    """
    path = Path(path)
    names = belonging_files(path)
    config = _read_config(path, names)
    tensors = read_tensors(path, names)
    tokens = token_map(path, names)
    total, done = sum((path / name).stat().st_size for name in names), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    files: dict[str, FileInfo] = {}
    for name in names:
        known = remembered.hash_of(path / name) if remembered and not check_values else None
        if known is not None:
            files[name] = known
            tick(known.bytes)
        elif name.endswith(".safetensors"):
            inside = sorted((t for t in tensors.values() if t.file == name), key=lambda t: t.start)
            files[name] = scan_values(path / name, inside, check_values=check_values, tick=tick)
        else:
            files[name] = hash_file(path / name, tick)
        if remembered and known is None:
            remembered.keep(path / name, files[name])
    tensors = _drop_tied(path, config, tensors)
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.count
    return Checkpoint(
        path=path,
        digest=files_digest(files),
        files=files,
        tensors=tensors,
        config=config,
        tokenizer_digest=tokenizer_digest(path, names, tokens),
        dtype=TORCH_NAMES[counts.most_common(1)[0][0]],
        parameters=counts.total(),
        embedding_padding=_embedding_padding(tensors, tokens),
    )


def scan_values(
    path: Path,
    tensors: list[TensorInfo],
    *,
    check_values: bool,
    tick: Callable[[int], None] | None = None,
) -> FileInfo:
    """Hash a safetensors file and count NaN and infinity in the same pass over its bytes.

    `tensors` are all tensors of the file in the order of their bytes.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        digest.update(file.read(tensors[0].start))
        for tensor in tensors:
            left, nans, infinities = tensor.end - tensor.start, 0, 0
            while left:
                chunk = file.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise CheckpointRefused(
                        "became shorter while it was read",
                        where=str(path),
                        mend="Wait until nothing writes to the checkpoint",
                    )
                digest.update(chunk)
                left -= len(chunk)
                if check_values:
                    more_nans, more_infinities = count_non_finite(chunk, tensor.dtype)
                    nans, infinities = nans + more_nans, infinities + more_infinities
                if tick:
                    tick(len(chunk))
            if nans or infinities:
                found = [f"{n} {what}" for n, what in ((nans, "NaN"), (infinities, "inf")) if n]
                raise CheckpointRefused(
                    f"tensor {tensor.name!r} holds {' and '.join(found)} of {tensor.count} values",
                    where=str(path),
                    mend="Export the checkpoint again, or leave it out of the pool",
                )
    if tick:
        tick(tensors[0].start)
    return FileInfo(sha256=digest.hexdigest(), bytes=tensors[-1].end)


def count_non_finite(raw: bytes, dtype: str) -> tuple[int, int]:
    """How many values of the raw little-endian bytes are NaN and how many are infinite."""
    unsigned, exponent, mantissa = EXPONENTS[dtype]
    bits = np.frombuffer(raw, dtype=np.dtype(unsigned).newbyteorder("<"))
    special = (bits & unsigned(exponent)) == exponent
    if not special.any():
        return 0, 0
    nans = int(np.count_nonzero(bits[special] & unsigned(mantissa)))
    return nans, int(np.count_nonzero(special)) - nans


def _read_config(path: Path, names: list[str]) -> dict[str, Any]:
    if "config.json" not in names:
        raise CheckpointRefused(
            "config.json is missing",
            where=str(path),
            mend="Copy it from the base model, or save the model again with save_pretrained",
        )
    config = read_json(path / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointRefused(
            "has no model_type",
            where=str(path / "config.json"),
            mend="Save the model again with save_pretrained",
        )
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if name in names:
            _refuse_remote_code(path / name, config if name == "config.json" else None)
    if config.get("quantization_config"):
        raise CheckpointRefused(
            "the weights are quantised (quantization_config)",
            where=str(path / "config.json"),
            mend="Give the checkpoint before quantisation",
        )
    return config


def _refuse_remote_code(path: Path, data: Any) -> None:
    stack: list[Any] = [read_json(path) if data is None else data]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            for key in ("auto_map", "custom_pipelines", "custom_generate"):
                if node.get(key):
                    raise CheckpointRefused(
                        f"asks for remote code ({key}); a checkpoint is data here, never code",
                        where=str(path),
                        mend=f"Use an architecture that transformers has itself and remove {key}",
                    )
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _is_tied(config: Mapping[str, Any]) -> bool:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        if "tie_word_embeddings" in part:
            return bool(part["tie_word_embeddings"])
    return config.get("model_type") in TIED_BY_DEFAULT


def _drop_tied(
    path: Path, config: Mapping[str, Any], tensors: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Without the second copy of a tied embedding; both copies must hold the same bytes."""
    if not _is_tied(config):
        return tensors
    for output, source in TIED_NAMES:
        if output not in tensors or source not in tensors:
            continue
        a, b = tensors[output], tensors[source]
        if (a.dtype, a.shape) != (b.dtype, b.shape) or not _same_bytes(path, a, b):
            raise CheckpointRefused(
                f"tensors {output!r} and {source!r} differ although config.json ties them",
                where=str(path / a.file),
                mend=f"Set tie_word_embeddings to false in config.json, or remove {output!r}",
            )
        return {name: tensor for name, tensor in tensors.items() if name != output}
    return tensors


def _same_bytes(path: Path, a: TensorInfo, b: TensorInfo) -> bool:
    with open_regular(path / a.file) as file_a, open_regular(path / b.file) as file_b:
        file_a.seek(a.start)
        file_b.seek(b.start)
        left = a.end - a.start
        while left:
            size = min(left, CHUNK_BYTES)
            if file_a.read(size) != file_b.read(size):
                return False
            left -= size
    return True


def _embedding_padding(
    tensors: Mapping[str, TensorInfo], tokens: dict[str, int] | None
) -> int | None:
    rows = [tensors[name].shape[0] for _, name in TIED_NAMES if name in tensors]
    if not rows or not tokens:
        return None
    return rows[0] - (max(tokens.values()) + 1)
