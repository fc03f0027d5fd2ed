"""lm-eval tasks as suites: every document is turned into an item once, when the task is added.

The few-shot examples are drawn as `lm_eval` draws them. A task that ranks options by plain
log-likelihood becomes a suite like any other; one with rules of its own keeps them beside its items
(`services.lm_eval.judge`). Needs lm-eval; loads data sets, and no model.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from optim.predictions import Form
from services.lm_eval.functions import freeze
from services.lm_eval.generation import Generation
from services.lm_eval.judge import Judge, golds
from services.lm_eval.load import TaskOptions, load_tasks, refuse
from services.suites import Item, Normalise, Suite, parse_suite

#: metrics that are 0 or 1 for every item: the first of them that a task has judges its items
RIGHT_OR_WRONG = (
    "acc", "acc_norm", "acc_bytes", "exact_match", "em", "acc_mutual_info",
    "prompt_level_strict_acc",
)  # fmt: skip
#: metrics of options that Remelt's own scoring gives, and the length it divides by
PLAIN: dict[str, Normalise] = {"acc": False, "acc_norm": "characters", "acc_bytes": True}
FORMS: dict[str, Form] = {
    "multiple_choice": "choice", "generate_until": "exact", "loglikelihood": "exact",
    "loglikelihood_rolling": "text",
}  # fmt: skip


def read_task(name: str, task: str, options: TaskOptions) -> Suite:
    """The suite `name` of an lm-eval task, or of all tasks of a group. Raises SuiteRefused."""
    where = f"lm-eval task {task}"
    read = [
        _Read.of(one, inner, options) for one, inner in load_tasks([task], options)["tasks"].items()
    ]
    forms = {one.form for one in read}
    if len(forms) != 1:
        refuse(where, "its tasks are scored in different ways", "Add them one by one")
    several = len(read) > 1
    plain = [item for one in read for item in one.plain_items(several)]
    if all(item is not None for item in plain) and len({r.metric for r in read}) == 1:
        made = Suite(
            name=name,
            form="choice",
            items=tuple(item for item in plain if item is not None),
            normalise=PLAIN[read[0].metric],
        )
    else:
        made = Suite(
            name=name,
            form=forms.pop(),
            items=tuple(item for one in read for item in one.task_items(several)),
            task={"tasks": {one.name: one.definition() for one in read}},
        )
        _try_out(made)
    return parse_suite(name, made.to_jsonl(), where=where, **made.settings)


def _try_out(suite: Suite) -> None:
    """Judge made-up answers to one item of each task: what cannot be judged is refused here."""
    made_up = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": "x"}
    judge, seen = Judge(suite), set()
    for item in suite.items:
        assert item.asked is not None
        if item.asked["task"] not in seen:
            seen.add(item.asked["task"])
            judge([item], [[made_up[request[0]] for request in item.asked["requests"]]])


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One task and its requests."""

    name: str
    task: Any
    metric: str
    filter: str
    threshold: float
    #: document number -> its instances, by index
    docs: Mapping[int, Sequence[Any]]

    @classmethod
    def of(cls, name: str, task: Any, options: TaskOptions) -> _Read:
        """Build the requests of a task; refuses what no suite can carry."""
        from lm_eval.api.task import ConfigurableTask

        where = f"lm-eval task {name}"
        if not isinstance(task, ConfigurableTask):
            refuse(
                where,
                "is written as a Python class",
                "Score a checkpoint on it by `remelt evaluate DIR --lm-eval`",
            )
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            what = "runs generated code" if getattr(task, "UNSAFE_CODE", False) else "needs images"
            refuse(where, what, "Only tasks of text are supported")
        # whoever imported tqdm before us gets its bars
        with contextlib.redirect_stderr(io.StringIO()):
            task.build_all_requests(limit=options.limit)
        docs: dict[int, list[Any]] = {}
        for instance in task.instances:
            docs.setdefault(instance.doc_id, []).append(instance)
        filters = [ensemble.name for ensemble in task._filters]
        if options.filter is not None and options.filter not in filters:
            refuse(where, f"has no filter {options.filter!r}", f"It has: {', '.join(filters)}")
        return cls(
            name=name,
            task=task,
            metric=_metric(task, options.metric, where),
            filter=options.filter or filters[0],
            threshold=options.threshold,
            docs={n: sorted(found, key=lambda i: i.idx) for n, found in docs.items()},
        )

    @property
    def form(self) -> Form:
        """What its results look like."""
        return FORMS[self.task.OUTPUT_TYPE]

    def definition(self) -> dict[str, Any]:
        """What the judge needs to know beside the items, JSON-ready."""
        config, where = self.task.config, f"lm-eval task {self.name}"
        metrics = config.metric_list
        if metrics is not None:
            metrics = [{k: v for k, v in m.items() if k != "aggregation"} for m in metrics]
            metrics = [
                {"aggregation": "mean", "higher_is_better": True, **metric} for metric in metrics
            ]
            names = [getattr(m["metric"], "__name__", m["metric"]) for m in metrics]
            if self.metric not in names and self.form == "choice":
                metrics.append({"metric": self.metric, "aggregation": "mean"})
        kept = {
            "metric_list": metrics,
            "filter_list": config.filter_list,
            "process_results": config.process_results,
            "repeats": config.repeats,
            "metadata": config.metadata,
        }
        return {
            "lm_eval": version("lm_eval"),
            "version": self.task.VERSION,
            "num_fewshot": config.num_fewshot,
            "output_type": self.task.OUTPUT_TYPE,
            "metric": self.metric,
            "filter": self.filter,
            "threshold": self.threshold,
            "higher_is_better": self.task.higher_is_better().get(self.metric, True),
            "multiple_input": self.task.multiple_input,
            "multiple_target": self.task.multiple_target,
            # YAML knows dates, JSON does not
            "config": json.loads(
                json.dumps(freeze({k: v for k, v in kept.items() if v}, where), default=str)
            ),
        }

    def _id(self, number: int, several: bool) -> str:
        """An item's id. Tasks of a group are no clusters: all are asked, not a sample of them."""
        return f"{self.name}/{number}" if several else str(number)

    def plain_items(self, several: bool) -> Iterator[Item | None]:
        """Items that Remelt scores by itself exactly as lm-eval does; None for any other."""
        task = self.task
        simple = (
            task.OUTPUT_TYPE == "multiple_choice"
            and task.config.process_results is None
            and task.config.filter_list is None
            and not task.multiple_input
            and not task.multiple_target
            and self.metric in PLAIN
            and "acc_mutual_info" not in task.aggregation()
            # the engine counts white space between context and option to the option, as lm-eval
            and not task.config.target_delimiter.strip()
        )
        for number, instances in self.docs.items():
            doc = instances[0].doc
            choices, asked = (task.doc_to_choice(doc), self._asked(doc)) if simple else ([], {})
            right = golds(asked) if simple else []
            if len(right) != 1 or len(set(choices)) < max(len(choices), 2) or not all(choices):
                yield None
                continue
            context = instances[0].args[0] + task.config.target_delimiter
            yield Item(
                id=self._id(number, several),
                context=context,
                choices=tuple(choices),
                gold=right[0],
            )

    def task_items(self, several: bool) -> Iterator[Item]:
        """Items with what lm-eval asks, and what people are shown of it."""
        for number, instances in self.docs.items():
            where = f"lm-eval task {self.name}, document {number}"
            requests = [[i.request_type, *i.args] for i in instances]
            for request in requests:
                if request[0] == "generate_until":
                    Generation.of(request[2], where=where)
            doc = instances[0].doc
            asked = {**self._asked(doc), "task": self.name, "doc": doc, "requests": requests}
            try:
                asked = json.loads(json.dumps(asked))
            except TypeError as error:
                refuse(where, f"is not text ({error})", "Only tasks of text are supported")
            yield Item(id=self._id(number, several), asked=asked, **self._shown(asked))

    def _asked(self, doc: Any) -> dict[str, Any]:
        task = self.task
        has_choices = task.config.doc_to_choice is not None
        return {
            "target": task.doc_to_target(doc),
            "choices": task.doc_to_choice(doc) if has_choices else None,
            "input": task.doc_to_text(doc) if task.multiple_input else None,
        }

    def _shown(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        _, *arguments = asked["requests"][0]
        if self.form == "text":
            return {"text": arguments[0]}
        if self.form == "choice":
            context = "" if self.task.multiple_input else arguments[0]
            right = golds(asked) or [0]
            return {"context": context, "choices": tuple(asked["choices"]), "gold": right[0]}
        if asked["requests"][0][0] == "loglikelihood":
            return {"prompt": arguments[0], "target": arguments[1]}
        target = asked["target"]
        if asked["choices"] is not None and isinstance(target, int):
            target = asked["choices"][target]
        first = target[0] if isinstance(target, list) and target else target
        return {"prompt": arguments[0], "target": str(first)}


def _metric(task: Any, wanted: str | None, where: str) -> str:
    """The metric that judges an item."""
    names = list(task.aggregation())
    if wanted is not None:
        if wanted not in names:
            refuse(where, f"has no metric {wanted!r}", f"It has: {', '.join(names)}")
        return wanted
    first = next((name for name in names if name in RIGHT_OR_WRONG), None)
    if first is None and task.OUTPUT_TYPE == "multiple_choice" and not task.config.process_results:
        return "acc"
    return str(first or names[0])
