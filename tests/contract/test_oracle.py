"""The engine against plain transformers, one item at a time: batching must not change an answer.

Two oracles: per-item results of real fine-tunes kept beside this checkout, where it has them, and
tiny random models of several architectures scored right here.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.settings import Settings
from services.suites import Item, Suite, parse_suite
from workers.engine.client import Engine, SuiteResult

pytestmark = pytest.mark.timeout(600)
TEXT = "the cat sat on a mat and dogs ran over hills when rain fell in spring at dawn"
WORDS = TEXT.split()
END_TOKENS = (2, *range(40, 60))


@pytest.fixture(scope="module", params=[2048])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine; its parameter is the tokens of one batch."""
    folder = tmp_path_factory.mktemp("engine")
    config = Settings(home=folder, engine_device="cpu", batch_tokens=request.param)
    with Engine(config, log_dir=folder) as started:
        yield started


def evaluate(
    engine: Engine, folder: Path, suites: list[Suite], dtype: str | None = None
) -> dict[str, SuiteResult]:
    checkpoint = read_checkpoint(folder)
    dtype = dtype or checkpoint.dtype
    engine.load([(checkpoint.digest, folder)], dtype)
    results: dict[str, SuiteResult] = {}
    engine.evaluate(
        Recipe.one_hot((checkpoint.digest,), 0, dtype),
        suites,
        None,
        on_suite=lambda result: results.update({result.suite: result}),
    )
    return results


@pytest.mark.parametrize("name", ["deployed", "trec", "all_lowlr"])
def test_real_fine_tunes_score_as_plain_transformers_did(
    engine: Engine, shared: Path, name: str
) -> None:
    reference = json.loads((shared / "suites/stories_reference.json").read_text())[name]
    files = [shared / f"suites/stories/{suite}.jsonl" for suite in reference]
    suites = [parse_suite(f.stem, f.read_text(), where=str(f)) for f in files]
    results = evaluate(engine, shared / "pools/stories" / name, suites)
    for suite in suites:
        expected, result = reference[suite.name], results[suite.name]
        found = result.predictions
        assert [item.id for item in suite.items] == [line["id"] for line in expected]
        if suite.form == "text":
            assert result.item_tokens.tolist() == [line["tokens"] for line in expected]
            assert found.nll == pytest.approx([line["nll"] for line in expected], abs=1e-3)
            continue
        assert found.correct.astype(int).tolist() == [line["correct"] for line in expected]
        if suite.form == "exact":
            assert list(found.texts) == [line["answer"] for line in expected]
        else:
            assert found.answer.tolist() == [line["choice"] for line in expected]
            assert result.margins == pytest.approx([line["margin"] for line in expected], abs=1e-3)


def llama(bos: bool) -> Any:
    """Grouped heads, tied embeddings; with `bos` every text is opened by a token."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
            tie_word_embeddings=bos, bos_token_id=1, eos_token_id=2, initializer_range=0.4,
        )
    )  # fmt: skip


def gpt2(_: bool) -> Any:
    """Learned positions, transposed matrices."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=96, bos_token_id=2,
            eos_token_id=2, initializer_range=0.4,
        )
    )  # fmt: skip


def qwen2(_: bool) -> Any:
    """Biased projections, an output layer of its own, sliding window beyond the first layer."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
            tie_word_embeddings=False, use_sliding_window=True, sliding_window=8,
            max_window_layers=1, eos_token_id=2, initializer_range=0.4,
        )
    )  # fmt: skip


def mixtral(_: bool) -> Any:
    """Four experts, which the files keep apart and the model keeps in one tensor."""
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
            num_local_experts=4, num_experts_per_tok=2, eos_token_id=2, initializer_range=0.4,
        )
    )  # fmt: skip


@pytest.fixture(
    scope="module", params=[llama, gpt2, qwen2, mixtral], ids=lambda build: build.__name__
)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a byte-level tokenizer; the Llama's puts <s> first, the others none."""
    bos = request.param is llama
    folder = tmp_path_factory.mktemp(request.param.__name__)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT] * 3, trainer)
    if bos:
        from tokenizers.processors import TemplateProcessing

        bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>" if bos else None, eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    model = request.param(bos)
    # a few end tokens, so that some of the random answers end
    model.generation_config.eos_token_id = list(END_TOKENS)
    model.save_pretrained(folder)
    return folder


def phrase(rng: np.random.Generator, most: int) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))


def make_suites() -> list[Suite]:
    rng = np.random.default_rng(11)
    choice, exact, text = [], [], []
    for number in range(40):
        # options of one token, of several, of different lengths, and one after no context
        many = list(dict.fromkeys([" a", " on", f" {phrase(rng, 4)}", f" {phrase(rng, 6)}x"]))
        few = [f" {letter}" for letter in "abcdef"]
        choices = tuple(many if number % 2 else few)
        context = "" if number == 7 else phrase(rng, 9)
        choice.append(Item(id=str(number), context=context, choices=choices, gold=number % 3))
        exact.append(Item(id=str(number), prompt=phrase(rng, 9), target=" " + phrase(rng, 4)))
        text.append(Item(id=str(number), text=phrase(rng, 15)))
    return [
        Suite(name="choice", form="choice", items=tuple(choice)),
        Suite(name="bytes", form="choice", items=tuple(choice), normalise=True),
        Suite(name="exact", form="exact", items=tuple(exact)),
        Suite(name="text", form="text", items=tuple(text)),
    ]


class Plain:
    """Plain transformers, one item at a time, no batches, no masks."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).float().eval()

    @torch.inference_mode()
    def log_likelihood(self, ids: list[int], start: int) -> float:
        logs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))

    def choice(self, item: Item) -> list[float]:
        start, values = len(self.tokenizer(item.context).input_ids), []
        for option in item.choices:
            ids = self.tokenizer(item.context + option).input_ids
            # nothing before the option: it follows the end of another text
            ids, begin = (ids, start) if start else ([self.tokenizer.eos_token_id, *ids], 1)
            values.append(self.log_likelihood(ids, begin))
        return values

    @torch.inference_mode()
    def answer(self, item: Item) -> tuple[str, int]:
        ids = self.tokenizer(item.prompt).input_ids
        most = len(self.tokenizer(item.prompt + item.target).input_ids) - len(ids) + 2
        out = self.model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=most, pad_token_id=0
        )
        new = out[0, len(ids) :].tolist()
        kept = [token for token in new if token not in END_TOKENS]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        return text.strip(), len(new)

    def nll(self, item: Item) -> tuple[float, int]:
        ids = self.tokenizer(item.text).input_ids
        return -self.log_likelihood(ids, 1), len(ids) - 1


def check(plain: Plain, suites: list[Suite], results: dict[str, SuiteResult]) -> None:
    """Every item of every suite."""
    choice, normalised, exact, text = suites
    for i, item in enumerate(choice.items):
        values = np.array(plain.choice(item))
        sizes = np.array([len(option.encode()) for option in item.choices])
        for suite, scores in ((choice, values), (normalised, values / sizes)):
            found = results[suite.name]
            margin = scores[item.gold] - np.delete(scores, item.gold).max()
            assert found.margins[i] == pytest.approx(margin, abs=1e-4)
            assert found.predictions.answer[i] == scores.argmax()
            assert found.predictions.correct[i] == (scores.argmax() == item.gold)
    ended = 0
    for i, item in enumerate(exact.items):
        answer, tokens = plain.answer(item)
        assert results["exact"].predictions.texts[i] == answer
        assert results["exact"].item_tokens[i] == tokens
        ended += tokens <= len(plain.tokenizer(item.target).input_ids)
    assert 0 != ended != len(exact.items), "answers must end both ways, or this shows little"
    for i, item in enumerate(text.items):
        nll, tokens = plain.nll(item)
        assert results["text"].predictions.nll[i] == pytest.approx(nll, abs=1e-3)
        assert results["text"].predictions.tokens[i] == tokens


# small batches, so that several of each kind are made
@pytest.mark.parametrize("engine", [200], indirect=True)
def test_tiny_models_score_as_plain_transformers(engine: Engine, tiny: Path) -> None:
    suites = make_suites()
    plain = Plain(tiny)
    check(plain, suites, evaluate(engine, tiny, suites))
    # now every answer is known, and checked rather than generated
    check(plain, suites, evaluate(engine, tiny, suites))


@pytest.mark.parametrize("engine", [200], indirect=True)
def test_bfloat16_weights_are_widened_exactly(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    rounded = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    rounded.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    suites = make_suites()
    check(Plain(tmp_path, torch.bfloat16), suites, evaluate(engine, tmp_path, suites))
    # the same numbers when the engine itself rounds the float32 checkpoint
    check(Plain(tmp_path, torch.bfloat16), suites, evaluate(engine, tiny, suites, "bfloat16"))
