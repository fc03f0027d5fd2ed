"""Running a compiled suite through the live model: log-likelihoods, greedy answers, predictions.

How items are put into batches never changes an answer beyond floating-point noise. A score that is
not finite rejects the candidate; nothing here stores or sends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optim.predictions import answer_hash, option_log_probabilities
from optim.refusal import refuses
from services.errors import TrialRejected
from services.suites import Item, Suite
from workers.engine.compile import LikelihoodPlan
from workers.engine.generate import GenerationPlan, Tick, greedy_answers
from workers.engine.model import LiveModel

#: rows of logits that are widened to float32 at a time
LOGIT_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Per-item results of N items; arrays that do not apply to the form are absent."""

    #: correct bool, answer uint64, margin float32, nll float32, tokens int32: each [N]; options
    #: float16 [N, K]
    arrays: dict[str, np.ndarray]
    #: generated answers
    texts: list[str] | None
    #: tokens that went through the model
    tokens: int


def score_suite(
    model: LiveModel,
    suite: Suite,
    items: Sequence[Item],
    plan: LikelihoodPlan | GenerationPlan,
    tick: Tick,
) -> Scores:
    """Score `items` of `suite` by the plan compiled from them; TrialRejected if not finite."""
    if isinstance(plan, GenerationPlan):
        score = _score_refusal if suite.form == "refusal" else _score_exact
        return score(model, items, plan, tick)
    sums = log_likelihoods(model, plan, f"suite {suite.name!r}", tick)
    if suite.form == "text":
        arrays = {"nll": (-sums).astype(np.float32), "tokens": plan.lengths}
        return Scores(arrays=arrays, texts=None, tokens=plan.tokens)
    return _score_choice(suite, items, plan, sums)


@torch.inference_mode()
def log_likelihoods(
    model: LiveModel,
    plan: LikelihoodPlan,
    where: str,
    tick: Tick,
    missed: Tensor | None = None,
) -> np.ndarray:
    """Log-likelihood of every request, float64 [R], nats; TrialRejected if one is not finite.

    `missed`, int64 [R], goes up by the scored tokens that are not the likeliest ones.
    """
    sums = torch.zeros(len(plan.lengths), dtype=torch.float64)
    done = 0
    for scored in plan.scored:
        logits = model.logits(scored.batch)
        norms = torch.cat([rows.float().logsumexp(-1) for rows in logits.split(LOGIT_ROWS)])
        at, targets = scored.at.to(logits.device), scored.targets.to(logits.device)
        values = logits[at, targets].float() - norms[at]
        sums.index_add_(0, scored.requests, values.double().cpu())
        if missed is not None:
            wrong = logits.argmax(-1)[at] != targets
            missed.index_add_(0, scored.requests, wrong.long().cpu())
        done += scored.batch.tokens
        tick(done)
    if not bool(sums.isfinite().all()):
        raise TrialRejected(
            "a log-likelihood is not finite",
            where=where,
            mend="The weights overflow in the forward pass: other weights, or float32",
        )
    return sums.numpy()


def _score_choice(
    suite: Suite, items: Sequence[Item], plan: LikelihoodPlan, sums: np.ndarray
) -> Scores:
    """The option of the highest log-likelihood (over its length if normalised), first if equal."""
    answers, margins, options = [], [], []
    for number, item in enumerate(items):
        scores = sums[plan.offsets[number] : plan.offsets[number + 1]] / suite.lengths(item)
        answers.append(int(scores.argmax()))
        margins.append(scores[item.gold] - np.delete(scores, item.gold).max())
        options.append(scores)
    gold = np.array([item.gold for item in items])
    per_item = np.add.reduceat(plan.lengths, plan.offsets[:-1]) if len(items) else plan.lengths
    arrays = {
        "correct": np.array(answers) == gold,
        "answer": np.array(answers, dtype=np.uint64),
        "margin": np.array(margins, dtype=np.float32),
        "options": option_log_probabilities(options, max(len(i.choices) for i in suite.items)),
        "tokens": per_item.astype(np.int32),
    }
    return Scores(arrays=arrays, texts=None, tokens=plan.tokens)


def _score_exact(
    model: LiveModel, items: Sequence[Item], plan: GenerationPlan, tick: Tick
) -> Scores:
    found, spent = greedy_answers(model, plan, tick)
    texts = [
        first_line(model.answer_text(ids), item.target)
        for ids, item in zip(found, items, strict=True)
    ]
    answers = [answer_hash(text) for text in texts]
    golds = [answer_hash(item.target) for item in items]
    arrays = {
        "correct": np.array([a == gold for a, gold in zip(answers, golds, strict=True)]),
        "answer": np.array(answers, dtype=np.uint64),
        "tokens": np.array([len(ids) for ids in found], dtype=np.int32),
    }
    return Scores(arrays=arrays, texts=texts, tokens=spent)


def _score_refusal(
    model: LiveModel, items: Sequence[Item], plan: GenerationPlan, tick: Tick
) -> Scores:
    """Whether each answer refuses, by how it begins; right where that was expected."""
    found, spent = greedy_answers(model, plan, tick)
    texts = [model.answer_text(ids) for ids in found]
    refused = np.array([refuses(text) for text in texts])
    arrays = {
        "correct": refused == np.array([item.expect == "refuse" for item in items]),
        "answer": refused.astype(np.uint64),
        "tokens": np.array([len(ids) for ids in found], dtype=np.int32),
    }
    return Scores(arrays=arrays, texts=texts, tokens=spent)


def joined(
    parts: Sequence[tuple[np.ndarray, Scores]],
) -> Scores:
    """The scores of all items from those of parts; each with the places of its items."""
    count = sum(len(items) for items, _ in parts)
    first = parts[0][1]
    arrays = {
        name: np.empty((count, *array.shape[1:]), array.dtype)
        for name, array in first.arrays.items()
    }
    texts = None if first.texts is None else [""] * count
    for items, scores in parts:
        for name, array in scores.arrays.items():
            arrays[name][items] = array
        if texts is not None and scores.texts is not None:
            for at, text in zip(items.tolist(), scores.texts, strict=True):
                texts[at] = text
    return Scores(arrays=arrays, texts=texts, tokens=sum(s.tokens for _, s in parts))


def first_line(text: str, target: str) -> str:
    """An answer ends with its first line, unless the target itself has several: base models go on
    with the next example instead of ending."""
    return text if "\n" in target.strip() else text.split("\n", 1)[0].rstrip()
