"""Judging from stored answers: how long every metric takes for 200 candidates on 5,000 items.

    OMP_NUM_THREADS=1 python bench/judging.py [--out bench/results/judging.json]

All pairs of candidates, membership of the front, the near-best set, telling one trial, and one pair
in depth. Answers are random, with the make-up of a real pool's: candidates differ
from the reference in about a quarter of the items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows

from optim.agreement import capa
from optim.compatibility import compare, pooled
from optim.generative import TEXT_SCORES, text_scores
from optim.membership import SuiteTable, membership
from optim.pairwise import pairwise
from optim.predictions import Predictions, items_digest, option_log_probabilities
from optim.rate_intervals import cluster_counts, clustered_rate_intervals, rate_intervals
from optim.search.question import Axis, Bound, ItemSuite, Question
from services.studies.figures import figures_of, mean_churns, table_of
from services.studies.unstable import unstable_items
from services.suites import Item, Suite

CANDIDATES, ITEMS, SUITES, OPTIONS, RESAMPLES = 200, 5000, 5, 4, 1000
RUNS = 3


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Rows("judging")
    rng = np.random.default_rng(0)
    gold, scores = answers(rng)
    table = np.stack([s.argmax(axis=1) for s in scores]).astype(np.uint64)
    right = table == gold
    whole = f"{CANDIDATES} candidates, {ITEMS} items"
    seconds = quickest(lambda: pairwise(right, table).rates())
    rows.add(f"every rate of every pair, options, {whole}", seconds, "s", at_most=1)
    hashed = table * np.uint64(2**61 - 1) + np.uint64(1 << 20)
    seconds = quickest(lambda: pairwise(right, hashed).rates())
    rows.add(f"every rate of every pair, generated answers, {whole}", seconds, "s", at_most=1)
    question, tables = front(right, table)
    seconds = quickest(lambda: membership(question, tables, resamples=RESAMPLES))
    rows.add(f"membership of the front, {RESAMPLES} resamples, {whole}, {SUITES} objectives",
             seconds, "s", at_most=10)  # fmt: skip
    question, tables = front(right, table, clustered=True)
    seconds = quickest(lambda: membership(question, tables, resamples=RESAMPLES))
    rows.add(f"membership of the front, the same in {ITEMS // 5} clusters, with a constraint on "
             "every suite", seconds, "s", at_most=10)  # fmt: skip
    suite = make_suite(gold)
    models = [{"s": predictions(suite, one, gold)} for one in scores]
    parts: list[Any] = []
    seconds = quickest(lambda: parts.append(table_of(suite, "search", models, None)))
    rows.add(f"probabilities and Rashomon capacity, {whole}, {OPTIONS} options", seconds, "s")
    about = (0, 1, tuple(range(CANDIDATES - 2)))
    more = quickest(
        lambda: (
            figures_of(parts[-1:], "s", about, 0.05),
            unstable_items(parts[-1:], "search"),
            mean_churns(parts[-1:]),
        )
    )
    rows.add(f"multiplicity, {whole}", seconds + more, "s", at_most=10)
    old, new = models[0]["s"], models[1]["s"]
    seconds = quickest(lambda: capa(*two_options(old, new), gold))
    rows.add(f"CAPA of a pair with its interval, {ITEMS} items", 1000 * seconds, "ms")
    seconds = quickest(lambda: rate_intervals(pooled([compare(old, new)])))
    rows.add(f"every rate of a pair with its interval, {ITEMS} items", 1000 * seconds, "ms",
             at_most=5)  # fmt: skip
    labels = np.arange(ITEMS) // 5
    seconds = quickest(lambda: clustered_rate_intervals(cluster_counts(old, new, labels)))
    rows.add(f"the same in {ITEMS // 5} clusters", 1000 * seconds, "ms", at_most=100)
    words = [" ".join(rng.choice(["a", "b", "c", "d", "e"], 30)) for _ in range(2 * ITEMS)]
    for score in TEXT_SCORES:
        seconds = quickest(lambda score=score: text_scores(score, words[:ITEMS], words[ITEMS:]))  # type: ignore[misc]
        rows.add(f"{score} of {ITEMS} answers of 30 words", seconds, "s")
    rows.write(options.out)


def quickest(do: Callable[[], Any]) -> float:
    """Seconds of the quickest of some runs: the others shared the machine."""
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        do()
        found.append(time.perf_counter() - began)
    return min(found)


def answers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Gold [N] and the log-scores [M, N, K] of models that have most in common."""
    gold = rng.integers(0, OPTIONS, ITEMS)
    common = rng.normal(0, 1.5, (ITEMS, OPTIONS))
    common[np.arange(ITEMS), gold] += 1.5
    return gold, common + rng.normal(0, 0.6, (CANDIDATES, ITEMS, OPTIONS))


def front(
    right: np.ndarray, table: np.ndarray, *, clustered: bool = False
) -> tuple[Question, list[SuiteTable]]:
    """Five suites of a thousand items, one objective each; the first candidate is deployed. In
    clusters of five, negative flips are bounded too."""
    parts = np.array_split(np.arange(ITEMS), SUITES)
    suites = tuple(
        ItemSuite(
            name=f"s{i}",
            form="choice",
            reference=right[0, at],
            clusters=np.arange(len(at)) // 5 if clustered else None,
        )
        for i, at in enumerate(parts)
    )
    bound = Bound(metric="negative_flip_rate", suites=tuple(s.name for s in suites), limit=0.3,
                  sign=1.0, confidence=0.95)  # fmt: skip
    axes = tuple(Axis(metric="score", suite=s.name, sign=-1.0) for s in suites)
    tables = [SuiteTable(right=right[:, at], changed=table[:, at] != table[0, at]) for at in parts]
    return Question(suites=suites, axes=axes, bounds=(bound,) if clustered else ()), tables


def make_suite(gold: np.ndarray) -> Suite:
    """A suite whose items are all on the search split."""
    choices = tuple(f" {letter}" for letter in "abcdefgh"[:OPTIONS])
    items = tuple(
        Item(id=str(i), context=f"question {i} =", choices=choices, gold=int(g))
        for i, g in enumerate(gold)
    )
    return Suite(name="s", form="choice", items=items, fractions=(1.0, 0.0, 0.0))


def predictions(suite: Suite, scores: np.ndarray, gold: np.ndarray) -> Predictions:
    """What one model answers."""
    answer = scores.argmax(axis=1).astype(np.uint64)
    return Predictions(
        form="choice",
        items=items_digest([item.id for item in suite.items]),
        correct=answer == gold,
        answer=answer,
        options=option_log_probabilities(list(scores)),
    )


def two_options(old: Predictions, new: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """The options of both."""
    assert old.options is not None
    assert new.options is not None
    return old.options, new.options


if __name__ == "__main__":
    main()
