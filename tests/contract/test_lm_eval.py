"""The engine's numbers are those of lm-eval's Hugging Face back end: every log-likelihood, every
greedy answer, item by item, on the same weights in float32.

lm-eval runs in memory and offline, one request at a time; the engine in batches of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.checkpoints import read_checkpoint
from services.suites import Item, Suite, parse_suite
from tests.plugins.tiny_models import MODELS, TEXT, Save
from workers.engine.build import build_frame
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.generate import GenerationPlan, greedy_answers
from workers.engine.layout import Layout
from workers.engine.model import LiveModel
from workers.engine.score import first_line, log_likelihoods

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

pytestmark = pytest.mark.timeout(600)
WORDS = TEXT.split()
#: allowed difference of two log-likelihoods, relative to the larger one (or to 1 nat)
RELATIVE = 1e-4
#: small, so that the engine makes several batches of every kind
BATCH_TOKENS = 200


def instance(kind: str, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)  # type: ignore[arg-type]


class Theirs:
    """lm-eval's HFLM around a model that is in memory already."""

    def __init__(self, folder: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from lm_eval.models.huggingface import HFLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.lm = HFLM(
            pretrained=model,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            backend="causal",
            device="cpu",
            batch_size=1,
        )

    def choices(self, items: Sequence[Item]) -> np.ndarray:
        """Log-likelihood of every option of every item, in order."""
        pairs = [(item.context, choice) for item in items for choice in item.choices]
        requests = [instance("loglikelihood", *pair) for pair in pairs]
        return np.array([value for value, _ in self.lm.loglikelihood(requests, disable_tqdm=True)])

    def tokens(self, context: list[int], scored: list[int]) -> float:
        """Log-likelihood of tokens after others."""
        [(value, _)] = self.lm._loglikelihood_tokens([((), context, scored)], disable_tqdm=True)  # type: ignore[list-item]
        return value

    def rolling(self, text: str) -> float:
        [value] = self.lm.loglikelihood_rolling(
            [instance("loglikelihood_rolling", text)], disable_tqdm=True
        )
        return value

    def answer(self, prompt: str, most: int) -> str:
        """The greedy answer, at most so many tokens."""
        request = instance("generate_until", prompt, {"until": [], "max_gen_toks": most})
        [text] = self.lm.generate_until([request], disable_tqdm=True)
        return text.strip()


@dataclass
class Ours:
    """The live model, in this process."""

    model: LiveModel

    @classmethod
    def of(cls, folder: Path) -> Ours:
        checkpoint = read_checkpoint(folder)
        frame = build_frame(folder, torch.float32, torch.device("cpu"))
        layout = Layout.of(checkpoint.tensors, fused=frame.names.fused)
        flat = torch.zeros(layout.size + frame.slack)
        views = dict(layout.views(flat))
        for file in folder.glob("*.safetensors"):
            for name, value in load_file(file).items():
                views[name].copy_(value)
        model = LiveModel(checkpoint, layout, flat, frame)
        model.begin(lambda name: None)
        return cls(model)

    def likelihoods(self, suite: Suite) -> tuple[np.ndarray, LikelihoodPlan]:
        plan = self.compile(suite)
        assert isinstance(plan, LikelihoodPlan)
        return log_likelihoods(self.model, plan, suite.name, lambda done: None), plan

    def answers(self, suite: Suite) -> tuple[list[str], list[int]]:
        """Greedy answers, and how many tokens each might have had."""
        plan = self.compile(suite)
        assert isinstance(plan, GenerationPlan)
        found, _ = greedy_answers(self.model, plan, lambda done: None)
        return [self.model.answer_text(ids) for ids in found], [p.most for p in plan.prompts]

    def compile(self, suite: Suite) -> LikelihoodPlan | GenerationPlan:
        return compile_suite(
            suite,
            suite.items,
            self.model.encoder,
            batch_tokens=BATCH_TOKENS,
            sharing=self.model.sharing,
            equal_lengths=not self.model.takes_positions,
        )


def same(mine: np.ndarray, theirs: np.ndarray) -> None:
    """Both are log-likelihoods within the promised tolerance."""
    scale = np.maximum(np.abs(theirs), 1)
    worst = int(np.argmax(np.abs(mine - theirs) / scale))
    assert np.all(np.abs(mine - theirs) <= RELATIVE * scale), (worst, mine[worst], theirs[worst])


def check_choices(ours: Ours, theirs: Theirs, suite: Suite) -> None:
    mine, plan = ours.likelihoods(suite)
    other = theirs.choices(suite.items)
    same(mine, other)
    for start, end in zip(plan.offsets[:-1], plan.offsets[1:], strict=True):
        assert mine[start:end].argmax() == other[start:end].argmax()


def check_texts(ours: Ours, theirs: Theirs, suite: Suite) -> None:
    """Our text items score all tokens but the first. lm-eval's rolling scores that one as well,
    after the opening or end token: what the engine does with an option after nothing, unless the
    tokenizer opens the text by itself (then lm-eval opens it twice)."""
    mine, _ = ours.likelihoods(suite)
    ids = ours.model.encoder.encode([item.text for item in suite.items])
    same(mine, np.array([theirs.tokens(row[:1], row[1:]) for row in ids]))
    if ids[0][0] != theirs.lm.prefix_token_id:
        after_nothing = tuple(Item(id=i.id, choices=(i.text,), gold=0) for i in suite.items)
        mine, _ = ours.likelihoods(Suite(name="texts", form="choice", items=after_nothing))
        same(mine, np.array([theirs.rolling(item.text) for item in suite.items]))


def check_answers(ours: Ours, theirs: Theirs, suite: Suite) -> None:
    mine, most = ours.answers(suite)
    for text, item, room in zip(mine, suite.items, most, strict=True):
        other = theirs.answer(item.prompt, room)
        assert text == other
        assert first_line(text, item.target) == first_line(other, item.target)


CHECKS = {"choice": check_choices, "text": check_texts, "exact": check_answers}


def phrase(rng: np.random.Generator, most: int) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))


def tiny_suites() -> list[Suite]:
    """Options of one token and of many, of very different length, after a shared long head, after
    nothing, after white space; texts; prompts."""
    rng = np.random.default_rng(11)
    head = phrase(rng, 30) + " = " + phrase(rng, 20)
    choice, exact, text = [], [], []
    for number in range(24):
        many = [" a", " on", f" {phrase(rng, 4)}", f" {phrase(rng, 9)}x", f" {phrase(rng, 20)}z"]
        few = [f" {letter}" for letter in "abcdef"]
        choices = tuple(dict.fromkeys(many if number % 2 else few))
        context = f"{head}. {phrase(rng, 4)}" if number % 3 else phrase(rng, 9)
        choice.append(Item(id=str(number), context=context, choices=choices, gold=number % 3))
        exact.append(Item(id=str(number), prompt=phrase(rng, 9), target=" " + phrase(rng, 4)))
        text.append(Item(id=str(number), text=phrase(rng, 15) + " at dawn"))
    # what stands between context and option is a part of the option
    spaced = ("cat", "dogs ran over", f"{phrase(rng, 9)}", "a")
    for number, context in enumerate(("", "the ", "on a mat \n", "dogs\n\n")):
        choice.append(Item(id=f"w{number}", context=context, choices=spaced, gold=0))
    return [
        Suite(name="choice", form="choice", items=tuple(choice)),
        Suite(name="exact", form="exact", items=tuple(exact)),
        Suite(name="text", form="text", items=tuple(text)),
    ]


@pytest.mark.parametrize("name", MODELS)
def test_tiny_models_of_many_architectures(tiny_model: Save, name: str) -> None:
    folder = tiny_model(name)
    ours, theirs = Ours.of(folder), Theirs(folder)
    for suite in tiny_suites():
        CHECKS[suite.form](ours, theirs, suite)


#: items of each real suite that are scored: lm-eval takes its time
REAL_ITEMS = 40


@pytest.mark.parametrize("name", ["deployed", "trec"])
def test_real_fine_tunes_on_real_suites(shared: Path, name: str) -> None:
    folder = shared / "pools/stories" / name
    ours, theirs = Ours.of(folder), Theirs(folder)
    for file in sorted((shared / "suites/stories").glob("*.jsonl")):
        whole = parse_suite(file.stem, file.read_text(encoding="utf-8"), where=str(file))
        step = len(whole) // REAL_ITEMS
        suite = Suite(name=whole.name, form=whole.form, items=whole.items[::step])
        CHECKS[suite.form](ours, theirs, suite)
