"""Suites made from lm-eval tasks with rules of their own: the live model answers what the task
asks, the task's own filters and metrics judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.lm_eval.judge import Judge
from services.suites import Item, Suite
from workers.engine.answer import RequestPlan, answer_requests, plan_requests
from workers.engine.generate import Tick
from workers.engine.model import LiveModel
from workers.engine.requests import encode_requests
from workers.engine.score import Scores


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """What N items ask, as forward passes, and who judges the answers."""

    requests: RequestPlan
    #: first request of each item, and the end: int64 [N+1]
    offsets: np.ndarray
    judge: Judge

    @property
    def tokens(self) -> int:
        """Tokens that are shown, and the most that may be generated."""
        return self.requests.tokens


def compile_task(
    suite: Suite,
    items: Sequence[Item],
    model: LiveModel,
    *,
    batch_tokens: int,
    generation_tokens: int | None = None,
) -> TaskPlan:
    """Tokenise and batch `items` of a suite that has a task; BadInput for one that does not fit.

    The model must have been told to `begin`.
    """
    asked = [item.asked["requests"] for item in items if item.asked is not None]
    encoded = encode_requests(
        [request for requests in asked for request in requests],
        model.encoder,
        names=[i.id for i, requests in zip(items, asked, strict=True) for _ in requests],
        where=f"suite {suite.name!r}",
    )
    return TaskPlan(
        requests=plan_requests(
            encoded, model, batch_tokens=batch_tokens, generation_tokens=generation_tokens
        ),
        offsets=np.cumsum([0, *map(len, asked)]),
        judge=Judge(suite),
    )


def score_task(
    model: LiveModel, suite: Suite, items: Sequence[Item], plan: TaskPlan, tick: Tick
) -> Scores:
    """Score `items` by the plan compiled from them; TrialRejected if a score is not finite."""
    found = answer_requests(model, plan.requests, where=f"suite {suite.name!r}", tick=tick)
    bounds = list(zip(plan.offsets[:-1], plan.offsets[1:], strict=True))
    arrays, texts = plan.judge(items, [found.values[start:end] for start, end in bounds])
    # of a text suite, `tokens` are the units that its metric divides by
    per_item = np.array([found.tokens[start:end].sum() for start, end in bounds], dtype=np.int32)
    return Scores(arrays={"tokens": per_item, **arrays}, texts=texts, tokens=plan.tokens)
