"""The items on which near-equal models disagree, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.answers import ranked_answers
from services.studies.figures import Table
from services.studies.read import OpenSplit
from services.suites import Item


@dataclass(frozen=True, kw_only=True)
class UnstableItem:
    """One item that members of the near-best set answer differently."""

    suite: str
    item: str
    prompt: str
    gold: str
    #: (answer, members), the most frequent first
    answers: tuple[tuple[str, int], ...]
    #: share of the members that do not give the most frequent answer
    minority: float
    #: largest minus smallest probability of gold, and 2^capacity; None without options
    viable_range: float | None
    capacity: float | None


def unstable_items(tables: Sequence[Table], split: OpenSplit) -> list[UnstableItem]:
    """Every such item, the least certain first: by minority, then by range."""
    found = [one for table in tables for one in _of_suite(table, split)]
    return sorted(found, key=lambda i: (-i.minority, -(i.viable_range or 0.0), i.suite, i.item))


def _of_suite(table: Table, split: OpenSplit) -> list[UnstableItem]:
    right, answer = table.right[:-2], table.answer[:-2]
    minority = (ranked_answers(right, answer) > 0).mean(axis=0)
    items = table.suite.split(split)
    return [
        UnstableItem(
            suite=table.suite.name,
            item=items[i].id,
            prompt=items[i].context or items[i].prompt,
            gold=items[i].choices[items[i].gold] if items[i].choices else items[i].target,
            answers=_answers(items[i], right[:, i], answer[:, i], table.texts),
            minority=float(minority[i]),
            viable_range=None if table.ranges is None else float(table.ranges[i]),
            capacity=None if table.capacities is None else float(table.capacities[i]),
        )
        for i in map(int, np.flatnonzero(minority))
    ]


def _answers(
    item: Item, right: np.ndarray, answer: np.ndarray, texts: dict[int, str]
) -> tuple[tuple[str, int], ...]:
    """What members answered, in words, and how many of them."""

    def said(good: bool, value: int) -> str:
        if item.choices:
            return item.choices[value]
        return item.target if good else texts.get(value, "")

    counts = Counter(said(bool(g), int(a)) for g, a in zip(right, answer, strict=True))
    return tuple(counts.most_common())
