"""Loading lm-eval's tasks: looked up by name, their data found, their few-shot examples set up.

Needs lm-eval; whatever a task's code or a data set's loader raises becomes one line.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from services.errors import SuiteRefused
from services.lm_eval.need import need_lm_eval

#: what lm_eval.simple_evaluate draws few-shot examples with
FEWSHOT_SEED = 1234
NAMES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is read."""

    #: a folder of task files; None: lm-eval's own tasks
    include_path: Path | None = None
    num_fewshot: int | None = None
    #: the first so many documents of each task
    limit: int | None = None
    #: what judges an item, and the filter before it; None: see `RIGHT_OR_WRONG`, and the first
    metric: str | None = None
    filter: str | None = None
    #: an item is right when its metric is at least this (at most, where less is better)
    threshold: float = 0.5


def load_tasks(names: Sequence[str], options: TaskOptions) -> Any:
    """lm-eval's `TaskDict` of tasks, groups or tags, with their few-shot examples set up.

    Data files are looked up from here, then beside the task's file, then in the include path.
    Raises SuiteRefused.
    """
    where = f"lm-eval task {', '.join(names)}"
    need_lm_eval(where)
    from lm_eval.tasks import TaskManager

    folder = options.include_path
    if folder is not None and not folder.is_dir():
        refuse(where, f"include path {folder} is no folder", "Name the folder of the task files")
    manager = TaskManager(
        include_path=None if folder is None else str(folder.resolve()),
        include_defaults=folder is None,
    )
    for name in names:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, NAMES_SHOWN)
            near = near or manager.all_tasks[:NAMES_SHOWN]
            known = ", ".join(near) or f"no task in {folder}"
            refuse(f"lm-eval task {name}", "is not known", f"Near to it: {known}")
    loaded = _loaded(manager, names, folder, where)
    for task in loaded["tasks"].values():
        # a task that says 0 means it
        default = task.config.num_fewshot
        if options.num_fewshot is not None and default != 0:
            task.set_config(key="num_fewshot", value=options.num_fewshot)
        elif default is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _loaded(manager: Any, names: Sequence[str], include_path: Path | None, where: str) -> Any:
    entries = [manager.task_index[name] for name in names]
    beside = [Path(entry.yaml_path).parent for entry in entries if entry.yaml_path]
    folders = [Path.cwd(), *beside, *([] if include_path is None else [include_path.resolve()])]
    failure: Exception | None = None
    for folder in dict.fromkeys(folders):
        try:
            with contextlib.chdir(folder):
                return manager.load(list(names))
        except FileNotFoundError as error:
            failure = failure or error
        except Exception as error:  # whatever a task's code or a data set's loader raises
            failure = error
            break
    what = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
    raise SuiteRefused(
        f"lm-eval cannot load it ({what})", where=where, mend="Check its data set and the network"
    ) from failure


def refuse(where: str, what: str, mend: str) -> NoReturn:
    """Raise SuiteRefused."""
    raise SuiteRefused(what, where=where, mend=mend)
