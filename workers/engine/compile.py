"""A suite's items as batches of token ids: worked out once per (suite, split, tokenizer).

Holds no weights and runs no model. What is merged here (equal inputs, equal positions) changes the
work, never the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from services.suites import Item, Suite
from workers.engine.encode import Continuation, Encoder

#: values of the largest table of logits that one forward pass may make (float32: 256 MB)
LOGITS_PER_BATCH = 2**26


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass: B rows padded on the right to L tokens, M positions whose logits count.

    Pads come after every real token, so a causal model needs no mask. K pairs say which logits are
    looked at: pair k is the log-likelihood of `targets[k]` at position `positions[at[k]]`, and
    belongs to request `requests[k]`.
    """

    #: int64 [B, L]
    inputs: Tensor
    #: int64 [M], indices into the flattened B*L
    positions: Tensor
    #: int64 [K]
    at: Tensor
    targets: Tensor
    requests: Tensor
    #: real tokens, pads not counted
    tokens: int


@dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    """Batches whose scored tokens add up to one log-likelihood per request (R requests)."""

    batches: tuple[Batch, ...] = field(repr=False)
    #: scored tokens of each request, int32 [R]
    lengths: np.ndarray
    #: first request of each item, and the end: int64 [N+1]
    offsets: np.ndarray

    @property
    def tokens(self) -> int:
        """Real tokens in all forward passes."""
        return sum(batch.tokens for batch in self.batches)


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts that are continued together, padded on the left to L tokens."""

    #: int64 [B, L], bool [B, L] (False: pad)
    inputs: Tensor
    mask: Tensor
    #: most new tokens of each row, int64 [B]; item indices [B]
    most: Tensor
    items: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """Prompts in batches of similar length."""

    batches: tuple[PromptBatch, ...] = field(repr=False)

    @property
    def tokens(self) -> int:
        """Prompt tokens, plus the most that may be generated."""
        return sum(batch.tokens + int(batch.most.sum()) for batch in self.batches)


def compile_suite(
    suite: Suite,
    items: Sequence[Item],
    encoder: Encoder,
    *,
    batch_tokens: int,
    equal_lengths: bool = False,
) -> LikelihoodPlan | GenerationPlan:
    """Tokenise and batch `items` of `suite`; raises BadInput naming an item that does not fit.

    `equal_lengths` puts only prompts of one length into a batch, for models that cannot be told
    where left padding ends.
    """
    where = f"suite {suite.name!r}"
    if suite.form == "exact":
        prompts = encoder.prompts(items, where)
        return GenerationPlan(batches=tuple(_prompt_batches(prompts, batch_tokens, equal_lengths)))
    if suite.form == "choice":
        options = encoder.choices(items, where)
    else:
        options = [[text] for text in encoder.texts(items, where)]
    requests = [continuation for option in options for continuation in option]
    return LikelihoodPlan(
        batches=tuple(_likelihood_batches(requests, batch_tokens, encoder.vocabulary)),
        lengths=np.array([max(len(r.ids) - r.start, 0) for r in requests], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, options)]),
    )


def _likelihood_batches(
    requests: Sequence[Continuation], batch_tokens: int, vocabulary: int
) -> Iterator[Batch]:
    """One row per distinct input: the one-token options of a context share a forward pass."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        if len(request.ids) > request.start:
            rows.setdefault(tuple(request.ids[:-1]), []).append(number)
    waiting: list[tuple[int, ...]] = []
    scored = 0
    for row in sorted(rows, key=lambda row: (len(row), row)):
        mine = len(row) + 1 - min(requests[number].start for number in rows[row])
        full = (len(waiting) + 1) * len(row) > batch_tokens
        if waiting and (full or (scored + mine) * vocabulary > LOGITS_PER_BATCH):
            yield _batch(waiting, rows, requests)
            waiting, scored = [], 0
        waiting.append(row)
        scored += mine
    if waiting:
        yield _batch(waiting, rows, requests)


def _batch(
    chosen: Sequence[tuple[int, ...]],
    rows: dict[tuple[int, ...], list[int]],
    requests: Sequence[Continuation],
) -> Batch:
    width = max(map(len, chosen))
    inputs = torch.zeros(len(chosen), width, dtype=torch.int64)
    slots: dict[int, int] = {}
    pairs: list[tuple[int, int, int]] = []
    for index, row in enumerate(chosen):
        inputs[index, : len(row)] = torch.tensor(row)
        for number in rows[row]:
            request = requests[number]
            for position in range(request.start, len(request.ids)):
                slot = slots.setdefault(index * width + position - 1, len(slots))
                pairs.append((slot, request.ids[position], number))
    at, targets, owners = torch.tensor(pairs, dtype=torch.int64).T.contiguous()
    return Batch(
        inputs=inputs,
        positions=torch.tensor(list(slots)),
        at=at,
        targets=targets,
        requests=owners,
        tokens=sum(map(len, chosen)),
    )


def _prompt_batches(
    prompts: Sequence[tuple[list[int], int]], batch_tokens: int, equal_lengths: bool
) -> Iterator[PromptBatch]:
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i][0]), prompts[i][1]))
    waiting: list[int] = []
    longest = 0
    for index in order:
        prompt, most = prompts[index]
        longest = max(longest, most)
        full = (len(waiting) + 1) * (len(prompt) + longest) > batch_tokens
        if waiting and (full or (equal_lengths and len(prompts[waiting[0]][0]) != len(prompt))):
            yield _prompt_batch(waiting, prompts)
            waiting, longest = [], most
        waiting.append(index)
    if waiting:
        yield _prompt_batch(waiting, prompts)


def _prompt_batch(chosen: Sequence[int], prompts: Sequence[tuple[list[int], int]]) -> PromptBatch:
    width = max(len(prompts[index][0]) for index in chosen)
    inputs = torch.zeros(len(chosen), width, dtype=torch.int64)
    mask = torch.zeros(len(chosen), width, dtype=torch.bool)
    for row, index in enumerate(chosen):
        prompt = prompts[index][0]
        inputs[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = True
    return PromptBatch(
        inputs=inputs,
        mask=mask,
        most=torch.tensor([prompts[index][1] for index in chosen]),
        items=tuple(chosen),
        tokens=int(mask.sum()),
    )
