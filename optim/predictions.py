"""What a model answered on one split of one suite: the arrays every metric is computed from.

Pure data: packing to bytes for storage is done in `services.predictions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Form = Literal["choice", "exact", "refusal", "text"]
#: largest finite float16: margins are cut off there
MARGIN_MAX = 65504


def items_digest(item_ids: Sequence[str]) -> str:
    """SHA-256 hex of the item ids in order: two tables are comparable only when it is equal."""
    return hashlib.sha256("\n".join(item_ids).encode()).hexdigest()


def answer_hash(text: str) -> int:
    """64-bit hash of a normalised answer: whitespace collapsed, ends stripped."""
    normal = " ".join(text.split())
    return int.from_bytes(hashlib.sha256(normal.encode()).digest()[:8], "little")


def option_log_probabilities(scores: Sequence[np.ndarray], width: int | None = None) -> np.ndarray:
    """`Predictions.options` from the scores of each item's options, nats: their log-softmax.

    `width` is K; None: as many options as the item that has most.
    """
    width = max(map(len, scores), default=0) if width is None else width
    found = np.full((len(scores), width), -np.inf, dtype=np.float16)
    for row, values in zip(found, scores, strict=True):
        shifted = values - values.max()
        row[: len(values)] = np.maximum(shifted - np.log(np.exp(shifted).sum()), -MARGIN_MAX)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Per-item results in the split's item order; N items.

    Which arrays are filled depends on the suite's form: `choice` fills correct, answer (option
    index), margin and options; `exact` fills correct, answer (`answer_hash`) and texts; `refusal`
    fills correct, answer (1: refused) and texts; `text` fills nll and tokens. Arrays that do not
    apply are None.
    """

    form: Form
    #: `items_digest` of the ids, in the order of the arrays
    items: str
    #: bool [N]: the gold answer was given
    correct: np.ndarray | None = None
    #: uint64 [N]: option index, 64-bit hash of the normalised answer, or 1 for a refusal, else 0
    answer: np.ndarray | None = None
    #: float16 [N], nats: log-likelihood of gold minus that of the best other option
    margin: np.ndarray | None = None
    #: float16 [N, K]: log-probability of each option among the item's own, after normalisation;
    #: -inf beyond an item's options. None where they were not asked for, or not stored
    options: np.ndarray | None = None
    #: float32 [N], nats: negative log-likelihood of the whole text
    nll: np.ndarray | None = None
    #: int32 [N]: tokens that nll sums over
    tokens: np.ndarray | None = None
    #: generated answers as text, for people to read
    texts: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        array = self.nll if self.form == "text" else self.correct
        return 0 if array is None else len(array)

    @property
    def refuse(self) -> np.ndarray | None:
        """bool [N]: a refusal is the right answer; None unless the form is `refusal`."""
        if self.form != "refusal":
            return None
        assert self.answer is not None
        assert self.correct is not None
        return (self.answer == 1) == self.correct

    def units(self) -> np.ndarray:
        """float64 [N]: the per-item value whose mean is the suite's score.

        0/1 correctness, or nats per token for `text` (lower is better; weight by `tokens`).
        """
        if self.form == "text":
            assert self.nll is not None
            assert self.tokens is not None
            return self.nll.astype(np.float64) / np.maximum(self.tokens, 1)
        assert self.correct is not None
        return self.correct.astype(np.float64)

    def score(self) -> float:
        """Accuracy, or corpus nats per token (sum of nll / sum of tokens) for `text`."""
        if self.form == "text":
            assert self.nll is not None
            assert self.tokens is not None
            return float(self.nll.sum(dtype=np.float64) / max(int(self.tokens.sum()), 1))
        return float(self.units().mean())
