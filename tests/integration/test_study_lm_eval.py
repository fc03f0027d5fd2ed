"""A study over suites made from lm-eval tasks, by real workers and engines: what stands in the rows
is what lm-eval's own loop gives for the checkpoint."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from services import stored_suites
from services.cli import cli
from services.lm_eval.load import TaskOptions
from services.lm_eval.tasks import read_task
from services.settings import Settings
from services.studies import read
from services.studies.record import load_trials
from services.studies.sealed import sealed_predictions
from workers.evaluate import main

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

SPEC = """
name: tasks
pool: tiny
suites: [plain, judged, spoken, rolled]
objectives: [macro, rolled]
search: {method: random, parallelism: 3}
budget: {trials: 3, finalists: 2}
"""
COMMON = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl}}
test_split: test
metadata: {version: 1.0}
"""
TASKS = {
    "plain": """
output_type: multiple_choice
doc_to_text: "{{word}} ="
doc_to_choice: [n, p, s]
doc_to_target: gold
""",
    "judged": """
output_type: multiple_choice
doc_to_text: gold
doc_to_choice: ["{{word}} n", "{{word}} p"]
doc_to_target: "s"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "spoken": """
output_type: generate_until
doc_to_text: "{{word}} ="
doc_to_target: "{{word[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - name: letter
    filter: [{function: regex, regex_pattern: "([a-z])"}, {function: take_first}]
""",
    "rolled": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{word}} {{word}}"
""",
}
ITEMS = 40


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks whose questions fit the tiny pool's 64 letters."""
    folder = tmp_path_factory.mktemp("own-tasks")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(COMMON.replace("NAME", name) + text)
    rng = random.Random(1)
    docs = [
        {"word": "".join(rng.choices("abcdefgh", k=rng.randint(2, 6))), "gold": rng.randrange(2)}
        for _ in range(ITEMS)
    ]
    (folder / "docs.jsonl").write_text("".join(f"{json.dumps(doc)}\n" for doc in docs))
    return folder


def test_a_study_over_tasks(
    config: Settings,
    prepared: Callable[..., None],
    running_stack: Callable[..., Any],
    tiny_pool: Path,
    tasks: Path,
    assert_invariants: AssertInvariants,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert config.database_url is not None
    prepared(config.database_url.get_secret_value(), config, tiny_pool)
    with running_stack(config, evaluate=1) as stack:
        suites = {n: read_task(n, n, TaskOptions(include_path=tasks)) for n in TASKS}
        for suite in suites.values():
            stored_suites.store_suite(stack.database, suite)
        number = stack.submit(SPEC)
        assert stack.finished(number) == "finished", stack.logs()
        assert_invariants(stack.database, number, config)
        study = read.get_study(stack.database, number)
        with stack.database.transaction() as connection:
            reference = load_trials(connection, number, "search")[0]
        # the study has made its choice: all three splits may be read
        found = [
            read.predictions(stack.database, study, reference.number, "search"),
            read.predictions(stack.database, study, reference.number, "validation"),
            sealed_predictions(stack.database, number, reference.number, purpose="a test"),
        ]
    logs = config.home / "logs-of-trial"
    done = CliRunner().invoke(cli, ["export", str(number), "--lm-eval", str(logs), "--trial", "0"])
    assert done.exit_code == 0, done.output
    assert done.output.count("wrote ") == len(TASKS) + 1
    assert len(list(logs.glob("study-*-trial-0-validation/samples_*.jsonl"))) == len(TASKS)
    assert [suite.form for suite in study.suites] == ["choice", "choice", "exact", "text"]
    # lm-eval's own loop over all documents of the reference, and the rows of all its splits
    main([str(tiny_pool / "pool/now"), "--lm-eval", *TASKS, "--include-path", str(tasks), "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    metrics = {"plain": "acc,none", "judged": "acc,none", "spoken": "exact_match,letter"}
    for name, metric in metrics.items():
        right = sum(int(by_suite[name].correct.sum()) for by_suite in found)
        assert right == round(results[name][metric] * ITEMS)
    nll, words = (
        sum(float(getattr(by_suite["rolled"], field).sum()) for by_suite in found)
        for field in ("nll", "tokens")
    )
    assert math.exp(nll / words) == pytest.approx(
        results["rolled"]["word_perplexity,none"], rel=1e-3
    )
    texts = [text for by_suite in found for text in by_suite["spoken"].texts]
    assert all(len(text) == 1 or text == "[invalid]" for text in texts)
