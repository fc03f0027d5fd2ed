"""A descent on the resident pool: steps of Adam on coefficients, in the live model's own buffer.

Each parameter that differs between the parents takes part in the backward pass; as soon as its
gradient is there it is multiplied with the parents' values and forgotten, so that memory holds one
weight's gradient at a time, however many parents there are. All ranks run the same steps on the
same items; under ZeRO-3 each multiplies what it holds, and the products are summed over the ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from optim.descent.adam import State, adam
from optim.descent.blocks import Blocks, regularised
from optim.descent.job import Job
from optim.descent.reduce import coefficient_gradient
from optim.recipe import Recipe
from services.errors import BadInput, TrialRejected
from services.suites import Suite
from workers.engine.candidate import Candidate
from workers.engine.gradients import Hook, Moving
from workers.engine.lessons import Course, Read, make_course
from workers.engine.lower import FROZEN
from workers.engine.resident import Parent
from workers.engine.work import Work

#: share of a step in the running mean of the loss, which is only shown
SHOWN_SHARE = 0.1


class Descent:
    """One descent of a job over the pool of a candidate, which afterwards holds no recipe.

    `suites` by name. Raises BadInput for a job that this pool, these suites or this way to spread
    a model cannot serve.
    """

    def __init__(
        self,
        job: Job,
        candidate: Candidate,
        suites: Mapping[str, Suite],
        *,
        batch_tokens: int,
        tell: Callable[[int, int], None],
    ) -> None:
        self.job, self.candidate, self.group = job, candidate, candidate.group
        self._tell = tell
        self.model = candidate.become(self._uniform(), unless_held=True)
        if self.model.spread == "tensor":
            raise BadInput(
                "DeepSpeed's tensor parallelism has no backward pass here",
                where="settings",
                mend="Set REMELT_ENGINE_PARALLEL=zero3, or REMELT_ENGINE_RANKS=1",
            )
        candidate.begin(self._uniform())
        self.parents = self._parents()
        self.moving = self._moving()
        self.courses = self.group.agreed(
            lambda: [
                make_course(job, i, suites[task.suite], self.model, batch_tokens=batch_tokens)
                for i, task in enumerate(job.tasks)
            ]
        )
        self.steps = job.steps or max(len(course.lessons) for course in self.courses)
        self._formed = 0
        self._sum = torch.zeros(self.blocks.size, dtype=torch.float64, device=self.model.device)

    def _uniform(self) -> Recipe:
        n = len(self.job.parents)
        return Recipe(parents=self.job.parents, weights=(1 / n,) * n, dtype=self.job.dtype)

    def _parents(self) -> list[Parent]:
        assert self.candidate.pool is not None
        return self.candidate.pool.parents_of(self._uniform())

    def _moving(self) -> list[Moving]:
        pool = self.candidate.pool
        assert pool is not None
        slots = [slot for slot in pool.layout.slots if slot.name not in pool.identical]
        columns = {slot.name: slot.whole[-1] if slot.whole else 1 for slot in slots}
        self.counts = {slot.name: prod(slot.whole) for slot in slots}
        try:
            self.blocks = Blocks.of(self.job, columns)
        except ValueError as error:
            raise BadInput(str(error), where="descent", mend="Give other checkpoints") from error
        return [
            Moving(
                slot=slot,
                block=self.blocks.index[slot.name],
                pieces=[parent.pieces[slot.name] for parent in self.parents],
            )
            for slot in slots
        ]

    def run(self, state: State | None, save: Callable[[State], None]) -> State:
        """All steps that are left, from `state` or the beginning; `save` gets every step's.

        Raises TrialRejected when a loss or the weights are not finite, Stop if told to.
        """
        state = state or State.begin(self.blocks.start(self.job.start))
        if state.values.shape[1] != self.blocks.size:
            raise BadInput(
                f"the stored state has {state.values.shape[1]} coefficients, not "
                f"{self.blocks.size}",
                where="descent",
                mend="The pool is another one than it was: start the study again",
            )
        began, spent = time.monotonic(), state.seconds
        # what the buffers hold is no recipe's candidate from here on
        self.candidate.held = None
        try:
            with self.watched():
                while state.step < self.steps:
                    state, loss = self._step(state)
                    if state.loss is not None:
                        loss = state.loss + SHOWN_SHARE * (loss - state.loss)
                    seconds = spent + time.monotonic() - began
                    state = replace(state, loss=loss, seconds=seconds)
                    save(state)
        finally:
            for course in self.courses:
                self.model.forget(course.keys)
        return state

    def _step(self, state: State) -> tuple[State, float]:
        loss, gradient, spent = self.slope(state.x, state.step)
        more, slope = regularised(
            self.blocks, state.x, similarity=self.job.similarity, l1=self.job.l1, l2=self.job.l2
        )
        rate = self.job.rate * (1 - state.step / self.steps)
        moved = adam(state, self.blocks.tangent(gradient + slope), rate)
        values = moved.values
        values[0] = self.blocks.project(values[0])
        items, taught, tokens = spent
        counted = replace(
            moved,
            values=values,
            items=moved.items + items,
            taught=moved.taught + taught,
            tokens=moved.tokens + tokens,
        )
        return counted, loss + more

    def slope(self, x: np.ndarray, step: int) -> tuple[float, np.ndarray, tuple[int, int, int]]:
        """(loss of the step's lessons at x, its gradient [size], (items, items that were taught,
        tokens)). Only inside `watched`."""
        lessons = [
            (course, course.lesson(step)) for course in self.courses if course.task.weight > 0
        ]
        taught = self._listen(lessons, step)
        self._form(x)
        self._sum.zero_()
        total, items, tokens = 0.0, 0, 0

        def tick() -> None:
            self._tell(step, self.steps)

        for number, (course, lesson) in enumerate(lessons):
            weight = course.task.weight
            if isinstance(lesson, Read):
                loss = lesson.go(self.model, weight, tick, taught.get(number, ()))
            else:
                loss = lesson.go(self.model, weight, tick)
            total += weight * loss
            items += lesson.items
            tokens += sum(batch.tokens for batch in lesson.batches)
        if self.group.world > 1:
            dist.all_reduce(self._sum)
        gradient = self._sum.cpu().numpy().copy()
        if not np.isfinite(total) or not np.isfinite(gradient).all():
            raise TrialRejected(
                f"the loss or its gradient is not finite in step {step}",
                where="descent",
                mend="Use a smaller rate, a smaller space, or float32",
            )
        heard = [lessons[number][1] for number in taught]
        tokens += sum(batch.tokens for lesson in heard for batch in lesson.batches)
        return total, gradient, (items, sum(lesson.items for lesson in heard), tokens)

    def _listen(
        self, lessons: Sequence[tuple[Course, object]], step: int
    ) -> dict[int, list[Tensor]]:
        """What the teachers of a step's lessons say, by the place of the lesson."""
        found: dict[int, list[Tensor]] = {}
        by_teacher: dict[int, list[int]] = {}
        for number, (_, lesson) in enumerate(lessons):
            if isinstance(lesson, Read) and lesson.teacher is not None:
                by_teacher.setdefault(lesson.teacher, []).append(number)
        for teacher, numbers in by_teacher.items():
            one = [float(i == teacher) for i in range(len(self.job.parents))]
            parts = [np.repeat(one, block.width) for block in self.blocks.blocks]
            self._form(np.concatenate(parts))
            for number in numbers:
                lesson = lessons[number][1]
                assert isinstance(lesson, Read)
                found[number] = lesson.listen(self.model, lambda: self._tell(step, self.steps))
        return found

    def _form(self, x: np.ndarray) -> None:
        """Write the combination of coefficients x into the live parameters, not rounded to the
        recipe's dtype: rounding has no gradient."""
        self.model.release()
        self.group.agreed(lambda: self._write(x))
        frozen = self.candidate.pool.identical if self.candidate.pool is not None else ()
        self._formed += 1
        self.model.begin(lambda name: FROZEN if name in frozen else self._formed)

    def _write(self, x: np.ndarray) -> None:
        live = self.candidate.live
        assert live is not None
        for one in self.moving:
            block, slot = self.blocks.blocks[one.block], one.slot
            coefficients = self.blocks.view(x, one.block)
            columns = None
            if block.by_column:
                columns = slot.columns(torch.from_numpy(coefficients).float())
            if not slot.count:
                continue
            work = Work(
                name=slot.name,
                out=live[slot.start : slot.start + slot.count],
                pieces=one.pieces,
                weights=coefficients[:, 0].tolist(),
                columns=columns,
            )
            if not work.form_([piece.to(live.device) for piece in one.pieces]):
                raise TrialRejected(
                    f"tensor {slot.name!r} is not finite",
                    where="descent",
                    mend="Use a smaller rate or a smaller space",
                )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the parameters that move take gradients, which are reduced as they come."""
        by_name = {one.slot.name: one for one in self.moving}
        slots = {} if self.candidate.pool is None else self.candidate.pool.layout.slots
        known = {slot.name: slot for slot in slots}
        handles: list[Any] = []
        watched: list[nn.Parameter] = []
        for parameter in self.model.module.parameters():
            # a tied tensor that stands in the files twice is in the pool once
            parts = [known[n] for n in self.model.names.get(id(parameter), ()) if n in known]
            if any(part.name in by_name for part in parts):
                if parameter.is_inference():
                    # ZeRO-3 let go of it while something was scored; nothing stands in it
                    parameter.data = torch.empty_like(parameter.data)
                parameter.requires_grad_()
                watched.append(parameter)
                hook = Hook(parts, by_name, self._take)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            with torch.enable_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
            self.model.release()
            for parameter in watched:
                parameter.grad = None
                parameter.requires_grad_(False)

    def _take(self, one: Moving, gradient: Tensor) -> None:
        """Add what a tensor's gradient (the held part, 1-D) says of its coefficients."""
        slot, block = one.slot, self.blocks.blocks[one.block]
        if not slot.count or (slot.cut is None and self.group.rank > 0):
            return  # what all ranks hold whole counts once
        start = self.blocks.starts[one.block]
        target = self._sum[start : self.blocks.starts[one.block + 1]].view(-1, block.width)
        if not block.by_column:
            target += coefficient_gradient(gradient, one.pieces)
            return
        places = slot.columns(torch.arange(block.width)[None])[0].to(gradient.device)
        found = coefficient_gradient(gradient, one.pieces, columns=len(places))
        target.index_add_(1, places, found)
