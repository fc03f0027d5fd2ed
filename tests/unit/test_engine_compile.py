"""Tokens and batches: what is scored, what is shared, and what is refused."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from services.errors import BadInput
from services.suites import Item, Suite
from tests.plugins.trees import seen_text
from workers.engine.compile import LikelihoodPlan, compile_suite
from workers.engine.encode import Encoder
from workers.engine.generate import GenerationPlan
from workers.engine.score import score_suite
from workers.engine.tree import Sharing

LETTERS = ["<unk>", "<s>", "</s>", *"abcdefghij ", "ab", " a"]


def make_tokenizer(*, opening: bool = True, closing: bool = False) -> PreTrainedTokenizerFast:
    """Letters are tokens; `ab` and ` a` merge, so that a boundary can disappear in a token."""
    merges = [("a", "b"), (" ", "a")]
    vocabulary = {token: number for number, token in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    ends = [token for token, wanted in (("<s>", opening), ("</s>", closing)) if wanted]
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{'<s> ' * opening}$A{' </s>' * closing}",
            special_tokens=[(token, LETTERS.index(token)) for token in ends],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if opening else None,
        eos_token="</s>",
        unk_token="<unk>",
    )


def make_encoder(limit: int | None = 64, **ends: bool) -> Encoder:
    return Encoder(make_tokenizer(**ends), limit=limit, vocabulary=len(LETTERS))


def choice(context: str, *choices: str, name: str = "x") -> Item:
    return Item(id=name, context=context, choices=choices, gold=0)


def tokens(encoder: Encoder, text: str) -> list[int]:
    return [LETTERS.index(token) for token in text.split("|")]


def test_the_option_is_what_lies_beyond_the_tokens_of_the_context() -> None:
    encoder = make_encoder()
    [[plain, several]] = encoder.choices([choice("cd", "e", "fgh")], "s")
    assert (plain.ids, plain.start) == (tokens(encoder, "<s>|c|d|e"), 3)
    assert (several.ids, several.start) == (tokens(encoder, "<s>|c|d|f|g|h"), 3)


def test_a_boundary_that_disappears_in_a_token() -> None:
    # context "ca" has 3 tokens, "ca"+"b" as well: the last token is scored all the same
    [[merged, other]] = make_encoder().choices([choice("ca", "b", "bc")], "s")
    assert (merged.ids, merged.start) == (tokens(make_encoder(), "<s>|c|ab"), 2)
    assert (other.ids, other.start) == (tokens(make_encoder(), "<s>|c|ab|c"), 3)


def test_white_space_that_ends_a_context_belongs_to_the_option() -> None:
    encoder = make_encoder()
    [[apart, _]] = encoder.choices([choice("c d", " e", "f")], "s")
    [[moved, _]] = encoder.choices([choice("c d ", "e", "f")], "s")
    assert moved == apart


def test_closing_tokens_are_dropped_because_the_text_goes_on() -> None:
    encoder = make_encoder(closing=True)
    assert encoder.encode(["cd"]) == [tokens(encoder, "<s>|c|d")]
    [[only, _]] = encoder.choices([choice("c", "d", "e")], "s")
    assert only.ids == tokens(encoder, "<s>|c|d")


def test_nothing_before_the_option() -> None:
    [[opened, _]] = make_encoder(opening=False).choices([choice("", "cd", "e")], "s")
    assert (opened.ids, opened.start) == (tokens(make_encoder(), "</s>|c|d"), 1)
    [[own, _]] = make_encoder().choices([choice("", "cd", "e")], "s")
    assert (own.ids, own.start) == (tokens(make_encoder(), "<s>|c|d"), 1)
    bare = make_encoder(opening=False)
    bare._opening = None
    with pytest.raises(BadInput, match=r"s, item 'x': nothing stands before"):
        bare.choices([choice("", "c", "d")], "s")


def test_texts_score_all_but_the_first_token() -> None:
    [text] = make_encoder().texts([Item(id="x", text="cd")], "s")
    assert (len(text.ids), text.start) == (3, 1)
    [text] = make_encoder(opening=False).texts([Item(id="x", text="cd")], "s")
    assert (len(text.ids), text.start) == (2, 1)


def test_answers_may_be_two_tokens_longer_than_the_target() -> None:
    encoder = make_encoder()
    [prompt] = encoder.prompts([Item(id="x", prompt="cd", target=" ab")], "s")
    assert list(prompt.ids) == tokens(encoder, "<s>|c|d")
    assert prompt.most == len(encoder.encode(["cd ab"])[0]) - 3 + 2


@pytest.mark.parametrize(
    ("form", "item"),
    [
        ("choice", choice("c" * 9, "d", "e")),
        ("text", Item(id="x", text="c" * 11)),
        ("exact", Item(id="x", prompt="c" * 6, target="cc")),
    ],
)
def test_items_that_do_not_fit_are_refused_not_cut(form: str, item: Item) -> None:
    fits = compile_one(form, [item], make_encoder(limit=None))
    assert fits.tokens
    with pytest.raises(
        BadInput, match=r"suite 's', item 'x': needs 1\d positions, the model has 9"
    ):
        compile_one(form, [item], make_encoder(limit=9))


def test_tokens_beyond_the_embeddings_are_refused() -> None:
    small = Encoder(make_tokenizer(), limit=None, vocabulary=5)
    with pytest.raises(BadInput, match="beyond the model's 5 embeddings"):
        small.texts([Item(id="x", text="cde")], "s")


def compile_one(
    form: str, items: list[Item], encoder: Encoder, batch_tokens: int = 64, **more: Any
) -> LikelihoodPlan | GenerationPlan:
    suite = Suite(name="s", form=form, items=tuple(items))  # type: ignore[arg-type]
    return compile_suite(suite, items, encoder, batch_tokens=batch_tokens, **more)


def test_options_of_one_token_share_a_forward_pass() -> None:
    items = [choice("cd", "e", "f", "g", name="1"), choice("cd", "h", "i", name="2")]
    plan = compile_one("choice", items, make_encoder())
    assert isinstance(plan, LikelihoodPlan)
    [scored] = plan.scored
    assert scored.batch.inputs.tolist() == [tokens(make_encoder(), "<s>|c|d")]
    assert scored.batch.positions.tolist() == [2]
    assert scored.at.tolist() == [0] * 5
    assert plan.tokens == 3


words = st.text("abcdefghij ", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words, st.lists(words, min_size=2, max_size=4, unique=True)), min_size=1),
    st.integers(8, 80),
    st.booleans(),
)
def test_every_pair_is_looked_at_once_behind_its_own_text(
    raw: list[tuple[str, list[str]]], batch_tokens: int, shared: bool
) -> None:
    encoder = make_encoder(limit=None)
    items = [choice(context, *choices, name=str(i)) for i, (context, choices) in enumerate(raw)]
    sharing = Sharing(width=1000) if shared else None
    plan = compile_one("choice", items, encoder, batch_tokens, sharing=sharing)
    assert isinstance(plan, LikelihoodPlan)
    wanted = [c for options in encoder.choices(items, "s") for c in options]
    found: dict[int, list[int]] = {}
    for scored in plan.scored:
        assert len(set(scored.batch.positions.tolist())) == len(scored.batch.positions)
        for at, target, request in zip(scored.at, scored.targets, scored.requests, strict=True):
            text, ids = seen_text(scored.batch, int(at)), wanted[request].ids
            assert text == ids[: len(text)]
            assert ids[len(text)] == target
            found.setdefault(int(request), []).append(len(text))
    assert len(found) == len(wanted)
    for request, continuation in enumerate(wanted):
        assert sorted(found[request]) == list(range(continuation.start, len(continuation.ids)))
        assert plan.lengths[request] == len(continuation.ids) - continuation.start


def test_a_sentencepiece_like_tokenizer_that_puts_a_blank_first() -> None:
    tokenizer = Tokenizer(models.BPE({"<s>": 0, "▁": 1, "c": 2, "d": 3, "▁c": 4}, [("▁", "c")]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("_none_", "isolated")
    encoder = Encoder(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"),
        limit=None,
        vocabulary=5,
    )
    # alone, "d" would be ▁|d: only context and option together show its one token
    [[glued, spaced]] = encoder.choices([choice("c", "d", " c")], "s")
    assert (glued.ids, glued.start) == ([4, 3], 1)
    assert (spaced.ids, spaced.start) == ([4, 4], 1)


def uniform_model(vocabulary: int) -> SimpleNamespace:
    """Every token is equally likely, whatever came before."""
    return SimpleNamespace(logits=lambda batch: torch.zeros(len(batch.positions), vocabulary))


def test_equal_options_and_normalisation() -> None:
    """With a uniform model, log-likelihood counts tokens, and per byte all options are equal."""
    items = (Item(id="1", context="c", choices=("d", "de", "é"), gold=1),)
    model, ticks, one = uniform_model(len(LETTERS)), [], math.log(len(LETTERS))
    for normalise, answer, margin in ((False, 0, -one), (True, 2, -one / 2)):
        suite = Suite(name="s", form="choice", items=items, normalise=normalise)
        plan = compile_suite(suite, items, make_encoder(), batch_tokens=64)
        scores = score_suite(model, suite, items, plan, ticks.append)  # type: ignore[arg-type]
        assert scores.arrays["answer"].tolist() == [answer]
        assert scores.arrays["margin"].tolist() == pytest.approx([margin])
        assert scores.arrays["correct"].tolist() == [False]
    assert ticks
