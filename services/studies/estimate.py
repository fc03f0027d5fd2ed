"""What a candidate costs in tokens, before one has been scored: an estimate that says how it was
made. Measured where the pool's checkpoints have answered the suite before, else from the length of
the items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services import stored_suites
from services.db import Connection, Row, row
from services.suites import Item

#: of English text in the tokenizers of common families
BYTES_PER_TOKEN = 4.0
#: bytes of an item by the digest of its suite, whose content never changes
_lengths: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens that the engine runs for one item of a suite, on average."""

    per_item: float
    how: Literal["measured", "estimated"]


def tokens_per_item(connection: Connection, pool: int, suite: Row) -> Tokens:
    """Of a suite's row (`stored_suites.suite_row`), for a pool's checkpoints.

    Measured: tokens by item of the newest evaluations of that pool on that content; what engines
    skip, because answers are shared, makes it lower than the texts are long. Estimated: bytes of
    what is read, a context once and each choice, at `BYTES_PER_TOKEN`.
    """
    found = row(connection, "views.tokens_per_item", pool=pool, suite=suite["id"])
    if found is not None and found["tokens"]:
        return Tokens(per_item=found["tokens"] / found["items"], how="measured")
    per_item = _lengths.get(suite["digest"])
    if per_item is None:
        items = stored_suites.suite_from_row(suite).items
        per_item = sum(_length(item) for item in items) / len(items)
        _lengths[suite["digest"]] = per_item
    return Tokens(per_item=per_item / BYTES_PER_TOKEN, how="estimated")


def _length(item: Item) -> int:
    texts = (item.context, *item.choices, item.prompt, item.target, item.text)
    return sum(len(text.encode()) for text in texts)
