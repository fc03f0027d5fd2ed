"""Per-item predictions as bytes: how the arrays of `optim.predictions` are stored in Postgres.

A thousand items cost a few kilobytes. Little-endian on every machine; packing is lossless.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.predictions import Form, Predictions
from services.errors import IntegrityError

COLUMNS = ("correct", "answer", "margin", "options", "nll", "tokens", "texts")
DTYPES = {"answer": "<u8", "margin": "<f2", "options": "<f2", "nll": "<f4", "tokens": "<i4"}


def pack(predictions: Predictions) -> dict[str, Any]:
    """Column values of one `prediction` row (n, items_digest and the byte columns)."""
    packed: dict[str, Any] = {"n": len(predictions), "items_digest": predictions.items}
    correct = predictions.correct
    packed["correct"] = None if correct is None else np.packbits(correct.astype(bool)).tobytes()
    for name, dtype in DTYPES.items():
        array = getattr(predictions, name)
        packed[name] = None if array is None else zlib.compress(array.astype(dtype).tobytes())
    texts = predictions.texts
    packed["texts"] = None if texts is None else zlib.compress(json.dumps(texts).encode())
    return packed


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Predictions of a suite of which only some items were scored."""

    #: bool [N]: scored; where it is False, the predictions mean nothing
    seen: np.ndarray
    predictions: Predictions


def pack_seen(part: Seen) -> dict[str, Any]:
    """Column values of one `seen_prediction` row."""
    packed = pack(part.predictions)
    kept = {name: packed[name] for name in ("n", "items_digest", "correct", "answer", "margin")}
    return {**kept, "seen": np.packbits(part.seen.astype(bool)).tobytes()}


def unpack_seen(form: Form, row: dict[str, Any]) -> Seen:
    """Inverse of `pack_seen`; raises what `unpack` raises."""
    bits = np.frombuffer(row["seen"], dtype=np.uint8)
    absent = dict.fromkeys(("options", "nll", "tokens", "texts"))
    return Seen(
        seen=np.unpackbits(bits, count=row["n"]).astype(bool),
        predictions=unpack(form, {**row, **absent}),
    )


def unpack(form: Form, row: dict[str, Any]) -> Predictions:
    """Inverse of `pack`; raises IntegrityError when a column does not hold n items."""
    n = row["n"]
    arrays: dict[str, Any] = {}
    if row["correct"] is not None:
        bits = np.frombuffer(row["correct"], dtype=np.uint8)
        arrays["correct"] = np.unpackbits(bits, count=n).astype(bool)
    for name, dtype in DTYPES.items():
        if row[name] is not None:
            arrays[name] = np.frombuffer(zlib.decompress(row[name]), dtype=dtype)
    if row["texts"] is not None:
        arrays["texts"] = tuple(json.loads(zlib.decompress(row["texts"])))
    if "options" in arrays and len(arrays["options"]) % n == 0:
        arrays["options"] = arrays["options"].reshape(n, -1)
    for name, array in arrays.items():
        if len(array) != n:
            raise IntegrityError(f"{name} holds {len(array)} items, not {n}", where="predictions")
    return Predictions(form=form, items=row["items_digest"], **arrays)
