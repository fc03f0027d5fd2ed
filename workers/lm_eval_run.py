"""lm-eval's own evaluation of a candidate in a running engine: its loop, its metrics, its table."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from optim.recipe import Recipe
from services.errors import RemeltError
from workers.engine.client import Engine
from workers.engine.connection import Aborted, OnTick

#: resamples for the standard errors of metrics that are no plain mean
BOOTSTRAPS = 1000


def run_tasks(
    engine: Engine, recipe: Recipe, loaded: Any, limit: int | None, on_tick: OnTick
) -> tuple[dict[str, Any], int]:
    """lm-eval's results of what `load_tasks` gave, and how many requests were cut on the left.

    Raises RemeltError for a task that lm-eval cannot run, and what the engine raises.
    """
    from lm_eval.evaluator import evaluate

    from workers.engine.lm_eval import LiveLM

    model = LiveLM(engine, recipe, on_tick)
    try:
        # what tasks and metrics print must not stand among our data
        with contextlib.redirect_stdout(sys.stderr):
            results = evaluate(
                lm=model,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=True,
            )
    except (RemeltError, Aborted):
        raise
    except Exception as error:  # whatever a task's own code raises
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RemeltError(what, where=f"lm-eval task {', '.join(loaded['tasks'])}") from error
    return dict(results), model.truncated


def results_table(results: dict[str, Any]) -> str:
    """The tables that lm-eval prints: of tasks, and of groups if there are any."""
    from lm_eval.utils import make_table

    tables = [make_table(results)]
    if results.get("groups"):
        tables.append(make_table(results, "groups"))
    return "\n".join(tables)
