"""Flips and churn: an example counted by hand, and the identities that must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.compatibility import (
    RATES,
    Compatibility,
    compare,
    negative_flips,
    pooled,
    positive_flips,
)
from optim.predictions import Predictions, items_digest

GOLD = 0


def answered(answers: list[int], *, form: str = "choice", items: str = "") -> Predictions:
    """Predictions of items whose right answer is option 0."""
    answer = np.array(answers, dtype=np.uint64)
    digest = items or items_digest([str(i) for i in range(len(answers))])
    return Predictions(form=form, items=digest, correct=answer == GOLD, answer=answer)  # type: ignore[arg-type]


def texts(n: int) -> Predictions:
    return Predictions(
        form="text",
        items=items_digest([str(i) for i in range(n)]),
        nll=np.ones(n, dtype=np.float32),
        tokens=np.ones(n, dtype=np.int32),
    )


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))).map(
    lambda ab: (answered([a for a, _ in ab]), answered([b for _, b in ab]))
)


def test_an_example_counted_by_hand() -> None:
    #            right: 0      kept  broken   mended same  other wrong answer
    old = answered([0, 0, 0, 0, 0, 0, 1, 1, 2, 3])
    new = answered([0, 0, 0, 0, 1, 2, 0, 1, 2, 1])
    found = compare(old, new)
    assert found == Compatibility(
        n=10, negative=2, positive=1, both_right=4, both_wrong_alike=2, both_wrong_differently=1
    )
    assert found.changed == 4
    assert found.rates() == pytest.approx(
        {
            "accuracy_before": 0.6,
            "accuracy_after": 0.5,
            "negative_flip_rate": 0.2,
            "positive_flip_rate": 0.1,
            "inconsistency": 0.3,
            "churn": 0.4,
            "good_churn": 0.1,
            "bad_churn": 0.2,
            "win_loss_ratio": 0.5,
            "relative_negative_flip_rate": 0.2 / (0.6 * 0.5),
            "backward_trust": 4 / 6,
            "backward_error": 3 / 4,
            "negative_flip_impact": 2 / 5,
            "positive_flip_impact": 1 / 5,
        }
    )
    assert negative_flips(old, new).tolist() == [4, 5]
    assert positive_flips(old, new).tolist() == [6]


@given(pairs)
def test_identities(pair: tuple[Predictions, Predictions]) -> None:
    found = compare(*pair)
    n, rates = found.n, found.rates()
    assert n == len(pair[0])
    assert found.right_before + found.wrong_before == n
    assert found.right_after + found.wrong_after == n
    if n == 0:
        assert set(rates.values()) == {None}
        return
    before, after = pair[0].score(), pair[1].score()
    nfr, pfr, churn = (
        found.negative_flip_rate,
        found.positive_flip_rate,
        found.churn,
    )
    assert nfr is not None
    assert pfr is not None
    assert churn is not None
    assert found.accuracy_before == pytest.approx(before)
    assert found.accuracy_after == pytest.approx(after)
    assert pfr - nfr == pytest.approx(after - before)
    assert abs(after - before) <= churn + 1e-12
    assert churn <= (1 - before) + (1 - after) + 1e-12
    assert churn == pytest.approx(nfr + pfr + found.both_wrong_differently / n)
    assert found.inconsistency == pytest.approx(nfr + found.both_wrong_differently / n)
    assert churn == pytest.approx(float((pair[0].answer != pair[1].answer).mean()))
    if found.backward_trust is not None:
        assert found.backward_trust == pytest.approx(1 - nfr / before)
    if found.relative_negative_flip_rate is not None:
        assert found.relative_negative_flip_rate == pytest.approx(nfr / (before * (1 - after)))
    for name in set(RATES) - {"win_loss_ratio", "relative_negative_flip_rate"}:
        assert rates[name] is None or 0 <= rates[name] <= 1


@given(pairs)
def test_swapping_the_models_swaps_the_flips_and_keeps_the_churn(
    pair: tuple[Predictions, Predictions],
) -> None:
    there, back = compare(*pair), compare(*reversed(pair))
    assert there.churn == back.churn
    assert there.negative == back.positive
    assert there.positive == back.negative
    assert there.both_wrong_differently == back.both_wrong_differently
    assert negative_flips(*pair).tolist() == positive_flips(*reversed(pair)).tolist()
    assert len(negative_flips(*pair)) == there.negative


@given(pairs)
def test_a_model_never_changes_against_itself(pair: tuple[Predictions, Predictions]) -> None:
    found = compare(pair[0], pair[0])
    assert (found.changed, found.negative, found.positive) == (0, 0, 0)


@given(st.lists(pairs, max_size=4))
def test_overall_is_the_rates_of_all_items_together(
    suites: list[tuple[Predictions, Predictions]],
) -> None:
    total = pooled(compare(old, new) for old, new in suites)
    old = answered([int(a) for one, _ in suites for a in _answers(one)])
    new = answered([int(a) for _, one in suites for a in _answers(one)])
    assert total == compare(old, new)


def _answers(one: Predictions) -> list[int]:
    assert one.answer is not None
    return [int(a) for a in one.answer]


def test_undefined_rates_are_none() -> None:
    perfect, hopeless = answered([0, 0]), answered([1, 2])
    same = compare(perfect, perfect)
    assert same.win_loss_ratio is None
    assert same.relative_negative_flip_rate is None
    assert same.negative_flip_impact is None
    assert same.backward_error is None
    assert same.backward_trust == 1.0
    lost = compare(hopeless, hopeless)
    assert lost.backward_trust is None
    assert lost.positive_flip_impact is None
    assert lost.backward_error == 1.0
    assert set(pooled([]).rates().values()) == {None}


def test_texts_have_no_flips_and_do_not_count_overall() -> None:
    found = compare(texts(5), texts(5))
    assert found.n == 0
    assert set(found.rates().values()) == {None}
    assert negative_flips(texts(5), texts(5)).tolist() == []
    part = compare(answered([0, 1]), answered([1, 1]))
    assert pooled([part, found]) == part


def test_two_right_answers_spelled_differently_are_one_answer() -> None:
    digest = items_digest(["a"])
    one, other = (
        Predictions(
            form="exact",
            items=digest,
            correct=np.array([True]),
            answer=np.array([hashed], dtype=np.uint64),
        )
        for hashed in (11, 12)
    )
    assert compare(one, other).changed == 0


def test_tables_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="items: digest"):
        compare(answered([0, 1]), answered([0, 1], items="elsewhere"))
    with pytest.raises(ValueError, match="items: 1 results"):
        compare(answered([0, 1], items="same"), answered([0], items="same"))
    with pytest.raises(ValueError, match="form"):
        compare(answered([0, 1]), answered([0, 1], form="exact"))
    with pytest.raises(ValueError, match="form"):
        negative_flips(answered([0]), texts(1))


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="n: 3"):
        Compatibility(n=3, negative=1)
    with pytest.raises(ValueError, match="positive: -1"):
        Compatibility(n=0, positive=-1, both_right=1)
