"""Scoring with compiled layers against the model's own code: what it saves, and whether answers
stay. Called by `bench/gpu.py` in its part `loop`.

A rounding may decide between options that are about as likely, and random weights find nearly all
options about as likely: what other batches change in the same answers is the measure for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from rows import Rows
from torch._dynamo.utils import counters

from services.suites import Suite
from workers.engine import layers
from workers.engine.compile import compile_suite
from workers.engine.layers import CompiledLayers
from workers.engine.model import LiveModel
from workers.engine.score import score_suite

TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """All suites scored in one way: seconds by suite, the best of all tries and the first one, and
    the arrays of the last."""

    best: Mapping[str, float]
    first: Mapping[str, float]
    arrays: Mapping[str, Mapping[str, np.ndarray]]

    def likely(self, suites: list[Suite], *, first: bool = False) -> float:
        """Seconds of all suites of log-likelihoods."""
        seconds = self.first if first else self.best
        return sum(seconds[suite.name] for suite in suites if suite.form != "exact")


def compiled_layers(rows: Rows, model: LiveModel, suites: list[Suite], tokens: int) -> Found:
    """Rows of the model's own code, of that code in other batches, and of compiled layers, which
    the model is left with; what its own code found."""
    model.layers.use(False, "bench")
    eager = scored(model, suites, tokens)
    rows.add("scoring, eager", eager.likely(suites), "s")
    smaller = scored(model, suites, tokens // 2, tries=2)
    apart(rows, "eager, batches half as large", eager, smaller)
    found = anew(rows, "layers compiled", model, suites, tokens, eager)
    for suite in suites:
        ratio = eager.best[suite.name] / found.best[suite.name]
        rows.add(f"layers compiled, {suite.name}: eager over it", ratio, "×")
    return eager


def less_rounding(
    rows: Rows, model: LiveModel, suites: list[Suite], tokens: int, eager: Found
) -> None:
    """Rows of layers that are compiled without the roundings of the model's own code."""
    usual, layers.OPTIONS = layers.OPTIONS, {}
    try:
        anew(rows, "layers compiled with less rounding", model, suites, tokens, eager)
    finally:
        layers.OPTIONS = usual


def anew(
    rows: Rows, name: str, model: LiveModel, suites: list[Suite], tokens: int, eager: Found
) -> Found:
    """Compile the model's layers, score, and compare."""
    dtype = next(model.module.parameters()).dtype
    model.layers = CompiledLayers(model.module, dtype, model.encoder.vocabulary)
    model.layers.use(True, "bench")
    counters.clear()
    found = scored(model, suites, tokens)
    print(f"{name}: {model.layers.about}", flush=True)
    rows.add(f"scoring, {name}", found.likely(suites), "s")
    rows.add(f"{name}: eager over it", eager.likely(suites) / found.likely(suites), "×")
    more = found.likely(suites, first=True) - found.likely(suites)
    rows.add(f"{name}, first scoring takes longer by", more, "s")
    rows.add(f"{name}, graphs", counters["stats"]["unique_graphs"], "graphs", at_most=6)
    apart(rows, name, eager, found)
    return found


def scored(model: LiveModel, suites: list[Suite], tokens: int, tries: int = TRIES) -> Found:
    """Every suite `tries` times, at least twice: answers of the first are checked, not generated,
    in the second."""
    best: dict[str, float] = {}
    first: dict[str, float] = {}
    arrays: dict[str, Mapping[str, np.ndarray]] = {}
    for suite in suites:
        plan = compile_suite(
            suite, suite.items, model.encoder, batch_tokens=tokens, generation_tokens=tokens,
            sharing=model.sharing,
        )  # fmt: skip
        for _ in range(tries):
            began = time.perf_counter()
            done = score_suite(model, suite, suite.items, plan, lambda _: None)
            arrays[suite.name] = done.arrays
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            first.setdefault(suite.name, seconds)
            best[suite.name] = min(best.get(suite.name, seconds), seconds)
    return Found(best=best, first=first, arrays=arrays)


def apart(rows: Rows, name: str, one: Found, two: Found) -> None:
    """How far two ways of scoring are apart: answers, margins of choices, nats of a token."""
    answers, margins, nats = [], [], []
    for suite, mine in one.arrays.items():
        theirs = two.arrays[suite]
        if "answer" in mine:
            answers.append(mine["answer"] == theirs["answer"])
        if "margin" in mine:
            margins.append(np.abs(mine["margin"] - theirs["margin"]))
        if "nll" in mine:
            nats.append(np.abs(mine["nll"] - theirs["nll"]) / mine["tokens"])
    rows.add(f"{name}, answers as eager", float(np.concatenate(answers).mean()), "share")
    for what, values, unit in (("margin", margins, "nats"), ("text", nats, "nats a token")):
        flat = np.concatenate(values)
        rows.add(f"{name}, {what} off eager, largest", float(flat.max()), unit)
