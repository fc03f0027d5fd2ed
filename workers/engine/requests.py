"""lm-eval's three kinds of requests on the live model: log-likelihood of a continuation, rolling
log-likelihood of a text, generation until a string.

Which tokens are shown and scored is what lm-eval's Hugging Face back end shows and scores, so that
the numbers are its numbers. Requests are plain lists here: nothing imports lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.errors import BadInput, TrialRejected
from services.lm_eval.generation import Generation
from workers.engine.encode import Continuation, Encoder
from workers.engine.model import LiveModel
from workers.engine.score import LOGIT_ROWS, Tick

#: values of the largest table of logits that one forward pass may make (float32: 256 MB)
LOGITS_PER_BATCH = 2**26
#: positions of a model that states no limit, as lm-eval assumes
DEFAULT_POSITIONS = 2048

#: kind, then its arguments: ("loglikelihood", context, continuation),
#: ("loglikelihood_rolling", text), ("generate_until", prompt, generation arguments)
Request = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt to be continued, and the request that it answers."""

    request: int
    ids: list[int]
    how: Generation


@dataclass(frozen=True, kw_only=True)
class RequestPlan:
    """R requests as token ids: what to score, and what to continue."""

    #: kind of each request
    kinds: tuple[str, ...]
    continuations: tuple[Continuation, ...] = field(repr=False)
    #: the request that each continuation belongs to, int64 [C]
    owners: np.ndarray
    prompts: tuple[Prompt, ...] = field(repr=False)
    #: requests that lost tokens on the left
    truncated: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are scored or shown, and the most that may be generated."""
        scored = sum(len(row.ids) - 1 for row in self.continuations)
        return scored + sum(len(prompt.ids) + prompt.how.most for prompt in self.prompts)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One answer a request: (log-likelihood, whether it is the greedy continuation), rolling
    log-likelihood, or text; and the tokens scored or generated for each, int32 [R]."""

    values: list[Any]
    tokens: np.ndarray


def compile_requests(
    requests: Sequence[Request],
    encoder: Encoder,
    *,
    names: Sequence[str],
    where: str,
    truncate: bool = False,
) -> RequestPlan:
    """Token ids of requests; `names` says for messages which item each belongs to.

    Raises BadInput for a request that does not fit the model. `truncate` drops tokens from the left
    of it instead, as lm-eval does.
    """
    shaper = _Shaper(encoder, where, truncate)
    by_kind: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        by_kind.setdefault(request[0], []).append(number)
    rows: list[tuple[int, Continuation]] = []
    prompts: list[Prompt] = []
    for kind, numbers in by_kind.items():
        chosen = [(number, names[number], requests[number][1:]) for number in numbers]
        if kind == "loglikelihood":
            rows += shaper.pairs(chosen)
        elif kind == "loglikelihood_rolling":
            rows += shaper.windows(chosen)
        elif kind == "generate_until":
            prompts += shaper.prompts(chosen)
        else:
            raise BadInput(f"requests of kind {kind!r} are not known", where=where)
    return RequestPlan(
        kinds=tuple(request[0] for request in requests),
        continuations=tuple(row for _, row in rows),
        owners=np.array([number for number, _ in rows], dtype=np.int64),
        prompts=tuple(prompts),
        truncated=shaper.truncated,
    )


#: number of the request, name of its item, arguments
_Chosen = Sequence[tuple[int, str, Sequence[Any]]]


@dataclass
class _Shaper:
    encoder: Encoder
    where: str
    truncate: bool
    #: requests that lost tokens so far
    truncated: int = 0

    def pairs(self, chosen: _Chosen) -> list[tuple[int, Continuation]]:
        """Continuations of contexts: the tokens of the context alone, then those that the whole
        text has beyond so many. White space that ends a context belongs to the continuation."""
        contexts = self.encoder.encode([context.rstrip() for _, _, (context, _) in chosen])
        wholes = self.encoder.encode([context + text for _, _, (context, text) in chosen])
        found = []
        for (number, name, _), context, whole in zip(chosen, contexts, wholes, strict=True):
            at = f"{self.where}, item {name!r}"
            # nothing is left where both melt into one token: that token is scored
            rest = whole[len(context) :]
            ids, start = ([*context, *rest], len(context)) if rest else (whole, len(whole) - 1)
            if start < 1:
                ids, start = [_opening(self.encoder.tokenizer, at), *ids], 1
            cut = max(0, len(ids) - 1 - self.encoder.limit) if self.encoder.limit else 0
            self._check(ids, cut, at)
            found.append((number, Continuation(ids[cut:], max(start - cut, 1))))
        return found

    def _check(self, ids: Sequence[int], cut: int, where: str) -> None:
        if cut and not self.truncate:
            raise BadInput(
                f"needs {len(ids) - 1} positions, the model has {self.encoder.limit}",
                where=where,
                mend="Take fewer examples, or leave the item out: nothing is cut off silently",
            )
        self.truncated += cut > 0
        if len(ids) < 2 or max(ids) >= self.encoder.vocabulary:
            raise BadInput(
                "encodes to nothing, or to tokens that the model does not know",
                where=where,
                mend="Put the tokenizer that belongs to the model beside it",
            )

    def windows(self, chosen: _Chosen) -> list[tuple[int, Continuation]]:
        """Whole texts, the first token after the opening (or end) token; a text that is longer
        than the model is cut into windows that score each token once, the last one as long as the
        others."""
        limit = self.encoder.limit or _stated_length(self.encoder.tokenizer)
        found = []
        encoded = self.encoder.encode([text for _, _, (text,) in chosen])
        for (number, name, _), row in zip(chosen, encoded, strict=True):
            at = f"{self.where}, item {name!r}"
            ids = [_opening(self.encoder.tokenizer, at), *row]
            self._check(ids, 0, at)
            for end in [*range(limit + 1, len(ids), limit), len(ids)]:
                start = max(0, end - limit - 1)
                scored = limit if end < len(ids) else (end - 2) % limit + 1
                found.append((number, Continuation(ids[start:end], end - start - scored)))
        return found

    def prompts(self, chosen: _Chosen) -> list[Prompt]:
        """Prompts with how they are continued."""
        found = []
        encoded = self.encoder.encode([prompt for _, _, (prompt, _) in chosen])
        for (number, name, (_, arguments)), ids in zip(chosen, encoded, strict=True):
            at = f"{self.where}, item {name!r}"
            how = Generation.of(arguments, where=at)
            room = (self.encoder.limit or _stated_length(self.encoder.tokenizer)) - how.most
            ids = ids or [_opening(self.encoder.tokenizer, at)]
            if room < 1 or (len(ids) > room and not self.truncate):
                raise BadInput(
                    f"prompt of {len(ids)} and answer of {how.most} tokens do not fit the model's "
                    f"{self.encoder.limit} positions",
                    where=at,
                    mend="Set a smaller max_gen_toks in the task's generation_kwargs",
                )
            self.truncated += len(ids) > room
            found.append(Prompt(request=number, ids=ids[-room:], how=how))
        return found


def _stated_length(tokenizer: Any) -> int:
    stated = getattr(tokenizer, "model_max_length", None)
    # transformers writes "no limit" as a very large number
    return stated if stated is not None and stated < 10**9 else DEFAULT_POSITIONS


def _opening(tokenizer: Any, where: str) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise BadInput(
        "the tokenizer has neither an opening nor an end token to put before the text",
        where=where,
        mend="Name one in tokenizer_config.json",
    )


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
    done = sum(len(row.ids) - 1 for row in plan.continuations)
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
