"""The suites that an engine keeps, and their items as forward passes, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from services.suites import Item, Suite
from workers.engine.blocks import Block, Blocks, block_tokens, chunks, in_blocks
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.model import LiveModel
from workers.engine.scoring import Plan, Work
from workers.engine.tasks import TaskPlan, compile_task

#: a suite, its items in the wanted split, and how to score them
Compiled = tuple[Suite, tuple[Item, ...], Plan]


class Plans:
    """Of one model, until `forget`. `tell` gets the name of a suite before it is compiled."""

    def __init__(
        self, *, batch_tokens: int, generation_tokens: int, tell: Callable[[str], None]
    ) -> None:
        self.batch_tokens, self.generation_tokens = batch_tokens, generation_tokens
        #: by digest
        self.suites: dict[str, Suite] = {}
        self._tell = tell
        #: by suite digest and split
        self._compiled: dict[tuple[str, str | None], Compiled] = {}
        self._blocks: dict[tuple[str, str | None], Blocks] = {}

    def forget(self) -> None:
        """The model is another one: what was worked out for it does not count any more."""
        self._compiled.clear()
        self._blocks.clear()

    def work(
        self,
        model: LiveModel,
        suites: Sequence[tuple[str, str]],
        split: str | None,
        raced: Collection[str],
    ) -> list[Work]:
        """What is to be scored for each (name, digest); `raced` ones come in blocks."""
        found = []
        for name, digest in suites:
            suite, items, plan = self._of(model, digest, split)
            blocks = self._in_blocks(model, digest, split) if name in raced else None
            found.append(Work(name=name, suite=suite, items=items, plan=plan, blocks=blocks))
        return found

    def _of(self, model: LiveModel, digest: str, split: str | None) -> Compiled:
        """One suite's plan: worked out once per suite, split and tokenizer."""
        if (digest, split) not in self._compiled:
            suite = self.suites[digest]
            self._tell(suite.name)
            items = suite.items if split is None else suite.split(split)  # type: ignore[arg-type]
            self._compiled[digest, split] = (suite, items, self._plan(model, suite, items))
        return self._compiled[digest, split]

    def _plan(
        self, model: LiveModel, suite: Suite, items: Sequence[Item], most: int | None = None
    ) -> Plan:
        """Items as forward passes, of `most` tokens where that is less than usual."""
        tokens = {
            "batch_tokens": min(self.batch_tokens, most or self.batch_tokens),
            "generation_tokens": min(self.generation_tokens, most or self.generation_tokens),
        }
        if suite.task is not None:
            return compile_task(suite, items, model, **tokens)
        return compile_suite(
            suite,
            items,
            model.encoder,
            **tokens,
            sharing=model.sharing,
            equal_lengths=not model.takes_positions,
        )

    def _in_blocks(self, model: LiveModel, digest: str, split: str | None) -> Blocks:
        """One suite in blocks: of its own plan where that has enough batches; what lm-eval judges
        is compiled block by block."""
        if (digest, split) not in self._blocks:
            suite, items, plan = self._of(model, digest, split)
            most = block_tokens(plan.tokens, self.batch_tokens)
            if isinstance(plan, TaskPlan):
                parts = chunks(plan, most)
                found = Blocks(
                    blocks=tuple(
                        Block(
                            items=np.array(part, dtype=np.int32),
                            plan=self._plan(model, suite, [items[i] for i in part]),
                        )
                        for part in parts
                    )
                )
            elif isinstance(plan, LikelihoodPlan) and most < self.batch_tokens:
                found = in_blocks(self._plan(model, suite, items, most))
            else:
                found = in_blocks(plan)
            self._blocks[digest, split] = found
        return self._blocks[digest, split]
