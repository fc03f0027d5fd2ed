"""What searchers themselves take at the largest sizes that are promised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rows import Rows

from optim.search import METHODS, Axis, ItemSuite, Observation, Question, make_searcher
from optim.search.invented import invented
from optim.search.model import ItemModel
from optim.space import Space


def costs(rows: Rows) -> None:
    """Seconds of the next generation, and of fitting the largest model."""
    rng = np.random.default_rng(0)
    space = Space(16, -0.5, 1.5, groups=32)
    points = [space.place(rng.normal(1 / 16, 0.3, size=space.size)) for _ in range(1000)]
    values = rng.normal(size=(1000, 3)).tolist()
    for method in METHODS:
        searcher = make_searcher(method, space=space, objectives=3, seed=0)
        told = invented(searcher, points, values)
        with timed() as spent:
            searcher.ask(told, 4)
        rows.add(f"ask after 1,000 trials x 16 x 32, {method}", spent[0], "s", at_most=1.0)
    with timed() as spent:
        ItemModel.fit(*large_study(rng))
    rows.add("margin surrogate, refit on 200 trials x 10,000 items", spent[0], "s", at_most=2.0)


def large_study(rng: np.random.Generator) -> tuple[Space, Question, list[Observation]]:
    """200 trials of 16 parents on five suites of 2,000 items, margins linear in the weights."""
    space, size = Space.affine(16), 2000
    names = [f"s{i}" for i in range(5)]
    question = Question(
        suites=tuple(
            ItemSuite(name=name, form="choice", reference=rng.random(size) < 0.6) for name in names
        ),
        axes=tuple(Axis(metric="score", suite=name) for name in names),
    )
    slopes, heights = rng.normal(size=(5 * size, 15)), rng.normal(size=5 * size)
    rows = []
    for i in range(200):
        weights = space.place(rng.normal(1 / 16, 0.2, 16))
        signal = (heights + slopes @ space.coordinates(weights)).astype(np.float32)
        values = tuple((-(signal > 0).reshape(5, size).mean(axis=1)).tolist())
        rows.append(Observation(f"r{i}", weights, values, 0.0, "complete", signal, signal > 0))
    return space, question, rows


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of CPU of the block, in a list once it has ended."""
    spent: list[float] = []
    begun = time.process_time()
    yield spent
    spent.append(time.process_time() - begun)
