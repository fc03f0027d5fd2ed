"""Searchers by the name a study spec gives them, each describing itself for forms and docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optim.search.base import Observation, Searcher, Suggestion, quality
from optim.search.bayes import Gp, Tpe
from optim.search.cmaes import CmaEs
from optim.search.greedy import Greedy
from optim.search.nsga import NsgaII, NsgaIII
from optim.search.options import Option
from optim.search.question import Axis, Bound, ItemSuite, Question
from optim.search.random import RandomSearch
from optim.search.surrogate import MarginSurrogate, MetricSurrogate
from optim.search.sweeps import Bcwi, Softmax
from optim.space import Space

__all__ = [
    "METHODS",
    "Axis",
    "Bound",
    "ItemSuite",
    "Observation",
    "Option",
    "Question",
    "Searcher",
    "Suggestion",
    "make_searcher",
    "quality",
]

#: name -> class; `.summary` and `.options` of a class say what a form shows
METHODS: dict[str, type[Searcher]] = {
    method.name: method
    for method in (
        MarginSurrogate,
        MetricSurrogate,
        CmaEs,
        NsgaII,
        NsgaIII,
        Tpe,
        Gp,
        Softmax,
        Bcwi,
        Greedy,
        RandomSearch,
    )
}


def make_searcher(
    method: str,
    *,
    space: Space,
    objectives: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    question: Question | None = None,
    known: Sequence[Observation] = (),
) -> Searcher:
    """The searcher of that name; ValueError naming the field for anything it cannot use."""
    if method not in METHODS:
        raise ValueError(f"search.method: {method!r} is not one of {sorted(METHODS)}")
    return METHODS[method](
        space=space,
        objectives=objectives,
        seed=seed,
        options=options,
        question=question,
        known=known,
    )
