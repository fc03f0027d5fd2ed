"""Scoring an evaluation's suites: one after the other, or the blocks of some of them in an order
drawn for this candidate, each sent to the client as it is finished.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.suites import Item, Suite
from workers.engine.blocks import Block, Blocks
from workers.engine.compile import LikelihoodPlan
from workers.engine.generate import GenerationPlan
from workers.engine.model import LiveModel
from workers.engine.score import Scores, joined, score_suite
from workers.engine.session import Session
from workers.engine.tasks import TaskPlan, score_task

Plan = LikelihoodPlan | GenerationPlan | TaskPlan
#: what is sent of a block: the answers that a race looks at
BLOCK_ARRAYS = ("correct", "answer", "margin")


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """One suite of an evaluation under the name that the client gave it; with blocks, these are
    scored in the drawn order."""

    name: str
    suite: Suite
    items: tuple[Item, ...]
    plan: Plan
    blocks: Blocks | None = None


class Scoring:
    """Scores the suites of one evaluation of one candidate. All ranks do the same."""

    def __init__(self, session: Session, model: LiveModel, work: Sequence[Work]) -> None:
        self._session, self._model, self._work = session, model, work
        self._total = sum(one.plan.tokens for one in work)
        self._before = 0
        #: tokens that went through the model so far
        self.tokens = 0

    def run(self, seed: int) -> int:
        """Everything; tokens that went through the model. The suites that are in blocks run where
        the first of them stands."""
        raced = [one for one in self._work if one.blocks is not None]
        for one in self._work:
            if one.blocks is None:
                self._whole(one)
            elif one is raced[0]:
                self._in_order(raced, seed)
        return self.tokens

    def _whole(self, work: Work) -> None:
        started = time.monotonic()
        scores = self._scored(work, work.items, work.plan)
        self._send(work, scores, time.monotonic() - started)

    def _in_order(self, raced: Sequence[Work], seed: int) -> None:
        pairs = [(one, block) for one in raced for block in _blocks(one)]
        order = np.random.default_rng(seed).permutation(len(pairs))
        drawn = [pairs[at] for at in order]
        self._session.send(
            "order",
            {
                "sizes": np.array([len(block.items) for _, block in drawn], dtype=np.int32),
                "items": np.concatenate([block.items for _, block in drawn]),
            },
            suites=[one.name for one, _ in drawn],
        )
        self._model.heads_kept = 1 + sum(one.blocks.heads for one in raced if one.blocks)
        found: dict[str, list[tuple[np.ndarray, Scores]]] = {one.name: [] for one in raced}
        seconds = dict.fromkeys(found, 0.0)
        for number, (one, block) in enumerate(drawn):
            started = time.monotonic()
            items = [one.items[at] for at in block.items]
            scores = self._scored(one, items, block.plan)
            found[one.name].append((block.items, scores))
            seconds[one.name] += time.monotonic() - started
            arrays = {name: scores.arrays[name] for name in BLOCK_ARRAYS if name in scores.arrays}
            self._session.send("block", arrays, block=number, tokens=self.tokens)
            if len(found[one.name]) == len(_blocks(one)):
                self._send(one, joined(found.pop(one.name)), seconds[one.name])
                found[one.name] = []

    def _scored(self, work: Work, items: Sequence[Item], plan: Plan) -> Scores:
        def tick(done: int) -> None:
            self._session.tell("score", self._before + done, self._total, work.name)

        def score() -> Scores:
            if isinstance(plan, TaskPlan):
                return score_task(self._model, work.suite, items, plan, tick)
            return score_suite(self._model, work.suite, items, plan, tick)

        scores = self._session.group.agreed(score)
        self._before += plan.tokens
        self.tokens += scores.tokens
        return scores

    def _send(self, work: Work, scores: Scores, seconds: float) -> None:
        self._session.send(
            "suite",
            scores.arrays,
            suite=work.name,
            texts=scores.texts,
            tokens=scores.tokens,
            seconds=seconds,
        )


def _blocks(work: Work) -> tuple[Block, ...]:
    assert work.blocks is not None
    return work.blocks.blocks
