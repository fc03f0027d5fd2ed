"""What the Celery worker asks of an engine: keep a pool, score a candidate, descend, respond.

Never imports torch.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optim.descent import Job, State
from optim.recipe import Recipe
from services.errors import EngineFailed
from services.suites import Split, Suite
from workers.engine.channel import Message
from workers.engine.connection import Connection, OnTick
from workers.engine.results import (
    DescentResult,
    EvaluationResult,
    Progress,
    Race,
    SuiteResult,
    state_of,
    suite_result,
)

#: said of an engine's layers with a pool, and again after each use
COMPILED = ("compiled", "compiled_why")


class Stopped(Exception):
    """The race said stop: enough is known of this candidate. The engine is ready for the next."""

    def __init__(self, tokens: int) -> None:
        super().__init__("stopped by the race")
        #: that went through the model, as far as it said
        self.tokens = tokens


OnSuite = Callable[[SuiteResult], None]


class Engine(Connection):
    """An engine group and the pool that is resident in it."""

    #: (dtype, (digest, folder) pairs)
    _pool: tuple[Any, ...] | None = None
    #: digests of the suites that it has
    _suites: frozenset[str] = frozenset()

    def _forget(self) -> None:
        self._pool, self._suites = None, frozenset()

    def load(
        self,
        checkpoints: Sequence[tuple[str, Path]],
        dtype: str,
        on_tick: OnTick | None = None,
    ) -> None:
        """Make (digest, folder) pairs the resident pool; no-op while the same pool is resident.

        `dtype` is that of the recipes to come. Starts the group if it does not run. Raises
        BadInput, IntegrityError, EngineFailed, Aborted.
        """
        wanted = (dtype, tuple((digest, str(path)) for digest, path in checkpoints))
        if self.alive and self._pool == wanted:
            return
        self.start(on_tick)
        self._pool = None
        request = {"op": "load", "checkpoints": wanted[1], "dtype": dtype}
        done = self._ask(request, Progress(phase="load"), on_tick, None)
        self._told(done, "pool", "parallel", "parallel_why", "dtype", *COMPILED)
        self._pool = wanted

    def evaluate(
        self,
        recipe: Recipe,
        suites: Sequence[Suite],
        split: Split | str | None,
        *,
        on_suite: OnSuite | None = None,
        on_tick: OnTick | None = None,
        race: Race | None = None,
    ) -> EvaluationResult:
        """Form the candidate in place and score every suite on one split (None: all items).

        `on_suite` gets each suite as it is finished; `on_tick` is called a few times a second and
        stops the evaluation by returning False. A `race` is told of what was scored, after
        `on_suite`, and may stop it too. Raises Aborted, Stopped, TrialRejected, BadInput,
        EngineFailed.
        """
        self._give(suites, on_tick)
        known = {suite.name: suite for suite in suites}

        tokens = 0

        def heard(message: Message) -> None:
            nonlocal tokens
            data, goes_on = message.data, True
            if data["event"] == "suite":
                done = suite_result(message, known[data["suite"]], split)
                if on_suite is not None:
                    on_suite(done)
                goes_on = race is None or race.suite(done.suite, done.predictions)
            elif data["event"] == "order" and race is not None:
                items = np.split(message.arrays["items"], np.cumsum(message.arrays["sizes"])[:-1])
                race.order(list(zip(data["suites"], items, strict=True)))
            elif data["event"] == "block" and race is not None:
                tokens = data["tokens"]
                goes_on = race.block(data["block"], message.arrays)
            if not goes_on:
                raise Stopped(tokens)

        request = {
            "op": "evaluate",
            "recipe": recipe.to_dict(),
            "suites": [[suite.name, suite.digest] for suite in suites],
            "split": split,
            "raced": [] if race is None else sorted(race.suites),
            "seed": 0 if race is None else race.seed,
        }
        done = self._ask(request, Progress(phase="form"), on_tick, heard)
        self._told(done, *COMPILED)
        return EvaluationResult(
            weights_digest=done.data["weights_digest"],
            phases=done.data["phases"],
            tokens=done.data["tokens"],
            peak_memory_bytes=done.data["peak_memory_bytes"],
            skipped_blocks=done.data["skipped_blocks"],
            activation_memory_bytes=done.data["activation_memory_bytes"],
            activation_file_bytes=done.data["activation_file_bytes"],
            compiled=done.data["compiled"],
        )

    def descend(
        self,
        job: Job,
        suites: Sequence[Suite],
        *,
        state: State | None = None,
        save_seconds: float = 5.0,
        on_state: Callable[[State], None] | None = None,
        on_tick: OnTick | None = None,
    ) -> DescentResult:
        """Carry out a descent on the search split of its suites, from `state` or the beginning.

        `on_state` gets where it stands every `save_seconds`; `on_tick` as for `evaluate`. Raises
        what `evaluate` raises.
        """
        self._give(suites, on_tick)

        def saved(message: Message) -> None:
            if on_state is not None:
                on_state(state_of(message))

        request = {
            "op": "descend",
            "job": job.to_dict(),
            "suites": [[suite.name, suite.digest] for suite in suites],
            "state": None if state is None else b64encode(state.to_bytes()).decode(),
            "save_seconds": save_seconds,
        }
        done = self._ask(request, Progress(phase="build"), on_tick, saved)
        return DescentResult(
            recipe=Recipe.from_dict(done.data["recipe"]),
            weights=tuple(done.data["weights"]),
            state=state_of(done),
            steps=done.data["steps"],
            coefficients=done.data["coefficients"],
        )

    def _give(self, suites: Sequence[Suite], on_tick: OnTick | None) -> None:
        """Send the suites that the engine does not have."""
        if not self.alive or self._channel is None:
            raise EngineFailed("the engine does not run", mend="Load the pool again")
        for suite in suites:
            if suite.digest not in self._suites:
                request = {"op": "suite", **_suite_message(suite)}
                self._ask(request, Progress(phase="compile", suite=suite.name), on_tick, None)
                self._suites |= {suite.digest}

    def respond(
        self,
        recipe: Recipe,
        requests: Sequence[Sequence[Any]],
        *,
        on_tick: OnTick | None = None,
    ) -> tuple[list[Any], int]:
        """Answers of a candidate to requests in lm-eval's terms (`workers.engine.requests`).

        Also how many of them were too long and lost tokens on the left. Raises what `evaluate`
        raises.
        """
        if not self.alive or self._channel is None:
            raise EngineFailed("the engine does not run", mend="Load the pool again")
        request = {
            "op": "respond",
            "recipe": recipe.to_dict(),
            "requests": [list(one) for one in requests],
        }
        done = self._ask(request, Progress(phase="form"), on_tick, None)
        self._told(done, *COMPILED)
        return done.data["values"], done.data["truncated"]

    def _told(self, done: Message, *names: str) -> None:
        self.about = {**self.about, **{name: done.data[name] for name in names}}


def _suite_message(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "digest": suite.digest,
        "jsonl": suite.to_jsonl(),
        "settings": suite.settings,
    }
