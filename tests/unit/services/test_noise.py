"""Comparing one model with itself: counts, flips and the largest difference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from optim.predictions import Predictions, answer_hash, items_digest
from services import noise
from services.suites import Suite, parse_suite

HOW = {"usual": {"dtype": "float32"}, "other": {"dtype": "bfloat16"}}


def suite_of(**fields: object) -> Suite:
    """A suite of 24 items with these fields."""
    lines = [json.dumps({"id": f"{i:02d}", **fields}) for i in range(24)]
    return parse_suite("one", "\n".join(lines), where="", require_splits=False)


def choice(suite: Suite, margins: np.ndarray) -> noise.Answers:
    """What a model answers whose margins over the two other options these are."""
    ids = [item.id for item in suite.split("search")]
    found = Predictions(
        form="choice",
        items=items_digest(ids),
        correct=margins > 0,
        answer=np.where(margins > 0, 0, np.where(margins > -1, 1, 2)).astype(np.uint64),
        margin=margins.astype(np.float16),
    )
    return found, margins.astype(np.float32)


def test_flips_are_counted_named_and_measured() -> None:
    suite = suite_of(context="a", choices=["b", "c", "d"], gold=0)
    ids = [item.id for item in suite.split("search")]
    margins = np.full(len(ids), 2.0)
    margins[3] = -0.5
    other = margins + 1e-4
    other[1], other[3] = -0.25, -1.25
    usual, changed = choice(suite, margins), choice(suite, other)
    floor = noise.compared(suite, "search", "dtype", HOW, usual, changed)
    assert (floor.n, floor.negative, floor.positive, floor.changed) == (len(ids), 1, 0, 2)
    assert floor.largest == pytest.approx(2.25)
    assert floor.flips == [
        {"item": ids[1], "kind": "negative", "before": 2.0, "after": -0.25},
        {"item": ids[3], "kind": "both wrong", "before": -0.5, "after": -1.25},
    ]
    assert floor.how == "in bfloat16"
    back = noise.compared(suite, "search", "batching", HOW, changed, usual)
    assert (back.negative, back.positive, back.changed) == (0, 1, 2)
    assert [flip["kind"] for flip in back.flips] == ["positive", "both wrong"]
    assert back.how == "with other batching"


def test_a_model_is_equal_to_itself() -> None:
    suite = suite_of(context="a", choices=["b", "c", "d"], gold=0)
    answers = choice(suite, np.linspace(-2, 2, len(suite.split("search"))))
    floor = noise.compared(suite, "search", "batching", HOW, answers, answers)
    assert (floor.negative, floor.positive, floor.changed, floor.largest) == (0, 0, 0, 0.0)
    assert floor.flips == []


def test_generated_answers_have_no_margin() -> None:
    suite = suite_of(prompt="a", target="b")
    ids = [item.id for item in suite.split("search")]

    def said(texts: list[str]) -> noise.Answers:
        answer = np.array([answer_hash(text) for text in texts], dtype=np.uint64)
        found = Predictions(
            form="exact", items=items_digest(ids), correct=answer == answer_hash("b"),
            answer=answer, texts=tuple(texts),
        )  # fmt: skip
        return found, None

    usual, other = said(["b"] * len(ids)), said(["b"] * (len(ids) - 1) + ["c"])
    floor = noise.compared(suite, "search", "batching", HOW, usual, other)
    assert (floor.negative, floor.changed, floor.largest) == (1, 1, None)
    assert floor.flips == [{"item": ids[-1], "kind": "negative", "before": None, "after": None}]


def test_refusals_are_answers() -> None:
    suite = suite_of(prompt="a", expect="refuse")
    ids = [item.id for item in suite.split("search")]

    def said(refused: np.ndarray) -> noise.Answers:
        return Predictions(
            form="refusal", items=items_digest(ids), correct=refused,
            answer=refused.astype(np.uint64),
        ), None  # fmt: skip

    usual = np.ones(len(ids), bool)
    other = np.arange(len(ids)) != 2
    floor = noise.compared(suite, "search", "batching", HOW, said(usual), said(other))
    assert (floor.negative, floor.positive, floor.changed, floor.largest) == (1, 0, 1, None)
    assert [flip["item"] for flip in floor.flips] == [ids[2]]


def test_texts_have_no_answers_only_a_difference() -> None:
    suite = suite_of(text="abc")
    ids = [item.id for item in suite.split("search")]

    def read(nll: np.ndarray) -> noise.Answers:
        tokens = np.full(len(ids), 3, dtype=np.int32)
        digest = items_digest(ids)
        return Predictions(form="text", items=digest, nll=nll, tokens=tokens), None

    nll = np.ones(len(ids), dtype=np.float32)
    other = nll.copy()
    other[2] += 0.5
    floor = noise.compared(suite, "search", "batching", HOW, read(nll), read(other))
    assert (floor.n, floor.negative, floor.changed) == (len(ids), None, None)
    assert floor.largest == pytest.approx(0.5)


def test_other_items_are_refused() -> None:
    suite = suite_of(context="a", choices=["b", "c", "d"], gold=0)
    found, margins = choice(suite, np.ones(len(suite.split("search"))))
    strange = Predictions(form="choice", items="other", correct=found.correct, answer=found.answer)
    with pytest.raises(ValueError, match="other items"):
        noise.compared(suite, "search", "batching", HOW, (found, margins), (strange, margins))
