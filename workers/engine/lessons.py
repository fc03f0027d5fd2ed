"""What a descent shows the model in one step: some items of one suite, and the loss on them.

Items come from the search split alone. Batches are made once and come again in every epoch, so that
lower blocks which no candidate changes need not be computed again. Heads are not used: a gradient
has to go through everything that is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optim.descent import losses
from optim.descent.job import Job, Task
from services.errors import BadInput
from services.suites import Item, Suite
from workers.engine.compile import LikelihoodPlan, compile_requests
from workers.engine.encode import Continuation
from workers.engine.model import LiveModel
from workers.engine.tree import Batch, batch_rows

#: called after every forward pass; raises to stop
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Items whose loss is a function of log-likelihoods, one per request."""

    items: int
    plan: LikelihoodPlan
    #: float64 [R]: what each log-likelihood is divided by
    lengths: Tensor
    #: int64 [I]: the right option of each item; None: no item has options
    golds: Tensor | None
    supervised: bool

    @property
    def batches(self) -> list[Batch]:
        """The forward passes."""
        return [scored.batch for scored in self.plan.scored]

    def loss(self, sums: Tensor) -> Tensor:
        """The loss for log-likelihoods float64 [R]."""
        if self.golds is None:
            return -sums.sum() / int(self.plan.lengths.sum())
        shares = losses.options(sums, self.plan.offsets, self.lengths)
        return (
            losses.right_option(shares, self.golds)
            if self.supervised
            else losses.indecision(shares)
        )

    def go(self, model: LiveModel, weight: float, tick: Tick) -> float:
        """The loss; `weight` times its gradient goes into the model's parameters.

        All passes forwards come first, because options of one item may lie in several; each then
        goes backwards by itself, so that gradients of one pass alone exist at a time.
        """
        parts = []
        sums = torch.zeros(len(self.plan.lengths), dtype=torch.float64)
        for scored in self.plan.scored:
            logits = model.logits(scored.batch)
            at, targets = scored.at.to(logits.device), scored.targets.to(logits.device)
            values = logits[at, targets].float() - logits.float().logsumexp(-1)[at]
            sums.index_add_(0, scored.requests, values.detach().double().cpu())
            parts.append((values, scored.requests))
            tick()
        sums.requires_grad_()
        loss = self.loss(sums)
        (slopes,) = torch.autograd.grad(loss, sums)
        while parts:
            values, requests = parts.pop()
            values.backward((weight * slopes[requests]).to(values.device, values.dtype))
            del values
            tick()
        return float(loss.detach())


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """Texts whose loss is a mean over their positions: imitation of a teacher, or indecision."""

    items: int
    batches: list[Batch]
    #: float32 [M] of every batch: in how many of the texts each position stands
    counts: list[Tensor]
    teacher: int | None
    temperature: float
    mse: float

    @torch.no_grad()
    def listen(self, model: LiveModel, tick: Tick) -> list[Tensor]:
        """Logits of the teacher, who is the live model now: [M, V] of every batch."""
        found = []
        for batch in self.batches:
            found.append(model.logits(batch))
            tick()
        return found

    def go(
        self, model: LiveModel, weight: float, tick: Tick, taught: Sequence[Tensor] = ()
    ) -> float:
        """The loss; `weight` times its gradient goes into the model's parameters."""
        count = sum(float(mine.sum()) for mine in self.counts)
        total = 0.0
        for number, batch in enumerate(self.batches):
            logits = model.logits(batch)
            tick()
            if self.teacher is None:
                values = losses.token_entropy(logits)
            else:
                values = losses.imitation(
                    logits, taught[number], temperature=self.temperature, mse=self.mse
                )
            loss = values @ self.counts[number].to(values.device)
            (weight / count * loss).backward()
            total += float(loss.detach())
            tick()
        return total / count


Lesson = Scored | Read


@dataclass(frozen=True, kw_only=True)
class Course:
    """All lessons of one task: each of its items in one of them."""

    task: Task
    number: int
    seed: int
    lessons: tuple[Lesson, ...] = field(repr=False)

    def lesson(self, step: int) -> Lesson:
        """The lesson of a step: every epoch has them all, in an order of its own."""
        epoch, place = divmod(step, len(self.lessons))
        order = np.random.default_rng([self.seed, self.number, epoch, 1])
        return self.lessons[int(order.permutation(len(self.lessons))[place])]

    @property
    def keys(self) -> list[int]:
        """What the model may have kept something under."""
        return [batch.key for lesson in self.lessons for batch in lesson.batches]


def make_course(
    job: Job, number: int, suite: Suite, model: LiveModel, *, batch_tokens: int
) -> Course:
    """The lessons of task `number` of a job, on the search split of its suite.

    BadInput names an item that does not fit, or a suite that has no loss.
    """
    task = job.tasks[number]
    if suite.task is not None:
        raise BadInput(
            "is judged by lm-eval, whose metrics have no gradient",
            where=f"suite {suite.name!r}",
            mend="Leave it out, or use a search method that needs no gradient",
        )
    if suite.form == "refusal":
        raise BadInput(
            "whether an answer refuses has no gradient",
            where=f"suite {suite.name!r}",
            mend="Add it as a choice suite: remelt suite add --refusal-likelihood",
        )
    items = suite.split("search")
    order = np.random.default_rng([job.seed, number, 0]).permutation(len(items))
    shuffled = [items[i] for i in order]
    make = _read if _by_position(task, suite) else _scored
    chunks = [shuffled[i : i + job.batch] for i in range(0, len(shuffled), job.batch)]
    sharing = replace(model.sharing, heads=False)
    more = {"batch_tokens": batch_tokens, "sharing": sharing}
    more["vocabulary"] = model.encoder.vocabulary
    return Course(
        task=task,
        number=number,
        seed=job.seed,
        lessons=tuple(make(job, task, suite, chunk, model, more) for chunk in chunks),
    )


def _by_position(task: Task, suite: Suite) -> bool:
    return task.loss == "imitate" or (task.loss == "entropy" and suite.form != "choice")


def _continuations(
    suite: Suite, items: Sequence[Item], model: LiveModel
) -> list[list[Continuation]]:
    """Options of every item; an exact item's only one is its target, a text is one by itself."""
    where = f"suite {suite.name!r}"
    if suite.form == "text":
        return [[text] for text in model.encoder.texts(items, where)]
    if suite.form == "exact":
        items = [
            Item(id=item.id, context=item.prompt, choices=(item.target,), gold=0) for item in items
        ]
    return model.encoder.choices(items, where)


def _scored(
    job: Job, task: Task, suite: Suite, items: Sequence[Item], model: LiveModel, more: Any
) -> Scored:
    options = _continuations(suite, items, model)
    requests = [one for mine in options for one in mine]
    choice = suite.form == "choice"
    lengths = [length for item in items for length in suite.lengths(item)]
    return Scored(
        items=len(items),
        plan=compile_requests(requests, offsets=np.cumsum([0, *map(len, options)]), **more),
        lengths=torch.tensor(lengths, dtype=torch.float64),
        golds=torch.tensor([item.gold for item in items]) if choice else None,
        supervised=task.loss == "supervised",
    )


def _read(
    job: Job, task: Task, suite: Suite, items: Sequence[Item], model: LiveModel, more: Any
) -> Read:
    """What is unlabelled of the items: contexts, prompts, whole texts."""
    firsts = [mine[0] for mine in _continuations(suite, items, model)]
    if suite.form == "text":
        rows = [tuple(one.ids[:-1]) for one in firsts if len(one.ids) > 1]
    else:
        rows = [tuple(one.ids[: one.start]) for one in firsts]
    times = Counter(rows)
    # what an answer begins with; of texts, and to imitate, everything counts
    last = task.loss == "entropy" and suite.form == "exact"
    wanted = [len(row) - 1 if last else 0 for row in times]
    batches = batch_rows(list(times), wanted, **more)
    return Read(
        items=len(items),
        batches=batches,
        counts=[_counts(batch, list(times.values())) for batch in batches],
        teacher=task.teacher,
        temperature=job.temperature,
        mse=job.mse,
    )


def _counts(batch: Batch, times: Sequence[int]) -> Tensor:
    found = np.zeros(len(batch.positions), dtype=np.float32)
    for row, slots in batch.rows:
        np.add.at(found, slots, times[row])
    return torch.from_numpy(found)
