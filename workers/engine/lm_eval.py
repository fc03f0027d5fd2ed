"""lm-eval on the live engine: an `LM` whose answers come from whatever candidate is asked for.

Import it only where lm-eval is wanted: it is an optional extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from optim.recipe import Recipe
from services.lm_eval.generation import Generation
from workers.engine.client import Engine
from workers.engine.connection import OnTick


class LiveLM(LM):
    """A candidate in a running engine, as lm-eval sees it. Greedy only: BadInput for a task that
    samples. Chat templates are not applied."""

    def __init__(self, engine: Engine, recipe: Recipe, on_tick: OnTick | None = None) -> None:
        super().__init__()
        self.engine, self.recipe, self.on_tick = engine, recipe, on_tick
        #: requests so far that were too long and lost tokens on the left, as in lm-eval
        self.truncated = 0

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether the continuation is the greedy one) of each pair."""
        return [(value, greedy) for value, greedy in self._ask("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of whole texts, nats."""
        return self._ask("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Greedy answers, cut before the first stop string."""
        for request in requests:
            Generation.of(request.args[1], where=f"lm-eval task {request.task_name}")
        return self._ask("generate_until", requests)

    def _ask(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        values, truncated = self.engine.respond(
            self.recipe, [[kind, *request.args] for request in requests], on_tick=self.on_tick
        )
        self.truncated += truncated
        return values
