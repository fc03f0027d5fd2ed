"""Greedy answers: those that other candidates gave are checked in one pass, the rest is generated.

Candidates of one pool mostly agree. An answer that an earlier candidate gave is put behind its
prompt, and one forward pass says how far greedy decoding would have gone the same way; only from
there on are tokens generated one by one. The answer is the greedy one either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.encode import Prompt
from workers.engine.model import LiveModel
from workers.engine.tree import Batch, Sharing, batch_rows

#: sets of earlier answers that are checked: one more pass for each
DRAFT_SETS = 4
#: answers are remembered when fewer than this share of them were known
KNOWN_ENOUGH = 0.9

#: called after each forward pass with the tokens done so far; raises to abort
Tick = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Drafts:
    """Answers that one candidate gave and no earlier one, as forward passes over the prompts with
    those answers behind them."""

    batches: tuple[Batch, ...]
    #: the (item, answer) pairs of each row of the batches
    rows: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]

    def of(self, batch: Batch) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
        """(item, answer [T], slots int64 [T]) of every answer in one of the batches."""
        for row, slots in batch.rows:
            for item, answer in self.rows[row]:
                yield item, answer, torch.from_numpy(slots[len(slots) - len(answer) :])


class GenerationPlan:
    """N prompts, and the answers that are known so far."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_tokens: int,
        generation_tokens: int,
        vocabulary: int,
        sharing: Sharing,
        equal_lengths: bool,
    ) -> None:
        self.prompts = tuple(prompts)
        self.batch_tokens, self.generation_tokens = batch_tokens, generation_tokens
        self.vocabulary = vocabulary
        self.sharing, self.equal_lengths = sharing, equal_lengths
        #: oldest first; each has its own batches, so that what is kept of them stays valid
        self.drafts: list[Drafts] = []
        self._candidates = 0

    @property
    def tokens(self) -> int:
        """Prompt tokens, plus the most that may be generated."""
        return sum(len(prompt.ids) + prompt.most for prompt in self.prompts)

    def learn(self, answers: Sequence[tuple[int, ...]], known: int) -> list[int]:
        """Remember answers if too few were known; keys of batches that will not come again.

        After candidates 1, 2, 4, 8, … only: a new set costs a pass over its rows from the bottom.
        """
        self._candidates += 1
        later = self._candidates & (self._candidates - 1)
        if later or known >= KNOWN_ENOUGH * len(answers):
            return []
        old = {pair for drafts in self.drafts for row in drafts.rows for pair in row}
        new = [pair for pair in enumerate(answers) if pair not in old]
        self.drafts.append(self._drafts(new))
        dropped = self.drafts.pop(0).batches if len(self.drafts) > DRAFT_SETS else ()
        return [batch.key for batch in dropped]

    def part(self, items: Sequence[int]) -> GenerationPlan:
        """A plan for some of the prompts, which knows the answers to them that this one knows."""
        plan = GenerationPlan(
            [self.prompts[item] for item in items],
            batch_tokens=self.batch_tokens,
            generation_tokens=self.generation_tokens,
            vocabulary=self.vocabulary,
            sharing=self.sharing,
            equal_lengths=self.equal_lengths,
        )
        place = {item: number for number, item in enumerate(items)}
        for drafts in self.drafts:
            pairs = [pair for row in drafts.rows for pair in row if pair[0] in place]
            if pairs:
                plan.drafts.append(plan._drafts([(place[item], a) for item, a in pairs]))
        plan._candidates = self._candidates
        return plan

    def _drafts(self, pairs: Sequence[tuple[int, tuple[int, ...]]]) -> Drafts:
        rows: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for item, answer in pairs:
            row = (*self.prompts[item].ids, *answer[:-1])
            rows.setdefault(row, []).append((item, answer))
        batches = batch_rows(
            list(rows),
            [min(len(self.prompts[i].ids) for i, _ in row) - 1 for row in rows.values()],
            batch_tokens=self.batch_tokens,
            vocabulary=self.vocabulary,
            sharing=self.sharing,
        )
        return Drafts(tuple(batches), tuple(map(tuple, rows.values())))


@torch.inference_mode()
def greedy_answers(
    model: LiveModel, plan: GenerationPlan, tick: Tick
) -> tuple[list[tuple[int, ...]], int]:
    """The greedy continuation of each prompt (end token included), and tokens through the model."""
    answers, spent = _check(model, plan, tick)
    ends = model.end_tokens
    open_items = [
        item
        for item, answer in enumerate(answers)
        if len(answer) < plan.prompts[item].most and not (answer and answer[-1] in ends)
    ]
    known = len(answers) - len(open_items)
    sizes = [
        (
            len(plan.prompts[item].ids) + len(answers[item]),
            plan.prompts[item].most - len(answers[item]),
        )
        for item in open_items
    ]
    for batch in generation_batches(
        sizes, plan.generation_tokens, equal_lengths=plan.equal_lengths
    ):
        items = [open_items[index] for index in batch]
        spent += _generate(model, plan, answers, items, tick, spent)
    model.forget(plan.learn(answers, known))
    return answers, spent


def _check(model: LiveModel, plan: GenerationPlan, tick: Tick) -> tuple[list[tuple[int, ...]], int]:
    """As much of every answer as the drafts settle: what they have right, and one token more."""
    answers: list[tuple[int, ...]] = [()] * len(plan.prompts)
    done = 0
    for drafts in plan.drafts:
        for batch in drafts.batches:
            best = model.logits(batch).argmax(-1).cpu()
            for item, draft, slots in drafts.of(batch):
                greedy = best[slots].tolist()
                same = [a == b for a, b in zip(draft, greedy, strict=True)]
                right = same.index(False) if False in same else len(same)
                found = _ended(tuple(greedy[: right + 1]), model.end_tokens)
                if len(found) > len(answers[item]):
                    answers[item] = found
            done += batch.tokens
            tick(done)
    return answers, done


def _ended(ids: tuple[int, ...], ends: Iterable[int]) -> tuple[int, ...]:
    at = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: at + 1]


def generation_batches(
    sizes: Sequence[tuple[int, int]], most_tokens: int, *, equal_lengths: bool
) -> Iterator[list[int]]:
    """Indices of rows that are continued together: of similar length, as many as fit.

    `sizes` are (tokens, most that may be generated) of each row; `equal_lengths` puts only rows of
    one length together.
    """
    waiting: list[int] = []
    longest = 0
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        length, most = sizes[index]
        full = (len(waiting) + 1) * (length + max(longest, most)) > most_tokens
        if waiting and (full or (equal_lengths and sizes[waiting[0]][0] != length)):
            yield waiting
            waiting, longest = [], 0
        waiting.append(index)
        longest = max(longest, most)
    if waiting:
        yield waiting


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids with pads before them: inputs int64 [B, L], mask bool [B, L] (False: pad)."""
    width = max(map(len, rows))
    inputs = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        inputs[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = True
    return inputs, mask


def _generate(
    model: LiveModel,
    plan: GenerationPlan,
    answers: list[tuple[int, ...]],
    items: Sequence[int],
    tick: Tick,
    done: int,
) -> int:
    """Finish the answers of `items`; tokens through the model."""
    rows = [(*plan.prompts[item].ids, *answers[item]) for item in items]
    inputs, mask = left_padded(rows)
    width = inputs.shape[1]
    left = [plan.prompts[item].most - len(answers[item]) for item in items]
    most = torch.tensor(left, device=model.device)
    prompt_tokens = int(mask.sum())

    def enough(ids: Tensor, *_: object, **__: object) -> Tensor:
        tick(done + ids.shape[0] * (ids.shape[1] - width))
        return most <= ids.shape[1] - width

    new = model.generate(inputs, mask, max(left), enough)
    made = 0
    for index, item in enumerate(items):
        ids = _ended(tuple(new[index, : left[index]].tolist()), model.end_tokens)
        answers[item] = (*answers[item], *ids)
        made += len(ids)
    tick(done + prompt_tokens + made)
    return prompt_tokens + made
