"""References to functions and classes in JSON: a task's scoring code is named, never stored.

A row of the database may name code of lm-eval's own tasks and nothing else, so that what is written
there cannot make a worker run other code.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from services.errors import BadInput

#: modules whose functions may be named
TRUSTED = "lm_eval.tasks."
_KEY = "!function"


def freeze(value: Any, where: str) -> Any:
    """JSON-ready copy of a configuration; BadInput for a function that may not be named."""
    if isinstance(value, Mapping):
        return {str(key): freeze(inner, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [freeze(inner, where) for inner in value]
    if not callable(value):
        return value
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    named = inspect.isfunction(value) or inspect.isclass(value)
    if not named or not module.startswith(TRUSTED) or "<" in name:
        raise BadInput(
            f"is scored by {name or value!r} of {module or 'nowhere'}, code that workers do not "
            "have",
            where=where,
            mend="A suite may use functions of lm-eval's own tasks; with functions of your own, "
            "score a checkpoint by `remelt evaluate DIR --lm-eval TASK`",
        )
    return {_KEY: f"{module}:{name}"}


def thaw(value: Any, where: str) -> Any:
    """Inverse of `freeze`; BadInput for a function that is not there or not trusted."""
    if isinstance(value, list):
        return [thaw(inner, where) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if _KEY not in value:
        return {key: thaw(inner, where) for key, inner in value.items()}
    module, _, name = str(value[_KEY]).partition(":")
    if not module.startswith(TRUSTED):
        raise BadInput(f"function {value[_KEY]!r} is not one of lm-eval's tasks", where=where)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"function {value[_KEY]!r} cannot be found: {error}",
            where=where,
            mend="Install the lm-eval release that the suite was made with",
        ) from error
