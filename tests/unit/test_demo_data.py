"""The demo's words: the same every time, no word on both sides, no suite that a constant wins."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import NotFound
from services.suites import parse_suite
from workers.demo import data
from workers.demo.data import TASKS, Corpus, Example, balanced, load_corpus, suite_text
from workers.demo.plan import demo_plan

DIGEST = """
import hashlib
from workers.demo.data import load_corpus
print(hashlib.sha256(repr(load_corpus()).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def test_the_same_in_another_process_with_another_hash_seed(corpus: Corpus) -> None:
    other = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(repr(corpus).encode()).hexdigest()


def test_no_word_of_a_suite_is_asked_about_in_training(corpus: Corpus) -> None:
    train = {example.word for examples in corpus.train.values() for example in examples}
    held_out = {example.word for examples in corpus.held_out.values() for example in examples}
    assert not train & held_out


@pytest.mark.parametrize("name", TASKS)
def test_every_suite_parses_and_asks_every_question_once(corpus: Corpus, name: str) -> None:
    examples = corpus.held_out[name]
    suite = parse_suite(name, suite_text(examples), where=f"{name}.jsonl")
    assert suite.form == ("choice" if TASKS[name].options else "exact")
    assert 400 <= len(suite) <= 600
    assert len({example.prompt for example in examples}) == len(suite)
    assert {item.id for item in suite.items} == {f"{i:04d}" for i in range(len(suite))}
    assert len(corpus.train[name]) > 5000
    for item, example in zip(suite.items, examples, strict=True):
        asked = (
            item.context + item.choices[item.gold] if item.choices else item.prompt + item.target
        )
        assert asked == example.prompt + example.answer


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.options])
def test_answers_are_balanced(corpus: Corpus, name: str) -> None:
    for examples in (corpus.train[name], corpus.held_out[name]):
        counts = Counter(example.answer.strip() for example in examples)
        assert set(counts) == set(TASKS[name].options)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_half_of_the_inflections_need_more_than_an_ending(corpus: Corpus) -> None:
    groups = Counter(example.group for example in corpus.held_out["inflection"])
    assert {group.split()[0] for group in groups} == {"Plural", "Past", "Gerund", "Present"}
    changed = sum(count for group, count in groups.items() if group.endswith("changed"))
    assert changed == pytest.approx(len(corpus.held_out["inflection"]) / 2, abs=5)


def test_known_answers() -> None:
    known = {
        "Language: haus =": " German",
        "Stress: banana =": " Second",
        "Syllables: banana =": " Three",
        "Class: retrieve =": " Verb",
        "Plural: child =": " children",
        "Gerund: stop =": " stopping",
        "Past: teach =": " taught",
    }
    found = [e for task in TASKS.values() for e in task.read() if e.prompt in known]
    assert {e.prompt: e.answer for e in found} == known
    assert len(found) == len(known)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    count=st.integers(1, 80),
    order=st.randoms(use_true_random=False),
)
def test_balanced_is_even_full_and_blind_to_order(
    sizes: list[int], count: int, order: Random
) -> None:
    examples = [
        Example(task="t", word="w", prompt=f"{group}/{i}", answer=" a", group=str(group))
        for group, size in enumerate(sizes)
        for i in range(size)
    ]
    chosen = balanced(examples, count)
    assert len(chosen) == min(count, len(examples))
    taken = Counter(example.group for example in chosen)
    for group, size in enumerate(sizes):
        # a group gets less than the fullest one only when it has no more
        assert taken[str(group)] >= min(size, max(taken.values()) - 1)
    order.shuffle(examples)
    assert balanced(examples, count) == chosen


def test_a_missing_package_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.PACKAGES, "lemminflect", "no_such_package")
    with pytest.raises(NotFound, match=r"lemminflect.*remelt\[demo\]"):
        data.package_versions()


def test_the_plan_uses_every_task_and_its_digest_says_what_changed() -> None:
    plan = demo_plan()
    versions = {"words": "1"}
    assert all(set(stage.mixture) == set(TASKS) for stage in plan.stages)
    assert len({stage.name for stage in plan.stages}) == len(plan.stages)
    others = [demo_plan(1), plan.scaled(7)]
    digests = {p.digest(versions) for p in (plan, *others)} | {plan.digest({"words": "2"})}
    assert len(digests) == 4
    assert plan.digest(versions) == demo_plan().digest(json.loads(json.dumps(versions)))
