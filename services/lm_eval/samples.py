"""Stored answers as the files that lm-eval writes: samples_SUITE_TIME.jsonl and results_TIME.json.

Needs neither lm-eval nor a model. Log-likelihoods of options are not stored, so those in the files
are relative: 0 for the option that was chosen, the stored margin for the gold one if that was not
chosen, and for every other option the distance between the best two that is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from optim.predictions import Predictions
from services.suites import Item, Suite
from services.version import code_version

NO_FILTER = "none"
#: metrics of suites that Remelt scores by itself
METRICS = {False: "acc", True: "acc_bytes", "characters": "acc_norm"}
PLAIN = {"exact": "exact_match", "refusal": "behaved_as_expected"}
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def write_samples(
    folder: Path, answered: Sequence[tuple[Suite, Predictions]], about: Mapping[str, Any]
) -> list[Path]:
    """Write one file of samples a suite and one of results into a folder of the trial's own.

    `about` (study, trial, split, recipe) names it. `answered` holds the predictions of that split.
    """
    now = datetime.now(UTC)
    stamp = now.replace(tzinfo=None).isoformat().replace(":", "-")
    name = f"study-{about['study']}-trial-{about['trial']}-{about['split']}"
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    hashes: dict[str, str] = {}
    by_suite: dict[str, list[dict[str, Any]]] = {}
    for suite, predictions in answered:
        lines = by_suite[suite.name] = samples(suite, about["split"], predictions)
        joined = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in lines)
        hashes[suite.name] = _hash(joined)
        path = target / f"samples_{suite.name}_{stamp}.jsonl"
        text = (json.dumps(line, ensure_ascii=False) for line in lines)
        path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
        written.append(path)
    suites = [suite for suite, _ in answered]
    data = {
        **_aggregated(suites, by_suite),
        "config": {"model": "remelt", "model_args": dict(about)},
        "git_hash": None,
        "remelt_version": code_version(),
        "date": now.timestamp(),
        "task_hashes": hashes,
        "model_source": "remelt",
        "model_name": name,
        "model_name_sanitized": re.sub(r"[^\w.-]", "__", name),
    }
    path = target / f"results_{stamp}.json"
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, path]


def samples(suite: Suite, split: str, predictions: Predictions) -> list[dict[str, Any]]:
    """One line an item, as lm-eval's `log_samples` gives them."""
    places = {item.id: place for place, item in enumerate(suite.items)}
    items = suite.split(split)  # type: ignore[arg-type]
    return [_sample(suite, item, places[item.id], i, predictions) for i, item in enumerate(items)]


def _sample(
    suite: Suite, item: Item, place: int, index: int, predictions: Predictions
) -> dict[str, Any]:
    doc, target, requests = _asked(suite, item)
    first = str(requests[0][0])
    metrics = _metrics(suite, item, index, predictions)
    responses, filtered = _responses(item, index, predictions, len(requests))
    return {
        "doc_id": int(item.id) if item.asked is not None and item.id.isdigit() else place,
        "doc": doc,
        "target": target,
        "arguments": {
            f"gen_args_{i}": {f"arg_{j}": argument for j, argument in enumerate(request)}
            for i, request in enumerate(requests)
        },
        "resps": responses,
        "filtered_resps": filtered,
        "filter": _definition(suite, item).get("filter", NO_FILTER),
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(first),
        "target_hash": _hash(target),
        "item": item.id,
        "split": suite.split_of(item),
        **metrics,
    }


def _asked(suite: Suite, item: Item) -> tuple[dict[str, Any], str, list[list[Any]]]:
    """The document, its target as text, and the arguments of its requests."""
    if item.asked is not None:
        requests = [list(request[1:]) for request in item.asked["requests"]]
        return dict(item.asked["doc"]), str(item.asked["target"]), requests
    doc = item.to_dict(suite.form)
    if suite.form == "choice":
        return doc, str(item.gold), [[item.context, choice] for choice in item.choices]
    if suite.form == "exact":
        return doc, item.target, [[item.prompt, {"until": ["\n"], "do_sample": False}]]
    if suite.form == "refusal":
        how = {"until": [], "do_sample": False, "max_gen_toks": suite.answer_tokens}
        return doc, str(item.expect), [[item.prompt, how]]
    return doc, item.text, [[item.text]]


def _responses(item: Item, index: int, predictions: Predictions, requests: int) -> tuple[Any, Any]:
    """`resps` and `filtered_resps`, all of them strings, as lm-eval writes them."""
    if predictions.form in ("exact", "refusal"):
        assert predictions.texts is not None
        text = predictions.texts[index]
        return [[text]] * requests, [text] * requests
    if predictions.form == "text":
        assert predictions.nll is not None
        value = str(-float(predictions.nll[index]))
        return [[value]], [value]
    assert predictions.answer is not None
    assert predictions.margin is not None
    chosen, margin = int(predictions.answer[index]), float(predictions.margin[index])
    values = [-abs(margin)] * len(item.choices)
    values[chosen] = 0.0
    pairs = [[str(value), str(number == chosen)] for number, value in enumerate(values)]
    return [[pair] for pair in pairs], pairs


def _metrics(suite: Suite, item: Item, index: int, predictions: Predictions) -> dict[str, Any]:
    name = _definition(suite, item).get("metric")
    if predictions.form != "text":
        assert predictions.correct is not None
        plain = METRICS[suite.normalise] if suite.form == "choice" else PLAIN[suite.form]
        return {name or plain: float(predictions.correct[index])}
    assert predictions.nll is not None
    assert predictions.tokens is not None
    value = -float(predictions.nll[index])
    if name is not None:
        return {name: [value, int(predictions.tokens[index])]}
    words, size = len(re.split(r"\s+", item.text)), len(item.text.encode())
    return dict(zip(PERPLEXITIES, ([value, words], [value, size], [value, size]), strict=True))


def _definition(suite: Suite, item: Item) -> Mapping[str, Any]:
    if suite.task is None or item.asked is None:
        return {}
    found: Mapping[str, Any] = suite.task["tasks"][item.asked["task"]]
    return found


def _aggregated(
    suites: Sequence[Suite], by_suite: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """The tables of a results file, by suite."""
    results: dict[str, Any] = {}
    better: dict[str, Any] = {}
    for suite in suites:
        lines = by_suite[suite.name]
        row: dict[str, Any] = {"alias": suite.name}
        for name in dict.fromkeys(name for line in lines for name in line["metrics"]):
            value, error = _mean(name, [line[name] for line in lines if name in line])
            filter_ = next(line["filter"] for line in lines if name in line)
            row |= {f"{name},{filter_}": value, f"{name}_stderr,{filter_}": error}
            better.setdefault(suite.name, {})[name] = suite.form != "text"
        results[suite.name] = row
    definitions = {s.name: _definition(s, s.items[0]) for s in suites}
    return {
        "results": results,
        "group_subtasks": {suite.name: [] for suite in suites},
        "configs": {
            suite.name: {"task": suite.name, "digest": suite.digest, **definitions[suite.name]}
            for suite in suites
        },
        "versions": {name: found.get("version", "N/A") for name, found in definitions.items()},
        "n-shot": {name: found.get("num_fewshot", 0) for name, found in definitions.items()},
        "higher_is_better": better,
        "n-samples": {
            suite.name: {"original": len(suite), "effective": len(by_suite[suite.name])}
            for suite in suites
        },
    }


def _mean(metric: str, values: Sequence[Any]) -> tuple[float, float | str]:
    """lm-eval's aggregate of a metric, and its standard error."""
    if isinstance(values[0], list):
        ratio = sum(value for value, _ in values) / sum(units for _, units in values)
        found = -ratio / math.log(2) if metric == "bits_per_byte" else math.exp(min(-ratio, 700))
        return found, "N/A"
    array = np.array(values, dtype=np.float64)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else "N/A"
    return float(array.mean()), error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
