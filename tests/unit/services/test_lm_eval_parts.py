"""Parts of the bridge to lm-eval that need no lm-eval: generation arguments, named functions, and
what is written of stored answers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from optim.predictions import Predictions, items_digest
from services.errors import BadInput
from services.lm_eval.functions import freeze, thaw
from services.lm_eval.generation import DEFAULT_MOST, Generation
from services.lm_eval.samples import samples, write_samples
from services.suites import Item, Suite


@pytest.mark.parametrize(
    ("arguments", "until", "most"),
    [
        ({}, (), DEFAULT_MOST),
        ({"until": "."}, (".",), DEFAULT_MOST),
        ({"until": ["a", "", "b"], "max_gen_toks": 7}, ("a", "b"), 7),
        ({"max_new_tokens": 5, "max_gen_toks": 7}, (), 7),
        ({"max_tokens": 3, "temperature": 0.0, "do_sample": False}, (), 3),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.9}, (), DEFAULT_MOST),
        ({"num_beams": 1, "until": ["\n"]}, ("\n",), DEFAULT_MOST),
    ],
)
def test_greedy_arguments(arguments: dict[str, Any], until: tuple[str, ...], most: int) -> None:
    assert Generation.of(arguments, where="w") == Generation(until=until, most=most)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"do_sample": True}, "the task samples its answers"),
        ({"temperature": 0.5}, "the task samples its answers"),
        ({"num_beams": 4}, "generation argument 'num_beams' is not supported"),
    ],
)
def test_arguments_that_are_not_greedy(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        Generation.of(arguments, where="task t")
    assert caught.value.where == "task t"
    assert caught.value.mend


def test_answers_end_before_the_first_stop_string() -> None:
    how = Generation(until=("\n", "stop"), most=9)
    assert how.cut("one\ntwo stop") == "one"
    assert how.cut("one stop\ntwo") == "one "
    assert how.cut("one") == "one"
    assert how.stops("a stop")
    assert not how.stops("a sto")


def test_only_functions_of_lm_evals_tasks_are_named() -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results

    frozen = freeze({"a": [1, "b", process_results]}, "t")
    assert json.loads(json.dumps(frozen)) == frozen
    thawed = thaw(frozen, "t")
    assert thawed["a"][2].__code__.co_code == process_results.__code__.co_code
    for foreign in (json.loads, lambda doc: doc, print):
        with pytest.raises(BadInput, match="code that workers do not have"):
            freeze({"a": foreign}, "t")
    for name in ("os:system", "lm_eval.utils:hash_string", "lm_eval.tasks"):
        with pytest.raises(BadInput, match="is not one of lm-eval's tasks"):
            thaw({"!function": name}, "t")
    with pytest.raises(BadInput, match="cannot be found"):
        thaw({"!function": "lm_eval.tasks.nothing:here"}, "t")


ITEMS = tuple(
    Item(id=f"i{n}", context=f"c{n}", choices=("a", "bc", "d"), gold=n % 3) for n in range(4)
)


def answered(suite: Suite, split: str) -> Predictions:
    items = suite.split(split)  # type: ignore[arg-type]
    count = len(items)
    ids = items_digest([item.id for item in items])
    if suite.form == "text":
        nll = np.arange(1, count + 1, dtype=np.float32)
        return Predictions(form="text", items=ids, nll=nll, tokens=np.full(count, 2, np.int32))
    gold = np.array([item.gold for item in items])
    right = np.arange(count) % 2 == 0
    chosen = np.where(right, gold, (gold + 1) % 3).astype(np.uint64)
    margin = np.where(right, 0.5, -2.0).astype(np.float16)
    return Predictions(form="choice", items=ids, correct=right, answer=chosen, margin=margin)


def test_options_that_were_chosen_are_the_likeliest_in_the_logs() -> None:
    suite = Suite(name="s", form="choice", items=ITEMS, normalise="characters")
    found = answered(suite, "search")
    lines = samples(suite, "search", found)
    assert [line["item"] for line in lines] == [item.id for item in suite.split("search")]
    for line, item, chosen, margin in zip(
        lines, suite.split("search"), found.answer, found.margin, strict=True
    ):
        values = [float(value) for value, _ in line["filtered_resps"]]
        assert values.index(max(values)) == chosen
        others = [value for number, value in enumerate(values) if number != item.gold]
        assert values[item.gold] - max(others) == pytest.approx(float(margin))
        assert line["resps"] == [[pair] for pair in line["filtered_resps"]]
        assert line["metrics"] == ["acc_norm"]
        assert line["acc_norm"] == float(chosen == item.gold)
        assert line["doc_id"] == int(item.id[1:])
        assert line["arguments"]["gen_args_1"] == {"arg_0": item.context, "arg_1": "bc"}


def test_perplexities_of_texts(tmp_path: Any) -> None:
    items = tuple(Item(id=f"i{n}", text="one two é") for n in range(8))
    suite = Suite(name="s", form="text", items=items)
    about = {"study": 3, "trial": 7, "split": "search", "recipe": "abc"}
    paths = write_samples(tmp_path, [(suite, answered(suite, "search"))], about)
    assert {path.parent.name for path in paths} == {"study-3-trial-7-search"}
    results = json.loads(paths[-1].read_text())
    count = len(suite.split("search"))
    nll = sum(range(1, count + 1))
    row = results["results"]["s"]
    assert row["word_perplexity,none"] == pytest.approx(math.exp(nll / (3 * count)))
    assert row["bits_per_byte,none"] == pytest.approx(nll / (10 * count) / math.log(2))
    assert results["n-samples"]["s"] == {"original": 8, "effective": count}
    assert results["config"]["model_args"] == about
