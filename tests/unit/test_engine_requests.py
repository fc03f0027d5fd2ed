"""Requests in lm-eval's terms as token ids: windows over long texts, cuts, refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import BadInput, TrialRejected
from workers.engine.answer import answer_requests, plan_requests, score_continuations
from workers.engine.encode import Continuation, Encoder
from workers.engine.requests import Encoded, encode_requests
from workers.engine.tree import Sharing

LETTERS = "?<>abcdefgh"


class Letters:
    """A tokenizer of one token a letter; 1 opens and 2 ends a text, but puts neither into one."""

    bos_token_id, eos_token_id, model_max_length = 1, 2, 10**30

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"special_tokens_mask": [0] * len(texts)}
        return {"input_ids": [[LETTERS.index(letter) for letter in text] for text in texts]}


def make_encoder(limit: int | None) -> Encoder:
    return Encoder(Letters(), limit=limit, vocabulary=len(LETTERS))


def compiled(requests: list[Any], limit: int | None, truncate: bool = False) -> Encoded:
    names = [str(number) for number in range(len(requests))]
    return encode_requests(requests, make_encoder(limit), names=names, where="s", truncate=truncate)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 40), limit=st.integers(1, 12))
def test_windows_over_long_texts_are_lm_evals(length: int, limit: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="the extra lm-eval is not installed")
    text = "".join(LETTERS[3 + number % 8] for number in range(length))
    plan = compiled([["loglikelihood_rolling", text]], limit)
    ids = [LETTERS.index(letter) for letter in text]
    expected = []
    for shown, scored in utils.get_rolling_token_windows(
        token_list=ids, prefix_token=1, max_seq_len=limit, context_len=1
    ):
        context, scored = utils.make_disjoint_window((shown, scored))
        expected.append(Continuation([*context, *scored], len(context)))
    assert list(plan.continuations) == expected
    assert sum(len(row.ids) - row.start for row in plan.continuations) == length


def test_pairs() -> None:
    plan = compiled(
        [
            ["loglikelihood", "ab", "cd"],
            ["loglikelihood", "", "cd"],
            ["loglikelihood_rolling", "abc"],
        ],
        None,
    )
    assert plan.continuations == (
        Continuation([3, 4, 5, 6], 2),
        Continuation([1, 5, 6], 1),
        Continuation([1, 3, 4, 5], 1),
    )
    assert plan.owners.tolist() == [0, 1, 2]


def test_what_does_not_fit_is_refused_or_cut_and_counted() -> None:
    long = [
        ["loglikelihood", "abcdef", "gh"],
        ["generate_until", "abcdef", {"until": ["."], "max_gen_toks": 2}],
    ]
    with pytest.raises(BadInput, match="s, item '0': needs 7 positions, the model has 4"):
        compiled(long[:1], 4)
    with pytest.raises(BadInput, match="s, item '0': prompt of 6 and answer of 2 tokens do not"):
        compiled(long[1:], 4)
    plan = compiled(long, 4, truncate=True)
    assert plan.continuations == (Continuation([6, 7, 8, 9, 10], 3),)
    assert plan.prompts[0].ids == [7, 8]
    assert plan.truncated == 2
    with pytest.raises(BadInput, match="answer of 2 tokens do not fit the model's 2 positions"):
        compiled(long[1:], 2, truncate=True)


def test_what_is_scored_is_never_cut() -> None:
    with pytest.raises(BadInput, match="needs 7 positions, the model has 4"):
        compiled([["loglikelihood", "ab", "cdefgh"]], 4, truncate=True)


def test_strange_requests() -> None:
    with pytest.raises(BadInput, match="requests of kind 'x' are not known"):
        compiled([["x", ""]], None)
    with pytest.raises(BadInput, match="encodes to nothing"):
        compiled([["loglikelihood", "", ""]], None)


def model_of(logits: torch.Tensor) -> Any:
    """A model that gives the same row of logits everywhere."""
    return SimpleNamespace(
        encoder=make_encoder(None),
        takes_positions=True,
        sharing=Sharing(limit=0),
        logits=lambda batch: logits.repeat(len(batch.positions), 1),
    )


def test_sums_and_greedy_flags() -> None:
    logits = torch.zeros(len(LETTERS))
    logits[3] = 5.0
    log = logits.log_softmax(-1)
    plan = compiled(
        [
            ["loglikelihood", "b", "aa"],
            ["loglikelihood", "b", "ab"],
            ["loglikelihood_rolling", "aab"],
            ["loglikelihood", "bb", "a"],
        ],
        None,
    )
    ticks: list[int] = []
    model = model_of(logits)
    batched = plan_requests(plan, model, batch_tokens=4)
    found = answer_requests(model, batched, where="s", tick=ticks.append)
    a, b = float(log[3]), float(log[4])
    assert [greedy for _, greedy in (found.values[i] for i in (0, 1, 3))] == [True, False, True]
    assert [found.values[i][0] for i in (0, 1, 3)] == pytest.approx([2 * a, a + b, a])
    assert found.values[2] == pytest.approx(2 * a + b)
    assert found.tokens.tolist() == [2, 2, 3, 1]
    assert ticks == sorted(ticks)
    assert ticks[-1] == batched.tokens
    assert len(ticks) == len(batched.keys) > 1


def test_a_score_that_is_not_finite_rejects_the_candidate() -> None:
    model = model_of(torch.full((len(LETTERS),), np.nan))
    encoded = compiled([["loglikelihood", "b", "a"]], None)
    plan = plan_requests(encoded, model, batch_tokens=8).likelihoods
    with pytest.raises(TrialRejected, match="is not finite"):
        score_continuations(model, plan, where="s", tick=lambda done: None)
