"""lm-eval tasks on local files, of every kind: what a team keeps in its own folder of tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.tiny_models import TEXT

#: task file -> its text; data files stand beside it
TASKS = {
    "rank": """
        output_type: multiple_choice
        doc_to_text: "{{q}} ="
        doc_to_choice: "{{options}}"
        doc_to_target: gold
        num_fewshot: 2
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
          - {metric: acc_norm, aggregation: mean, higher_is_better: true}
          - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
        """,
    "rank_more": "include: rank.yaml\nnum_fewshot: 0",
    "inputs": """
        output_type: multiple_choice
        doc_to_text: gold
        doc_to_choice: "{{options}}"
        doc_to_target: "{{q}}"
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
        """,
    "several": """
        output_type: multiple_choice
        doc_to_text: "{{q}}"
        doc_to_choice: "{{options}}"
        doc_to_target: golds
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        """,
    "mutual": """
        output_type: multiple_choice
        doc_to_text: "{{q}}"
        doc_to_choice: "{{options}}"
        doc_to_target: gold
        metric_list:
          - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
        """,
    "mc2": """
        output_type: multiple_choice
        doc_to_text: "{{q}}"
        doc_to_choice: "{{options}}"
        doc_to_target: 0
        process_results: !function lm_eval.tasks.truthfulqa.utils.process_results_mc2
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
        """,
    "say": """
        output_type: generate_until
        doc_to_text: "{{q}} ="
        doc_to_target: "{{word}}"
        generation_kwargs: {until: [" t", "a"], max_gen_toks: 12, do_sample: false}
        num_fewshot: 1
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
        filter_list:
          - name: first-word
            filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]
          - name: all
            filter: [{function: take_first}]
        """,
    "last": """
        output_type: loglikelihood
        doc_to_text: "{{q}}"
        doc_to_target: " {{word}}"
        metric_list:
          - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
          - {metric: acc, aggregation: mean, higher_is_better: true}
        """,
    "read": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{long}}"
        metric_list:
          - {metric: word_perplexity}
          - {metric: byte_perplexity}
          - {metric: bits_per_byte}
        """,
    "own": """
        output_type: multiple_choice
        doc_to_text: !function code.ask
        doc_to_choice: "{{options}}"
        doc_to_target: gold
        process_results: !function code.judge
        metric_list:
          - {metric: mine, aggregation: mean, higher_is_better: true}
        """,
    "samples": """
        output_type: generate_until
        doc_to_text: "{{q}}"
        doc_to_target: "{{word}}"
        generation_kwargs: {until: ["."], do_sample: true, temperature: 0.7}
        """,
}
COMMON = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
fewshot_split: train
metadata: {version: 1.0}
"""
CODE = """
def ask(doc):
    return doc["q"] + " ="

def judge(doc, results):
    return {"mine": float(results[0][0] > results[1][0])}
"""
WORDS = TEXT.split()
#: documents of the test split
DOCS = 30


@pytest.fixture(scope="session")
def lm_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task file of each kind in `TASKS`, group `ranks`, and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in TASKS.items():
        lines = [line.strip("\n") for line in text.split("\n")]
        body = "\n".join(line[8:] if line.startswith(" " * 8) else line for line in lines)
        included = "include:" in body
        common = f"task: {name}\n" if included else COMMON.replace("NAME", name)
        (folder / f"{name}.yaml").write_text(common + body + "\n")
    (folder / "ranks.yaml").write_text(
        "group: ranks\ntask: [rank, rank_more]\naggregate_metric_list: [{metric: acc}]\n"
    )
    (folder / "code.py").write_text(CODE)
    rng = random.Random(3)
    for split, count in (("train", 8), ("test", DOCS)):
        docs = [json.dumps(_doc(rng, number)) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(docs) + "\n")
    return folder


def _doc(rng: random.Random, number: int) -> dict[str, Any]:
    def phrase(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

    options = [phrase(2), phrase(4) + "s", phrase(6) + " é"]
    return {
        "q": phrase(6),
        "options": options,
        "gold": rng.randrange(3),
        "golds": [0, 2] if number % 2 else [1],
        "mc2_targets": {"labels": [1, 0, 1], "choices": options},
        "word": rng.choice(WORDS),
        # some are longer than a tiny model
        "long": " ".join(phrase(6) for _ in range(rng.randint(1, 30))),
    }
