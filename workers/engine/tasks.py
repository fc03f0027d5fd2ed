"""Suites made from lm-eval tasks with rules of their own: the live model answers what the task
asks, the task's own filters and metrics judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.lm_eval.judge import Judge
from services.suites import Item, Suite
from workers.engine.answer import answer_requests
from workers.engine.encode import Encoder
from workers.engine.model import LiveModel
from workers.engine.requests import RequestPlan, compile_requests
from workers.engine.score import Scores, Tick


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """What N items ask, as token ids, and who judges the answers."""

    requests: RequestPlan
    #: first request of each item, and the end: int64 [N+1]
    offsets: np.ndarray
    judge: Judge
    batch_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens that are shown, and the most that may be generated."""
        return self.requests.tokens


def compile_task(
    suite: Suite, items: Sequence[Item], encoder: Encoder, *, batch_tokens: int
) -> TaskPlan:
    """Tokenise `items` of a suite that has a task; BadInput for an item that does not fit."""
    asked = [item.asked["requests"] for item in items if item.asked is not None]
    plan = compile_requests(
        [request for requests in asked for request in requests],
        encoder,
        names=[i.id for i, requests in zip(items, asked, strict=True) for _ in requests],
        where=f"suite {suite.name!r}",
    )
    return TaskPlan(
        requests=plan,
        offsets=np.cumsum([0, *map(len, asked)]),
        judge=Judge(suite),
        batch_tokens=batch_tokens,
    )


def score_task(
    model: LiveModel, suite: Suite, items: Sequence[Item], plan: TaskPlan, tick: Tick
) -> Scores:
    """Score `items` by the plan compiled from them; TrialRejected if a score is not finite."""
    found = answer_requests(
        model,
        plan.requests,
        batch_tokens=plan.batch_tokens,
        where=f"suite {suite.name!r}",
        tick=tick,
    )
    bounds = list(zip(plan.offsets[:-1], plan.offsets[1:], strict=True))
    arrays, texts = plan.judge(items, [found.values[start:end] for start, end in bounds])
    # of a text suite, `tokens` are the units that its metric divides by
    per_item = np.array([found.tokens[start:end].sum() for start, end in bounds], dtype=np.int32)
    return Scores(arrays={"tokens": per_item, **arrays}, texts=texts, tokens=plan.tokens)
