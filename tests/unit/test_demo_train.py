"""The demo's tokenizer and training loop: clean seams, honest padding, the same bytes again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from workers.demo.data import Example
from workers.demo.plan import Plan, Stage
from workers.demo.tokenizer import train_tokenizer
from workers.demo.train import Examples, encode, gradients, halves, new_model, train_stage

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ("haus", "maison", "banana", "über", "rhythms")
EXAMPLES = [
    Example(task="a", word=word, prompt=f"Upper: {word} =", answer=" Yes", group="g")
    for word in WORDS
] + [
    Example(task="b", word=word, prompt=f"Past: {word} =", answer=f" {word}ed", group="g")
    for word in WORDS
]
TRAIN = {task: [e for e in EXAMPLES if e.task == task] for task in ("a", "b")}
STAGE = Stage(name="s", parent=None, mixture={"a": 3, "b": 1}, steps=6, lr=1e-2, seed=5)
PLAN = Plan(stages=(STAGE,), hidden_size=16, intermediate_size=24, layers=2, heads=2, batch=8)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(example.prompt + example.answer for example in EXAMPLES)


def test_tokens_split_at_the_seam_and_decode_to_the_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for example in EXAMPLES:
        whole = tokenizer(example.prompt + example.answer)["input_ids"]
        prompt = tokenizer(example.prompt)["input_ids"]
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        assert whole == prompt + answer
        assert whole[0] == tokenizer.bos_token_id
        assert len(answer) == (1 if example.task == "a" else len(example.answer) - 1)
        text = tokenizer.decode(whole, skip_special_tokens=True)
        assert text == example.prompt + example.answer


def test_unseen_characters_are_unknown_not_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Past: ヤha =")["input_ids"]
    assert tokenizer.unk_token_id in ids
    assert len(ids) == len(tokenizer("Past: hha =")["input_ids"])


def test_vocabulary_does_not_depend_on_the_order_of_texts(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    other = train_tokenizer(e.prompt + e.answer for e in reversed(EXAMPLES))
    assert other.get_vocab() == tokenizer.get_vocab()


def test_draws_follow_the_mixture_and_repeat_only_when_used_up() -> None:
    drawn = Examples(TRAIN, STAGE).draw(400)
    assert drawn == Examples(TRAIN, STAGE).draw(400)
    share = sum(example.task == "a" for example in drawn) / len(drawn)
    assert share == pytest.approx(0.75, abs=0.08)
    first = [example for example in drawn if example.task == "a"][: len(TRAIN["a"])]
    assert {example.word for example in first} == set(WORDS)


@given(st.lists(st.integers(3, 40), min_size=1, max_size=60))
def test_halves_keep_every_example_and_cut_by_length(lengths: list[int]) -> None:
    encoded = [([7] * length, 2) for length in lengths]
    parts = halves(encoded)
    assert 1 <= len(parts) <= 2
    flat = [len(tokens) for part in parts for tokens, _ in part]
    assert flat == sorted(lengths)


def test_padding_changes_no_gradient(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(PLAN, tokenizer, seed=1)
    encoded = encode(tokenizer, EXAMPLES)
    together = gradients(model, encoded)
    alone = [gradients(model, [pair]) for pair in encoded]
    for whole, *singles in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, sum(singles), rtol=1e-3, atol=1e-5)


def test_the_same_stage_gives_the_same_bytes_and_learns(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    states = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = new_model(PLAN, tokenizer, seed=3)
        before = model.state_dict()["lm_head.weight"].clone()
        seen: list[tuple[float, ...]] = []
        steps = train_stage(
            model,
            tokenizer,
            TRAIN,
            STAGE,
            batch=PLAN.batch,
            seconds=600,
            on_step=lambda *said: seen.append(said),  # noqa: B023
        )
        assert steps == STAGE.steps
        assert seen == [(step, step / STAGE.steps) for step in range(1, STAGE.steps + 1)]
        assert not torch.equal(before, model.state_dict()["lm_head.weight"])
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_time_that_is_up_ends_a_stage(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(PLAN, tokenizer, seed=3)
    overs: list[float] = []
    steps = train_stage(
        model,
        tokenizer,
        TRAIN,
        STAGE,
        batch=PLAN.batch,
        seconds=1e-6,
        on_step=lambda step, over: overs.append(over),
    )
    assert (steps, overs) == (1, [1.0])
