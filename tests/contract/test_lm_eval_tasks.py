"""lm-eval's tasks on the live engine: as suites, every item is judged as lm-eval judges it with its
own back end; run as they are, every metric is lm-eval's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.errors import BadInput, SuiteRefused
from services.lm_eval.load import TaskOptions, load_tasks
from services.lm_eval.tasks import read_task
from services.settings import Settings
from services.suites import Suite
from tests.plugins.lm_tasks import DOCS, TASKS
from tests.plugins.shuffled import Shuffled
from tests.plugins.tiny_models import SPECIAL, TEXT, VOCABULARY, Save
from workers.engine.client import Engine, SuiteResult
from workers.lm_eval_run import results_table, run_tasks

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = pytest.mark.timeout(600)
#: tasks that a suite can be made of
REGISTERED = [name for name in TASKS if name not in ("own", "samples")]
#: tasks that lm-eval can run on it
RUNNABLE = [name for name in TASKS if name != "samples"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    config = Settings(home=folder, engine_device="cpu", batch_tokens=300)
    with Engine(config, log_dir=folder) as started:
        yield started


@pytest.fixture(scope="module", params=["Llama", "GPT2"])
def folder(request: pytest.FixtureRequest, tiny_model: Save) -> Path:
    """A model whose tokenizer opens texts, and one whose does not."""
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> Any:
    """lm-eval's own back end around the same weights, one request at a time."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=1)


def recipe_of(engine: Engine, folder: Path) -> Recipe:
    """The checkpoint as it is, resident."""
    checkpoint = read_checkpoint(folder)
    engine.load([(checkpoint.digest, folder)], checkpoint.dtype)
    return Recipe.one_hot((checkpoint.digest,), 0, checkpoint.dtype)


def scored(engine: Engine, folder: Path, suite: Suite) -> SuiteResult:
    results: list[SuiteResult] = []
    engine.evaluate(recipe_of(engine, folder), [suite], None, on_suite=results.append)
    return results[0]


def samples(model: Any, tasks: Path, name: str) -> dict[str, list[Any]]:
    """lm-eval's own results and samples of a task or group."""
    from lm_eval.evaluator import evaluate

    loaded = load_tasks([name], TaskOptions(include_path=tasks))
    return evaluate(lm=model, task_dict=loaded, bootstrap_iters=0, log_samples=True)


def lines(found: dict[str, Any], task: str, filter_: str = "none") -> list[Any]:
    return [line for line in found["samples"][task] if line["filter"] == filter_]


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes"])
def test_ranked_options_become_a_plain_suite(
    engine: Engine, folder: Path, hugging_face: Any, lm_tasks: Path, metric: str
) -> None:
    suite = read_task("r", "rank", TaskOptions(include_path=lm_tasks, metric=metric))
    assert suite.task is None
    found = scored(engine, folder, suite).predictions
    theirs = lines(samples(hugging_face, lm_tasks, "rank"), "rank")
    assert found.correct.tolist() == [line[metric] for line in theirs]
    for item, answer, margin, line in zip(
        suite.items, found.answer, found.margin, theirs, strict=True
    ):
        values = np.array([value for value, _ in line["filtered_resps"]]) / suite.lengths(item)
        assert answer == values.argmax()
        expected = values[item.gold] - np.delete(values, item.gold).max()
        assert margin == pytest.approx(expected, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", [n for n in REGISTERED if n not in ("rank", "rank_more", "read")])
def test_items_are_judged_as_lm_eval_judges_them(
    engine: Engine, folder: Path, hugging_face: Any, lm_tasks: Path, name: str
) -> None:
    suite = read_task("s", name, TaskOptions(include_path=lm_tasks))
    assert suite.task is not None
    definition = suite.task["tasks"][name]
    result = scored(engine, folder, suite)
    found = result.predictions
    theirs = lines(samples(hugging_face, lm_tasks, name), name, definition["filter"])
    right = [float(line[definition["metric"]]) >= 0.5 for line in theirs]
    assert found.correct.tolist() == right
    assert len(found) == DOCS
    assert (result.item_tokens > 0).all()
    if name == "say":
        assert list(found.texts) == [line["filtered_resps"][0].strip() for line in theirs]
        assert len(set(found.texts)) > 3, "or this shows little"
    if suite.form == "choice":
        assert ((found.margin > 0) == found.correct).all() or name == "mc2"


def test_rolling_texts_of_any_length(
    engine: Engine, folder: Path, hugging_face: Any, lm_tasks: Path
) -> None:
    suite = read_task("s", "read", TaskOptions(include_path=lm_tasks))
    found = scored(engine, folder, suite).predictions
    theirs = samples(hugging_face, lm_tasks, "read")
    pairs = [line["word_perplexity"] for line in lines(theirs, "read")]
    assert found.nll == pytest.approx([-value for value, _ in pairs], rel=1e-4)
    assert found.tokens.tolist() == [words for _, words in pairs]
    perplexity = theirs["results"]["read"]["word_perplexity,none"]
    assert np.exp(found.score()) == pytest.approx(perplexity, rel=1e-3)
    longest = max(len(engine_words.split()) for engine_words in (i.text for i in suite.items))
    assert longest > 96, "some must be cut into windows"


def test_two_ranks_judge_and_answer_alike(
    engine: Engine, tiny_model: Save, lm_tasks: Path, tmp_path: Path
) -> None:
    folder, here = tiny_model("Llama"), TaskOptions(include_path=lm_tasks, limit=12)
    suites = [read_task(name, name, here) for name in ("several", "say", "read")]
    loaded = [load_tasks(["mutual", "say"], here) for _ in range(2)]
    config = Settings(home=tmp_path, engine_device="cpu", engine_ranks=2, batch_tokens=300)
    found: list[dict[str, SuiteResult]] = []
    runs: list[Any] = []
    with Engine(config, log_dir=tmp_path) as pair:
        for one, tasks in zip((engine, pair), loaded, strict=True):
            results: dict[str, SuiteResult] = {}
            recipe = recipe_of(one, folder)
            one.evaluate(
                recipe, suites, None, on_suite=lambda r, into=results: into.update({r.suite: r})
            )
            found.append(results)
            runs.append(run_tasks(one, recipe, tasks, 5, lambda progress: True)[0]["results"])
    for suite in suites:
        alone, both = (results[suite.name].predictions for results in found)
        if suite.form == "text":
            assert both.nll == pytest.approx(alone.nll, rel=1e-4)
        else:
            assert both.answer.tolist() == alone.answer.tolist()
            assert both.correct.tolist() == alone.correct.tolist()
    assert runs[0] == runs[1]


def test_a_group_is_one_suite(engine: Engine, folder: Path, lm_tasks: Path) -> None:
    suite = read_task("g", "ranks", TaskOptions(include_path=lm_tasks, limit=10))
    # all tasks are asked, not a sample of them: items count as independent
    named = {(item.id.split("/")[0], item.cluster) for item in suite.items}
    assert (len(suite), named) == (20, {("rank", None), ("rank_more", None)})
    assert len(scored(engine, folder, suite).predictions) == 20


def test_a_run_gives_lm_evals_own_numbers(
    engine: Engine, folder: Path, hugging_face: Any, lm_tasks: Path
) -> None:
    names = [*(name for name in RUNNABLE if not name.startswith("rank")), "ranks"]
    loaded = load_tasks(names, TaskOptions(include_path=lm_tasks))
    recipe = recipe_of(engine, folder)
    ours, truncated = run_tasks(engine, recipe, loaded, None, lambda progress: True)
    assert truncated == 0
    for name in names:
        theirs = samples(hugging_face, lm_tasks, name)["results"]
        for task, metrics in theirs.items():
            for metric, value in metrics.items():
                if isinstance(value, float) and "stderr" not in metric:
                    assert ours["results"][task][metric] == pytest.approx(value, rel=1e-4), metric
    table = results_table(ours)
    assert all(f"|{name}" in table for name in names)


def test_what_the_model_would_say_itself_is_greedy(
    engine: Engine, folder: Path, hugging_face: Any
) -> None:
    from lm_eval.api.instance import Instance

    from workers.engine.lm_eval import LiveLM

    live = LiveLM(engine, recipe_of(engine, folder))
    words = TEXT.split()
    prompts = [f"{words[n % len(words)]} ran {words[n * 7 % len(words)]}" for n in range(20)]

    def ask(model: Any, kind: str, pairs: list[tuple[str, Any]]) -> list[Any]:
        asked = [Instance(request_type=kind, doc={}, arguments=p, idx=0) for p in pairs]  # type: ignore[arg-type]
        return getattr(model, kind)(asked)

    how = {"until": ["r"], "max_gen_toks": 6}
    said = ask(live, "generate_until", [(prompt, how) for prompt in prompts])
    assert said == ask(hugging_face, "generate_until", [(prompt, how) for prompt in prompts])
    every = [hugging_face.tokenizer.decode([token]) for token in range(len(SPECIAL), VOCABULARY)]
    pairs = [(prompt, text) for prompt in prompts for text in every if text.isascii()]
    # where prompt and text melt into one token, lm-eval has nothing to score and says (0, True)
    length = {text: len(hugging_face.tok_encode(text)) for text in {*prompts, *map("".join, pairs)}}
    pairs = [(prompt, text) for prompt, text in pairs if length[prompt + text] > length[prompt]]
    mine, theirs = (ask(model, "loglikelihood", pairs) for model in (live, hugging_face))
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
    assert 0 < sum(greedy for _, greedy in mine) < len(mine)
    assert [v for v, _ in mine] == pytest.approx([v for v, _ in theirs], rel=1e-4, abs=1e-4)


def test_requests_longer_than_the_model_lose_their_beginning_and_are_counted(
    engine: Engine, folder: Path, hugging_face: Any, lm_tasks: Path
) -> None:
    from lm_eval.api.instance import Instance

    from workers.engine.lm_eval import LiveLM

    text = " ".join(["the cat sat on a mat and dogs ran"] * 12)
    arguments = [
        ("loglikelihood", (text, " over hills")),
        ("generate_until", (text, {"until": []})),
    ]
    arguments[1][1][1]["max_gen_toks"] = 8
    live = LiveLM(engine, recipe_of(engine, folder))
    for kind, pair in arguments:
        request = [Instance(request_type=kind, doc={}, arguments=pair, idx=0)]  # type: ignore[arg-type]
        [mine], [theirs] = getattr(live, kind)(request), getattr(hugging_face, kind)(request)
        if kind == "loglikelihood":
            assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
            assert mine[1] == theirs[1]
        else:
            assert mine == theirs
    assert live.truncated == 2


def test_in_a_suite_nothing_is_cut(engine: Engine, folder: Path, lm_tasks: Path) -> None:
    suite = read_task("s", "last", TaskOptions(include_path=lm_tasks))
    long = " ".join(["the cat"] * 60)
    items = tuple(
        type(i)(id=i.id, prompt=i.prompt, target=i.target, asked={
            **i.asked, "requests": [["loglikelihood", long, " a"]]
        })
        for i in suite.items[:1]
    )  # fmt: skip
    grown = Suite(name="s", form="exact", items=items, task=suite.task)
    with pytest.raises(BadInput, match=r"suite 's', item '0': needs \d+ positions"):
        scored(engine, folder, grown)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("nothing", {}, "task nothing: is not known. Near to it: "),
        ("ranked", {}, "Near to it: rank"),
        ("rank", {"metric": "f1"}, "has no metric 'f1'. It has: acc, acc_norm, acc_bytes"),
        ("say", {"filter": "x"}, "has no filter 'x'. It has: first-word, all"),
        ("own", {}, "is scored by 'judge' of .*code, code that workers do not have"),
        ("samples", {}, "document 0: the task samples its answers"),
        ("last", {"metric": "perplexity", "limit": 1}, "split is empty"),
        ("rank", {"include_path": Path("/nowhere")}, "include path /nowhere is no folder"),
    ],
)
def test_refusals(lm_tasks: Path, task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        read_task("s", task, TaskOptions(**{"include_path": lm_tasks, **options}))
    assert caught.value.mend


def test_a_task_whose_data_is_gone(lm_tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.yaml").write_text((lm_tasks / "rank.yaml").read_text())
    with pytest.raises(SuiteRefused, match=r"lm-eval cannot load it .*FileNotFoundError"):
        read_task("s", "rank", TaskOptions(include_path=tmp_path))


def test_registering_again_gives_the_same_suite(lm_tasks: Path) -> None:
    for task in REGISTERED:
        options = TaskOptions(include_path=lm_tasks)
        one, other = read_task("a", task, options), read_task("b", task, options)
        assert one.digest == other.digest
    fewer = read_task("a", "rank", TaskOptions(include_path=lm_tasks, num_fewshot=1))
    assert fewer.digest != read_task("a", "rank", TaskOptions(include_path=lm_tasks)).digest


@pytest.mark.parametrize("name", ["several", "say"])
def test_items_are_judged_the_same_in_blocks(
    engine: Engine, folder: Path, lm_tasks: Path, name: str
) -> None:
    suite = read_task("s", name, TaskOptions(include_path=lm_tasks))
    assert suite.task is not None
    whole, race = scored(engine, folder, suite), Shuffled(3, ["s"])
    found: list[SuiteResult] = []
    recipe = recipe_of(engine, folder)
    engine.evaluate(recipe, [suite], None, on_suite=found.append, race=race)
    assert np.array_equal(whole.predictions.correct, found[0].predictions.correct)
    assert np.array_equal(whole.predictions.answer, found[0].predictions.answer)
    assert whole.predictions.texts == found[0].predictions.texts
    assert sorted(race.items("s")) == list(range(len(suite)))
    assert len(race.drawn) > 4
