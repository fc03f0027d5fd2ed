"""A suite's items as batches of token ids: worked out once per (suite, split, tokenizer).

Holds no weights and runs no model. What is merged here (equal inputs, equal positions) changes the
work, never the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from services.suites import Item, Suite
from workers.engine.encode import Continuation, Encoder
from workers.engine.generate import GenerationPlan
from workers.engine.tree import Batch, Sharing, batch_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A forward pass and K looks at its logits: pair k is the log-likelihood of `targets[k]` in row
    `at[k]` of the batch's M logits, and belongs to request `requests[k]`."""

    batch: Batch
    #: int64 [K]
    at: Tensor
    targets: Tensor
    requests: Tensor


@dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    """Forward passes whose scored tokens add up to one log-likelihood per request (R requests)."""

    scored: tuple[Scored, ...] = field(repr=False)
    #: scored tokens of each request, int32 [R]
    lengths: np.ndarray
    #: first request of each item, and the end: int64 [N+1]
    offsets: np.ndarray

    @property
    def tokens(self) -> int:
        """Real tokens in all forward passes."""
        return sum(scored.batch.tokens for scored in self.scored)


def compile_suite(
    suite: Suite,
    items: Sequence[Item],
    encoder: Encoder,
    *,
    batch_tokens: int,
    generation_tokens: int | None = None,
    sharing: Sharing | None = None,
    equal_lengths: bool = False,
) -> LikelihoodPlan | GenerationPlan:
    """Tokenise and batch `items` of `suite`; raises BadInput naming an item that does not fit.

    `generation_tokens` bounds the batches in which answers are generated (None: `batch_tokens`).
    `sharing` says which prefixes may be computed once (None: none). `equal_lengths` puts only
    prompts of one length into a batch, for models that cannot be told where left padding ends.
    """
    where = f"suite {suite.name!r}"
    sharing = sharing or Sharing(limit=0)
    if suite.form in ("exact", "refusal"):
        return GenerationPlan(
            encoder.prompts(items, where, suite.answer_tokens),
            batch_tokens=batch_tokens,
            generation_tokens=generation_tokens or batch_tokens,
            vocabulary=encoder.vocabulary,
            sharing=sharing,
            equal_lengths=equal_lengths,
        )
    if suite.form == "choice":
        options = encoder.choices(items, where)
    else:
        options = [[text] for text in encoder.texts(items, where)]
    requests = [continuation for option in options for continuation in option]
    return compile_requests(
        requests,
        batch_tokens=batch_tokens,
        vocabulary=encoder.vocabulary,
        sharing=sharing,
        offsets=np.cumsum([0, *map(len, options)]),
    )


def compile_requests(
    requests: Sequence[Continuation],
    *,
    batch_tokens: int,
    vocabulary: int,
    sharing: Sharing,
    offsets: np.ndarray | None = None,
) -> LikelihoodPlan:
    """The plan for R requests; `offsets` (None: one item a request) as in LikelihoodPlan.

    Requests with equal inputs share a row: the one-token options of a context are one row.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        if len(request.ids) > request.start:
            rows.setdefault(tuple(request.ids[:-1]), []).append(number)
    firsts = [min(requests[number].start for number in mine) - 1 for mine in rows.values()]
    batches = batch_rows(
        list(rows), firsts, batch_tokens=batch_tokens, vocabulary=vocabulary, sharing=sharing
    )
    owners = list(rows.values())
    return LikelihoodPlan(
        scored=tuple(_scored(batch, firsts, owners, requests) for batch in batches),
        lengths=np.array([max(len(r.ids) - r.start, 0) for r in requests], dtype=np.int32),
        offsets=np.arange(len(requests) + 1) if offsets is None else offsets,
    )


def _scored(
    batch: Batch,
    firsts: Sequence[int],
    owners: Sequence[Sequence[int]],
    requests: Sequence[Continuation],
) -> Scored:
    pairs = [
        (slots[position - 1 - firsts[row]], requests[number].ids[position], number)
        for row, slots in batch.rows
        for number in owners[row]
        for position in range(requests[number].start, len(requests[number].ids))
    ]
    at, targets, owner = torch.tensor(pairs, dtype=torch.int64).T.contiguous()
    return Scored(batch=batch, at=at, targets=targets, requests=owner)
