"""Running requests in lm-eval's terms through the live model.

Log-likelihoods come with the flag that lm-eval wants beside them: whether the continuation is what
greedy decoding would have said. How requests are put into batches never changes an answer beyond
floating-point noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.errors import TrialRejected
from workers.engine.encode import Continuation
from workers.engine.model import LiveModel
from workers.engine.requests import Prompt, RequestPlan
from workers.engine.score import LOGIT_ROWS, Tick

#: values of the largest table of logits that one forward pass may make (float32: 256 MB)
LOGITS_PER_BATCH = 2**26


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One answer a request: (log-likelihood, whether it is the greedy continuation), rolling
    log-likelihood, or text; and the tokens scored or generated for each, int32 [R]."""

    values: list[Any]
    tokens: np.ndarray


@torch.inference_mode()
def answer_requests(
    model: LiveModel, plan: RequestPlan, *, batch_tokens: int, where: str, tick: Tick
) -> Answers:
    """Run a plan; `tick` gets the tokens done so far. TrialRejected if a score is not finite."""
    values: list[Any] = [None] * len(plan.kinds)
    tokens = np.zeros(len(plan.kinds), dtype=np.int32)
    sums, greedy = score_continuations(
        model, plan.continuations, batch_tokens=batch_tokens, where=where, tick=tick
    )
    lengths = [len(row.ids) - row.start for row in plan.continuations]
    np.add.at(tokens, plan.owners, lengths)
    totals = np.zeros(len(values))
    np.add.at(totals, plan.owners, sums)
    always = np.ones(len(values), dtype=bool)
    np.logical_and.at(always, plan.owners, greedy)
    for number, kind in enumerate(plan.kinds):
        if kind == "loglikelihood":
            values[number] = (float(totals[number]), bool(always[number]))
        elif kind == "loglikelihood_rolling":
            values[number] = float(totals[number])
    done = plan.scored
    for prompts in _prompt_batches(plan.prompts, batch_tokens, not model.takes_positions):
        found = _continued(model, prompts, tick, done)
        for prompt, (text, count) in zip(prompts, found, strict=True):
            values[prompt.request], tokens[prompt.request] = text, count
        done += sum(len(prompt.ids) + prompt.how.most for prompt in prompts)
    return Answers(values=values, tokens=tokens)


def score_continuations(
    model: LiveModel,
    rows: Sequence[Continuation],
    *,
    batch_tokens: int,
    where: str,
    tick: Tick,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each of C continuations, float64 [C], and whether each of its tokens is the
    likeliest one, bool [C]."""
    sums = torch.zeros(len(rows), dtype=torch.float64)
    missed = torch.zeros(len(rows), dtype=torch.int64)
    done = 0
    for chosen in _row_batches(rows, batch_tokens, model.encoder.vocabulary):
        inputs, positions, at, targets, owners = _tensors(rows, chosen)
        logits = model.logits(inputs, positions)
        at, targets = at.to(logits.device), targets.to(logits.device)
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(LOGIT_ROWS)])
        values = logits[at, targets].float() - norms[at]
        sums.index_add_(0, owners, values.double().cpu())
        wrong = logits.argmax(-1)[at] != targets
        missed.index_add_(0, owners, wrong.long().cpu())
        done += sum(len(ids) for ids in chosen)
        tick(done)
    if not bool(sums.isfinite().all()):
        raise TrialRejected(
            "a log-likelihood is not finite",
            where=where,
            mend="The weights overflow in the forward pass: other weights, or float32",
        )
    return sums.numpy(), (missed == 0).numpy()


#: distinct inputs of one forward pass, each with the continuations that it serves
_Rows = dict[tuple[int, ...], list[int]]


def _row_batches(
    rows: Sequence[Continuation], batch_tokens: int, vocabulary: int
) -> Iterator[_Rows]:
    """Continuations with the same input share a row; batches of similar length."""
    groups: _Rows = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row.ids[:-1]), []).append(number)
    waiting: _Rows = {}
    scored = 0
    for ids in sorted(groups, key=lambda ids: (len(ids), ids)):
        mine = len(ids) + 1 - min(rows[number].start for number in groups[ids])
        full = (len(waiting) + 1) * len(ids) > batch_tokens
        if waiting and (full or (scored + mine) * vocabulary > LOGITS_PER_BATCH):
            yield waiting
            waiting, scored = {}, 0
        waiting[ids] = groups[ids]
        scored += mine
    if waiting:
        yield waiting


def _tensors(
    rows: Sequence[Continuation], chosen: _Rows
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs [B, L] padded on the right, positions [M] of the flattened inputs whose logits count,
    and for each of K scored tokens: its row of logits, its id, its continuation."""
    width = max(map(len, chosen))
    inputs = torch.zeros(len(chosen), width, dtype=torch.int64)
    slots: dict[int, int] = {}
    scored: list[tuple[int, int, int]] = []
    for index, (ids, numbers) in enumerate(chosen.items()):
        inputs[index, : len(ids)] = torch.tensor(ids)
        for number in numbers:
            row = rows[number]
            for place in range(row.start, len(row.ids)):
                slot = slots.setdefault(index * width + place - 1, len(slots))
                scored.append((slot, row.ids[place], number))
    at, targets, owners = torch.tensor(scored, dtype=torch.int64).T.contiguous()
    return inputs, torch.tensor(list(slots)), at, targets, owners


def _prompt_batches(
    prompts: Sequence[Prompt], batch_tokens: int, equal_lengths: bool
) -> Iterator[list[Prompt]]:
    waiting: list[Prompt] = []
    for prompt in sorted(prompts, key=lambda p: (len(p.ids), p.how.most)):
        longest = max([prompt.how.most, *(p.how.most for p in waiting)])
        full = (len(waiting) + 1) * (len(prompt.ids) + longest) > batch_tokens
        if waiting and (full or (equal_lengths and len(waiting[0].ids) != len(prompt.ids))):
            yield waiting
            waiting = []
        waiting.append(prompt)
    if waiting:
        yield waiting


def _continued(
    model: LiveModel, prompts: Sequence[Prompt], tick: Tick, done: int
) -> list[tuple[str, int]]:
    """Greedy text after each prompt, cut before its first stop string, and its tokens."""
    width = max(len(prompt.ids) for prompt in prompts)
    inputs = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        inputs[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) :] = True
    tokenizer = model.encoder.tokenizer
    # lm-eval stops at the tokenizer's end token too, whatever the generation config says
    ends = {*model.end_tokens, tokenizer.eos_token_id}
    stopped = [False] * len(prompts)

    def enough(ids: Tensor, scores: Any = None, **_: object) -> Tensor:
        new = ids[:, width:]
        tick(done + new.shape[0] * new.shape[1])
        for row, prompt in enumerate(prompts):
            if not stopped[row]:
                tail = new[row, -prompt.how.looks_back :].tolist()
                text = tokenizer.decode(tail) if prompt.how.until else ""
                full = new.shape[1] >= prompt.how.most
                stopped[row] = full or tail[-1] in ends or prompt.how.stops(text)
        return torch.tensor(stopped, device=ids.device)

    out = model.generate(inputs, mask, max(prompt.how.most for prompt in prompts), enough)
    found = []
    for row, prompt in enumerate(prompts):
        ids = out[row, : prompt.how.most].tolist()
        end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        found.append((prompt.how.cut(text), min(end + 1, len(ids))))
    return found
