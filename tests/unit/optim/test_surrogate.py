"""Surrogates: exact leave-one-out, forecasts that are the measured values, and better proposals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim import intervals
from optim.compatibility import compare
from optim.pareto import hypervolume
from optim.predictions import Predictions
from optim.search import (
    METHODS,
    Axis,
    Bound,
    ItemSuite,
    Observation,
    Question,
    Searcher,
    make_searcher,
)
from optim.search.forecast import forecast
from optim.search.gain import choose_batch
from optim.search.model import ItemModel, MetricModel, rank_correlation
from optim.search.ridge import factorised
from optim.space import Space

SPACE = Space.affine(5)
ITEMS = 120


def margins(weights: tuple[float, ...]) -> np.ndarray:
    """Two suites of quadratic margins whose best points differ."""
    rng = np.random.default_rng(0)
    z = SPACE.coordinates(weights)
    found = []
    for target in ([0.6, 0.5, -0.1, 0.0, 0.0], [0.0, -0.2, 0.6, 0.4, 0.2]):
        gap = z - SPACE.coordinates(target)
        slopes = rng.normal(0, 0.4, size=(ITEMS, len(gap)))
        found.append(1.0 - 3.0 * gap @ gap + rng.normal(-0.5, 0.8, ITEMS) + slopes @ gap)
    return np.concatenate(found).astype(np.float32)


REFERENCE = margins((1.0, 0.0, 0.0, 0.0, 0.0)) > 0
QUESTION = Question(
    suites=(
        ItemSuite(name="a", form="choice", reference=REFERENCE[:ITEMS]),
        ItemSuite(name="b", form="choice", reference=REFERENCE[ITEMS:]),
    ),
    axes=(Axis(metric="score", suite="a"), Axis(metric="score", suite="b")),
)


def judged(slot: str, weights: tuple[float, ...]) -> Observation:
    signal = margins(weights)
    right = signal > 0
    values = (-float(right[:ITEMS].mean()), -float(right[ITEMS:].mean()))
    return Observation(
        slot, weights, values, 0.0, "complete", signal=signal, changed=right != REFERENCE
    )


def baselines() -> list[Observation]:
    rows = [*np.eye(5).tolist(), [0.2] * 5]
    return [judged(f"base.{i}", tuple(row)) for i, row in enumerate(rows)]


def searched(method: str, trials: int, seed: int = 0, **options: object) -> list[Observation]:
    searcher = make(method, seed, **options)
    rows: list[Observation] = []
    while len(rows) < trials:
        rows += [judged(one.slot, one.weights) for one in searcher.ask(rows, trials - len(rows))]
    return rows


def make(method: str, seed: int = 0, **options: object) -> Searcher:
    start = sorted(baselines(), key=lambda row: sum(row.values or ()))
    if any(option.name == "start" for option in METHODS[method].options):
        options.setdefault("start", [row.weights for row in start])
    return make_searcher(
        method, space=SPACE, objectives=2, seed=seed, options=options,
        question=QUESTION, known=baselines(),
    )  # fmt: skip


def volume(rows: list[Observation]) -> float:
    return hypervolume([row.values for row in rows], [0.0] * len(rows), [0.0, 0.0])


@pytest.mark.parametrize("index", range(3))
def test_left_out_predictions_are_those_of_a_fit_without_the_row(index: int) -> None:
    rng = np.random.default_rng(1)
    points, targets = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    factors = list(factorised(points))[7]
    left_out = factors.left_out(targets, factors.weights(targets))
    rest = np.delete(np.arange(9), index)
    kernel = factors.kernel(factors.points[rest], factors.points[rest])
    dual = np.linalg.solve(kernel + factors.ridge * np.eye(8), targets[rest])
    row = factors.kernel(factors.points[[index]], factors.points[rest])
    assert left_out[index] == pytest.approx((row @ dual)[0], rel=1e-5, abs=1e-5)


def test_doubt_grows_with_the_distance_from_what_is_known() -> None:
    model = MetricModel.fit(SPACE, baselines())
    near, far = SPACE.centre, SPACE.project([1.5, -0.5, 0.5, -0.5, 0.0])
    a, b = model.factors.variance(
        SPACE.coordinates([near, far]), model.factors.rows(SPACE.coordinates([near, far]))
    )
    assert a < b


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, -1.0]), st.sampled_from([None, 0.9]))
def test_a_forecast_of_certain_answers_is_what_would_be_measured(
    seed: int, sign: float, confidence: float | None
) -> None:
    rng = np.random.default_rng(seed)
    sizes = (17, 30)
    old = [rng.integers(0, 4, n) for n in sizes]
    new = [np.where(rng.random(len(o)) < 0.5, o, rng.integers(0, 4, len(o))) for o in old]
    tables = [
        [Predictions(form="choice", items="x", correct=a == 0, answer=a.astype("u8")) for a in side]
        for side in (old, new)
    ]
    counts = [compare(o, n) for o, n in zip(*tables, strict=True)]
    metrics = ("negative_flip_rate", "positive_flip_rate", "churn", "inconsistency")
    question = Question(
        suites=tuple(
            ItemSuite(name=name, form="choice", reference=table.correct)
            for name, table in zip("ab", tables[0], strict=True)
        ),
        axes=(
            Axis(metric="macro"),
            Axis(metric="score", suite="b"),
            *(Axis(metric=m, suite="a", sign=1.0) for m in metrics),  # type: ignore[arg-type]
            Axis(metric="churn", sign=1.0),
        ),
        bounds=(
            Bound(
                metric="negative_flip_rate", suites=("a", "b"), limit=0.2,
                sign=sign, confidence=confidence,
            ),
        ),
    )  # fmt: skip
    right = np.concatenate([t.correct for t in tables[1]])[None].astype(float)
    changed = np.concatenate([n != o for o, n in zip(old, new, strict=True)])[None].astype(float)
    values, violation = forecast(question, right, changed)
    a = counts[0]
    scores = [t.score() for t in tables[1]]
    flips = (a.negative, a.positive, a.changed, a.negative + a.both_wrong_differently)
    expected = [-sum(scores) / 2, -scores[1], *(k / 17 for k in flips)]
    assert values[0] == pytest.approx([*expected, sum(c.changed for c in counts) / 47])
    missed = 0.0
    for count in counts:
        rate = count.negative / count.n
        if confidence is not None:
            two_sided = intervals.wilson(count.negative, count.n, 2 * confidence - 1)
            rate = two_sided[1] if sign > 0 else two_sided[0]
        missed += max(0.0, sign * (rate - 0.2))
    assert violation[0] == pytest.approx(missed, abs=1e-9)


def test_texts_are_forecast_in_nats_per_token() -> None:
    question = Question(
        suites=(ItemSuite(name="t", form="text", tokens=np.array([10, 30])),),
        axes=(Axis(metric="score", suite="t", sign=1.0),),
    )
    values, _ = forecast(question, np.array([[2.0, 4.0]]), None)
    assert values[0, 0] == pytest.approx((20 + 120) / 40)


def test_the_item_model_predicts_unseen_mixtures() -> None:
    rng = np.random.default_rng(3)
    rows = [judged(f"r{i}", SPACE.place(w)) for i, w in enumerate(rng.dirichlet(np.ones(5), 40))]
    model = ItemModel.fit(SPACE, QUESTION, rows)
    unseen = [judged("u", SPACE.place(w)) for w in rng.dirichlet(np.ones(5), 20)]
    values, violations = model.predict(np.array([row.weights for row in unseen]))
    measured = np.array([row.values for row in unseen])
    assert np.abs(values - measured).max() < 0.05
    assert (violations == 0).all()
    assert model.rank_correlation > 0.9


def test_finished_suites_of_stopped_trials_are_learnt_from() -> None:
    rng = np.random.default_rng(3)
    rows = [judged(f"r{i}", SPACE.place(w)) for i, w in enumerate(rng.dirichlet(np.ones(5), 30))]
    unseen = np.arange(2 * ITEMS) >= ITEMS
    stopped = [
        replace(row, state="stopped", values=None, signal=np.where(unseen, np.nan, row.signal))
        for row in rows[8:]
    ]
    few, more = (ItemModel.fit(SPACE, QUESTION, rows[:8], partial) for partial in ((), stopped))
    probes = [judged("p", SPACE.place(w)) for w in rng.dirichlet(np.ones(5), 20)]
    measured = np.array([row.values for row in probes])
    wrong = [
        np.abs(model.predict(np.array([row.weights for row in probes]))[0] - measured).mean(axis=0)
        for model in (few, more)
    ]
    assert wrong[1][0] < 0.5 * wrong[0][0]
    assert np.isfinite(wrong[1]).all()
    assert [len(model.rows) for model in (few, more)] == [8, 8]


@pytest.mark.parametrize(("method", "trials"), [("margin-surrogate", 30), ("metric-surrogate", 60)])
def test_a_surrogate_needs_fewer_evaluations_than_breeding(method: str, trials: int) -> None:
    bred = volume(baselines() + searched("nsga-ii", 150))
    assert volume(baselines() + searched(method, trials)) > bred


def test_the_margin_surrogate_says_how_well_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    from optim.search.surrogate import MarginSurrogate

    searcher, rows, fits = make("margin-surrogate"), searched("margin-surrogate", 18), []
    assert isinstance(searcher, MarginSurrogate)
    found = searcher.rank_correlation(rows)
    assert found is not None
    assert 0.8 < found <= 1.0
    fit = MarginSurrogate._model
    monkeypatch.setattr(MarginSurrogate, "_model", lambda *all: fits.append(1) or fit(*all))
    (remark,) = searcher.remarks(rows)
    assert not remark.wrong
    assert f"{found:.2f}" in remark.what
    assert len(fits) == 1


def test_where_nothing_can_be_predicted_half_a_generation_explores() -> None:
    """Values that have nothing to do with the weights."""
    searcher, rng = make("metric-surrogate"), np.random.default_rng(0)
    rows: list[Observation] = []
    while len(rows) < 30:
        for one in searcher.ask(rows, 30):
            noise = tuple(rng.normal(size=2).tolist())
            rows.append(Observation(one.slot, one.weights, noise, 0.0, "complete"))
    assert searcher.rank_correlation(rows) < 0.5  # type: ignore[attr-defined]
    assert [remark.wrong for remark in searcher.remarks(rows)] == [True]
    assert len({row.weights for row in rows}) == 30


def test_proposals_seek_feasible_ground_first() -> None:
    """Feasible is only what leans on the fourth parent, which no baseline does enough."""

    def limited(row: Observation) -> Observation:
        missed = max(0.0, 0.8 - row.weights[3] - row.weights[4])
        return Observation(
            row.slot, row.weights, row.values, missed, "complete", row.signal, row.changed
        )

    rows = [limited(row) for row in baselines() if max(row.weights[3:]) < 1]
    model = MetricModel.fit(SPACE, rows)
    rng = np.random.default_rng(0)
    seen = {row.weights for row in rows}
    batch = choose_batch(model, rng, 3, seen)
    least = min(row.violation for row in rows)
    assert batch
    assert all(limited(judged("x", w)).violation < least for w in batch)


def test_rank_correlation_by_hand() -> None:
    up = np.array([[1.0], [2.0], [4.0]])
    assert rank_correlation(up, up**3) == pytest.approx(1.0)
    assert rank_correlation(up, -up) == pytest.approx(-1.0)
    assert rank_correlation(up, np.zeros((3, 1))) == 0.0
