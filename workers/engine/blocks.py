"""A suite's items in blocks that can be scored in any order: what a race stops between.

A block is the least that is scored by itself without computing anything twice: of likelihoods, the
compiled batches that have an item or a small head in common; of generated answers, prompts that are
continued together. Blocks hold the suite's own batches, so that what is kept of them (activations
of skipped blocks of the model, shared heads) stays valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from workers.engine.answer import RequestPlan
from workers.engine.compile import LikelihoodPlan
from workers.engine.generate import GenerationPlan, generation_batches
from workers.engine.tasks import TaskPlan

#: batches behind one head that come together; a head of more is kept while others run
HEAD_BATCHES = 2
#: heads of one suite that are kept
HEADS_KEPT = 4
#: blocks of a suite at least, where its usual batches would make fewer: a large block among small
#: ones says nothing until it comes, and bets on the small ones have to be small because of it
LEAST_BLOCKS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """N items of one suite that are scored together."""

    #: int32 [N], ascending: their places in the split
    items: np.ndarray
    plan: LikelihoodPlan | GenerationPlan | TaskPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """A suite in blocks; every item is in one of them."""

    blocks: tuple[Block, ...]
    #: heads that come up in several blocks
    heads: int = 0


def in_blocks(plan: LikelihoodPlan | GenerationPlan | TaskPlan) -> Blocks:
    """The blocks of a compiled suite."""
    if isinstance(plan, GenerationPlan):
        sizes = [(len(prompt.ids), prompt.most) for prompt in plan.prompts]
        most = block_tokens(plan.tokens, plan.generation_tokens)
        parts = generation_batches(sizes, most, equal_lengths=plan.equal_lengths)
        chosen = [sorted(part) for part in parts]
        return Blocks(
            blocks=tuple(
                Block(items=np.array(items, dtype=np.int32), plan=plan.part(items))
                for items in chosen
            )
        )
    assert isinstance(plan, LikelihoodPlan)
    kept = _kept_heads(plan)
    return Blocks(blocks=tuple(_likelihood_blocks(plan, kept)), heads=len(kept))


def _kept_heads(plan: LikelihoodPlan) -> set[int]:
    """Keys of the heads with the most batches: those batches need not come together."""
    counts = Counter(s.batch.head.key for s in plan.scored if s.batch.head is not None)
    return {key for key, count in counts.most_common(HEADS_KEPT) if count > HEAD_BATCHES}


def _likelihood_blocks(plan: LikelihoodPlan, kept: set[int]) -> Iterator[Block]:
    owner = np.repeat(np.arange(len(plan.offsets) - 1), np.diff(plan.offsets))
    label = _components(plan, owner, kept)
    batches = np.array([label[b] for b in range(len(plan.scored))])
    of_item = label[len(plan.scored) : len(plan.scored) + len(plan.offsets) - 1]
    for one in dict.fromkeys(of_item.tolist()):
        items = np.flatnonzero(of_item == one).astype(np.int32)
        requests = np.concatenate([np.arange(plan.offsets[i], plan.offsets[i + 1]) for i in items])
        renumbered = np.full(len(owner), -1)
        renumbered[requests] = np.arange(len(requests))
        yield Block(
            items=items,
            plan=LikelihoodPlan(
                scored=tuple(
                    replace(s, requests=torch.from_numpy(renumbered[s.requests.numpy()]))
                    for s, at in zip(plan.scored, batches, strict=True)
                    if at == one
                ),
                lengths=plan.lengths[requests],
                offsets=np.cumsum([0, *np.diff(plan.offsets)[items]]),
            ),
        )


def _components(plan: LikelihoodPlan, owner: np.ndarray, kept: set[int]) -> np.ndarray:
    """Which block each batch, each item and each head belongs to, in this order."""
    batches, items = len(plan.scored), len(plan.offsets) - 1
    heads: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    for number, scored in enumerate(plan.scored):
        pairs += [(number, batches + i) for i in np.unique(owner[scored.requests.numpy()])]
        head = scored.batch.head
        if head is not None and head.key not in kept:
            node = batches + items + heads.setdefault(head.key, len(heads))
            pairs.append((number, node))
    size = batches + items + len(heads)
    rows, columns = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(size, size))
    label: np.ndarray = connected_components(graph, directed=False)[1]
    seen = np.zeros(items, dtype=bool)
    seen[owner[plan.lengths > 0]] = True
    # an item of which nothing is scored goes with the first
    label[batches : batches + items][~seen] = label[0]
    return label


def block_tokens(tokens: int, batch_tokens: int) -> int:
    """Tokens of a block of a suite of so many, given those of its usual batches."""
    return min(batch_tokens, tokens // LEAST_BLOCKS)


def chunks(plan: TaskPlan, tokens: int) -> list[list[int]]:
    """An lm-eval task's items cut into blocks of neighbours of so many tokens."""
    sizes = _tokens_by_item(plan.requests, plan.offsets)
    found: list[list[int]] = [[]]
    filled = 0
    for item, size in enumerate(sizes.tolist()):
        if found[-1] and filled + size > tokens:
            found.append([])
            filled = 0
        found[-1].append(item)
        filled += size
    return found


def _tokens_by_item(plan: RequestPlan, offsets: Sequence[int] | np.ndarray) -> np.ndarray:
    encoded = plan.encoded
    tokens = np.zeros(len(encoded.kinds), dtype=np.int64)
    shown = [len(one.ids) for one in encoded.continuations]
    np.add.at(tokens, encoded.owners, np.array(shown, dtype=np.int64))
    for prompt in encoded.prompts:
        tokens[prompt.request] += len(prompt.ids) + prompt.how.most
    return np.add.reduceat(tokens, np.asarray(offsets)[:-1])
