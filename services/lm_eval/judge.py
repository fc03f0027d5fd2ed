"""Judging answers by an lm-eval task's own filters and metrics, from what a suite carries.

The task is rebuilt around the suite's documents: no data set is loaded and no prompt is made again.
Needs lm-eval, and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optim.predictions import answer_hash
from services.errors import BadInput
from services.lm_eval.functions import thaw
from services.lm_eval.need import need_lm_eval
from services.suites import Item, Suite

#: metric -> what the options' log-likelihoods are divided by before they are compared
LENGTHS = {"acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}


class _Doc(dict[str, Any]):
    """A document that remembers what the task had made of it."""

    asked: Mapping[str, Any]

    @classmethod
    def of(cls, item: Item) -> _Doc:
        assert item.asked is not None
        doc = cls(item.asked["doc"])
        doc.asked = item.asked
        return doc


class _Docs(list[_Doc]):
    """Documents as lm-eval holds them; no template looks up a feature any more."""

    features: Mapping[str, Any] = {}


class Judge:
    """Judges the items of one suite; BadInput where the task cannot be rebuilt here."""

    def __init__(self, suite: Suite) -> None:
        self.where = f"suite {suite.name!r}"
        need_lm_eval(self.where)
        assert suite.task is not None
        self.form, self.definitions = suite.form, suite.task["tasks"]
        first: dict[str, Item] = {}
        for item in suite.items:
            assert item.asked is not None
            first.setdefault(item.asked["task"], item)
        self.tasks = {name: self._rebuilt(name, item) for name, item in first.items()}

    def _rebuilt(self, name: str, item: Item) -> Any:
        from lm_eval.api.task import ConfigurableTask

        definition = self.definitions[name]
        has_choices = item.asked is not None and item.asked["choices"] is not None
        config = {
            "task": name,
            "output_type": definition["output_type"],
            "custom_dataset": lambda **_: {"docs": _Docs([_Doc.of(item)])},
            "test_split": "docs",
            "doc_to_text": lambda doc: doc.asked["input"],
            "doc_to_target": lambda doc: doc.asked["target"],
            "doc_to_choice": (lambda doc: doc.asked["choices"]) if has_choices else None,
            **thaw(definition["config"], self.where),
        }
        try:
            task = ConfigurableTask(config=config)
        except Exception as error:  # whatever lm-eval's parts raise
            raise BadInput(
                f"lm-eval cannot build task {name!r}: {' '.join(str(error).split())[:300]}",
                where=self.where,
                mend=f"Use lm-eval {definition['lm_eval']}, which the suite was made with",
            ) from error
        task.multiple_input = definition["multiple_input"]
        task.multiple_target = definition["multiple_target"]
        return task

    def __call__(
        self, items: Sequence[Item], answers: Sequence[Sequence[Any]]
    ) -> tuple[dict[str, np.ndarray], list[str] | None]:
        """Arrays of `optim.predictions` for N items, and texts where the form is `exact`.

        `answers` holds one value a request of each item: (log-likelihood, is greedy), rolling
        log-likelihood, or text.
        """
        judged: list[tuple[Any, Any]] = [(None, None)] * len(items)
        for name in self.tasks:
            mine = [n for n, i in enumerate(items) if i.asked and i.asked["task"] == name]
            found = self._judged(name, [items[n] for n in mine], [answers[n] for n in mine])
            for number, one in zip(mine, found, strict=True):
                judged[number] = one
        if self.form == "text":
            pairs = [value for value, _ in judged]
            nll = np.array([-loglikelihood for loglikelihood, _ in pairs], dtype=np.float32)
            return {"nll": nll, "tokens": np.array([n for _, n in pairs], dtype=np.int32)}, None
        right = np.array(
            [self._right(i, value) for i, (value, _) in zip(items, judged, strict=True)]
        )
        if self.form == "choice":
            pairs = [self._compared(i, a) for i, a in zip(items, answers, strict=True)]
            chosen = np.array([answer for answer, _ in pairs], dtype=np.uint64)
            margins = np.array([margin for _, margin in pairs], dtype=np.float32)
            return {"correct": right, "answer": chosen, "margin": margins}, None
        texts = [self._text(i, response) for i, (_, response) in zip(items, judged, strict=True)]
        hashes = np.array([answer_hash(text) for text in texts], dtype=np.uint64)
        return {"correct": right, "answer": hashes}, texts

    def _judged(
        self, name: str, items: Sequence[Item], answers: Sequence[Sequence[Any]]
    ) -> list[tuple[Any, Any]]:
        """(value of the metric, first filtered response) of the items of one task."""
        from lm_eval.api.instance import Instance

        task, definition = self.tasks[name], self.definitions[name]
        repeats = int(task.config.repeats or 1)
        by_item: list[list[Any]] = []
        for number, (item, values) in enumerate(zip(items, answers, strict=True)):
            assert item.asked is not None
            doc, instances = _Doc.of(item), []
            for index, (request, value) in enumerate(
                zip(item.asked["requests"], values, strict=True)
            ):
                instances.append(
                    Instance(
                        request_type=request[0],
                        doc=doc,
                        arguments=tuple(request[1:]),
                        idx=index,
                        metadata=(name, number, repeats),
                        resps=[value] * repeats,
                    )
                )
            by_item.append(instances)
        if not by_item:
            return []
        task._instances = [instance for instances in by_item for instance in instances]
        task.apply_filters()
        found = []
        for item, instances in zip(items, by_item, strict=True):
            responses = [i.filtered_resps[definition["filter"]] for i in instances]
            metrics = task.process_results(_Doc.of(item), responses)
            if definition["metric"] not in metrics:
                raise BadInput(
                    f"task {name!r} gives no metric {definition['metric']!r}",
                    where=self.where,
                    mend=f"Add it with --metric, one of: {', '.join(metrics)}",
                )
            found.append((metrics[definition["metric"]], responses[0]))
        return found

    def _right(self, item: Item, value: Any) -> bool:
        assert item.asked is not None
        definition = self.definitions[item.asked["task"]]
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"metric {definition['metric']!r} is no number for item {item.id!r} alone",
                where=self.where,
                mend="Choose another one with --metric",
            ) from error
        limit = definition["threshold"]
        return number >= limit if definition["higher_is_better"] else number <= limit

    def _compared(self, item: Item, answers: Sequence[Any]) -> tuple[int, float]:
        """The likeliest option in the metric's sense, and how far the gold ones are above the best
        other one (0 where none is gold or none is not)."""
        assert item.asked is not None
        choices = item.asked["choices"]
        metric = self.definitions[item.asked["task"]]["metric"]
        values = np.array([answer[0] for answer in answers], dtype=np.float64)
        scores = values[: len(choices)]
        if metric == "acc_mutual_info":
            scores = scores - values[len(choices) :]
        if metric in LENGTHS:
            scores = scores / [max(LENGTHS[metric](choice), 1) for choice in choices]
        gold = np.zeros(len(choices), dtype=bool)
        gold[list(golds(item.asked))] = True
        margin = 0.0 if gold.all() or not gold.any() else scores[gold].max() - scores[~gold].max()
        return int(scores.argmax()), float(margin)

    def _text(self, item: Item, response: Any) -> str:
        if isinstance(response, tuple):
            # not a text but whether the target is what the model would have said
            return item.target if response[1] else ""
        first = response[0] if isinstance(response, list) and response else response
        return str(first).strip()


def golds(asked: Mapping[str, Any]) -> list[int]:
    """Indices of the right options, as far as they are among the options."""
    target = asked["target"] if asked["input"] is None else asked["input"]
    choices = asked["choices"]
    found = []
    for one in target if isinstance(target, list) else [target]:
        index = choices.index(one) if isinstance(one, str) and one in choices else one
        if isinstance(index, int) and 0 <= index < len(choices):
            found.append(index)
    return found
