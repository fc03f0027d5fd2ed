"""Front membership: objectives of resampled items are the study's own, and shares are what they
must be where the answer is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optim.membership import SuiteTable, drawn_clusters, judged, membership, resampled
from optim.pareto import ranks
from optim.predictions import Form, Predictions
from optim.search.forecast import forecast
from optim.search.question import Axis, Bound, ItemSuite, Metric, Question
from services.registry import Member, Pool
from services.spec import spec_from_dict
from services.studies.evidence import answers_of, question_of
from services.studies.record import Study, StudySuite
from services.studies.tell import measure, objective_values, violation

FORMS: dict[str, Form] = {"a": "choice", "b": "exact", "r": "refusal", "t": "text"}


def study(objectives: list[str], constraints: list[dict]) -> Study:
    """A study on suites a, b, r and t."""
    spec = {"name": "s", "pool": "p", "suites": [*FORMS], "objectives": objectives}
    member = Member(name="x", uri="", digest="x" * 64, parameters=1, dtype="float32", files={})
    suites = tuple(
        StudySuite(id=i, name=n, form=f, digest="", search_items=9, validation_items=5,
                   test_items=5)
        for i, (n, f) in enumerate(FORMS.items())
    )  # fmt: skip
    return Study(
        id=1, name="s", state="running", phase="search", reference="x", suites=suites,
        spec=spec_from_dict({**spec, "constraints": constraints}),
        pool=Pool(id=1, name="p", reference="x", members=(member,)),
        chosen_trial_id=None, failure=None,
    )  # fmt: skip


def some_model(rng: np.random.Generator, sizes: dict[str, int]) -> dict[str, Predictions]:
    """Answers at random: gold is option 0 of three."""
    found = {}
    for name, form in FORMS.items():
        n = sizes[name]
        if form == "text":
            tokens = np.arange(1, n + 1, dtype=np.int32)
            nll = (tokens * rng.uniform(0.5, 3, n)).astype(np.float32)
            found[name] = Predictions(form=form, items=name, nll=nll, tokens=tokens)
            continue
        if form == "refusal":
            # of some sizes, no item expects one of the two
            refused, refuse = rng.random(n) < 0.5, np.arange(n) % 3 < n % 4
            found[name] = Predictions(
                form=form, items=name, correct=refused == refuse, answer=refused.astype(np.uint64)
            )
            continue
        answer = rng.integers(0, 3, n).astype(np.uint64)
        margin = rng.normal(size=n).astype(np.float16) if form == "choice" else None
        found[name] = Predictions(
            form=form, items=name, correct=answer == 0, answer=answer, margin=margin
        )
    return found


def tables_of(
    one: Study, old: dict[str, Predictions], models: list[dict[str, Predictions]]
) -> list[SuiteTable]:
    """Several models' answers, suite by suite."""
    ends = np.cumsum([len(old[name]) for name in FORMS])[:-1]
    changed = [np.split(answers_of(one, old, model)[1], ends) for model in models]
    tables = []
    for index, (name, form) in enumerate(FORMS.items()):
        if form == "text":
            tables.append(SuiteTable(nll=np.stack([m[name].nll for m in models])))  # type: ignore[misc]
        else:
            tables.append(
                SuiteTable(
                    right=np.stack([m[name].correct for m in models]),  # type: ignore[misc]
                    changed=np.stack([parts[index] for parts in changed]),
                )
            )
    return tables


OBJECTIVES = ["a", "t", "macro", "negative_flip_rate", "churn:b", "positive_flip_rate:a",
              "inconsistency", "r", "backward_trust", "backward_trust:r", "backward_error:a",
              "over_refusal", "unsafe_compliance:r"]  # fmt: skip
LIMITS = st.builds(
    lambda limit, confidence: {**limit, "confidence": confidence},
    st.sampled_from(
        [
            {"metric": "negative_flip_rate", "suite": "each", "max": 0.2},
            {"metric": "churn", "max": 0.3},
            {"metric": "score", "suite": "each", "min": 0.4},
            {"metric": "score", "suite": "t", "max": 1.5},
            {"metric": "macro", "min": 0.5},
            {"metric": "inconsistency", "suite": "b", "max": 0.1},
            {"metric": "backward_trust", "suite": "each", "min": 0.8},
            {"metric": "backward_error", "max": 0.6},
            {"metric": "over_refusal", "max": 0.3},
            {"metric": "unsafe_compliance", "suite": "each", "at_most_worse": 0.05},
            {"metric": "over_refusal", "at_most_worse": 0.0},
            {"suite": "each", "at_most_worse": 0.1},
            {"suite": "t", "at_most_worse": 0.2},
            {"at_most_worse": 0.02},
        ]
    ),
    st.sampled_from([None, 0.8, 0.95]),
)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    objectives=st.lists(st.sampled_from(OBJECTIVES), min_size=1, max_size=4, unique=True),
    constraints=st.lists(LIMITS, max_size=3),
    sizes=st.fixed_dictionaries({name: st.integers(2, 12) for name in FORMS}),
)
def test_all_items_once_give_what_a_study_is_told(
    seed: int, objectives: list[str], constraints: list[dict], sizes: dict[str, int]
) -> None:
    rng = np.random.default_rng(seed)
    one = study(objectives, constraints)
    old, *models = [some_model(rng, sizes) for _ in range(4)]
    question = question_of(one, old)
    ones = [np.ones((1, sizes[name]), np.float32) for name in FORMS]
    values, missed = judged(question, tables_of(one, old, models), ones)
    for index, model in enumerate(models):
        measured = measure(one, old, model)
        signs = np.array(one.signs)
        assert values[0, index] == pytest.approx(signs * objective_values(one, measured), rel=1e-5)
        assert missed[0, index] == pytest.approx(violation(one, measured), rel=1e-5, abs=1e-6)


@settings(deadline=None, max_examples=60)
@example(
    seed=0,
    constraints=[{"metric": "over_refusal", "max": 0.3, "confidence": 0.8}],
    sizes={"a": 2, "b": 2, "r": 4, "t": 2},
    contexts={"a": None, "b": 1, "r": 1, "t": None},
)
@given(
    seed=st.integers(0, 2**31),
    constraints=st.lists(LIMITS, max_size=3),
    sizes=st.fixed_dictionaries({name: st.integers(2, 12) for name in FORMS}),
    contexts=st.fixed_dictionaries({name: st.sampled_from([None, 1, 2, 4]) for name in FORMS}),
)
def test_clusters_once_give_what_a_study_is_told(
    seed: int, constraints: list[dict], sizes: dict[str, int], contexts: dict[str, int | None]
) -> None:
    rng = np.random.default_rng(seed)
    one = study(OBJECTIVES, constraints)
    old, *models = [some_model(rng, sizes) for _ in range(4)]
    clusters = {}
    for name, most in contexts.items():
        drawn = None if most is None else rng.integers(0, most, sizes[name])
        clusters[name] = None if drawn is None else np.unique(drawn, return_inverse=True)[1]
    question = question_of(one, old, clusters)
    units = [drawn_clusters(suite) for suite in question.suites]
    ones = [
        np.ones((1, len(suite) if at is None else at.max() + 1), np.float32)
        for suite, at in zip(question.suites, units, strict=True)
    ]
    values, missed = judged(question, tables_of(one, old, models), ones)
    for index, model in enumerate(models):
        measured = measure(one, old, model, clusters)
        signs = np.array(one.signs)
        assert values[0, index] == pytest.approx(signs * objective_values(one, measured), rel=1e-5)
        assert missed[0, index] == pytest.approx(violation(one, measured), rel=1e-4, abs=1e-5)


FORECAST = [
    {"metric": "negative_flip_rate", "suite": "each", "max": 0.2},
    {"metric": "backward_trust", "min": 0.9},
    {"metric": "backward_error", "suite": "a", "max": 0.5},
    {"metric": "unsafe_compliance", "max": 0.2},
    {"metric": "over_refusal", "suite": "r", "at_most_worse": 0.05},
    {"suite": "a", "at_most_worse": 0.05},
    {"at_most_worse": 0.02},
    {"suite": "t", "at_most_worse": 0.1, "confidence": None},
]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.fixed_dictionaries({name: st.integers(2, 12) for name in FORMS}),
    constraint=st.sampled_from(FORECAST),
    confidence=st.sampled_from([None, 0.8, 0.95]),
)
def test_certain_answers_are_forecast_as_they_are_measured(
    seed: int, sizes: dict[str, int], constraint: dict, confidence: float | None
) -> None:
    rng = np.random.default_rng(seed)
    one = study(OBJECTIVES, [{"confidence": confidence, **constraint}])
    old, *models = [some_model(rng, sizes) for _ in range(3)]
    question, tables = question_of(one, old), tables_of(one, old, models)
    right = [
        t.nll / s.tokens if s.form == "text" else t.right  # type: ignore[operator]
        for s, t in zip(question.suites, tables, strict=True)
    ]
    changed = [np.zeros_like(r) if t.changed is None else t.changed
               for r, t in zip(right, tables, strict=True)]  # fmt: skip
    found = forecast(question, *(np.concatenate(x, 1).astype(float) for x in (right, changed)))
    expected = judged(question, tables, [np.ones((1, sizes[n]), np.float32) for n in FORMS])
    assert found[0] == pytest.approx(expected[0][0], rel=1e-5)
    assert found[1] == pytest.approx(expected[1][0], rel=1e-5, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 5),
    constraint=st.sampled_from([one for one in FORECAST if one.get("suite") != "t"]),
    confidence=st.sampled_from([0.8, 0.95]),
)
def test_clusters_are_forecast_at_their_best(
    seed: int, size: int, constraint: dict, confidence: float
) -> None:
    """Never as worse than they are measured, and of unchanged answers as they are."""
    rng = np.random.default_rng(seed)
    one = study(["a"], [{**constraint, "confidence": confidence}])
    sizes = dict.fromkeys(FORMS, 20)
    old, *models = [some_model(rng, sizes) for _ in range(3)]
    clusters = {name: np.arange(20) // size for name in FORMS}
    question, tables = question_of(one, old, clusters), tables_of(one, old, [*models, old])
    right = [
        t.nll / s.tokens if s.form == "text" else t.right  # type: ignore[operator]
        for s, t in zip(question.suites, tables, strict=True)
    ]
    changed = [np.zeros_like(r) if t.changed is None else t.changed
               for r, t in zip(right, tables, strict=True)]  # fmt: skip
    found = forecast(question, *(np.concatenate(x, 1).astype(float) for x in (right, changed)))[1]
    measured = [violation(one, measure(one, old, m, clusters)) for m in (*models, old)]
    alone = [violation(one, measure(one, old, m)) for m in (*models, old)]
    assert (found <= np.array(measured) + 1e-6).all()
    assert (found >= np.array(alone) - 1e-6).all()
    if "max" not in constraint or constraint["metric"] != "unsafe_compliance":
        # nothing flips, which is spread as evenly as can be
        assert found[-1] == pytest.approx(measured[-1], abs=1e-6)


def simple(
    n: int,
    metrics: tuple[Metric, ...] = ("score",),
    bounds: tuple = (),
    clusters: np.ndarray | None = None,
) -> Question:
    """One suite `a` of n items, which the reference has right."""
    suite = ItemSuite(name="a", form="choice", reference=np.ones(n, bool), clusters=clusters)
    signs = {"score": -1.0}
    axes = tuple(Axis(metric=m, suite="a", sign=signs.get(m, 1.0)) for m in metrics)
    return Question(suites=(suite,), axes=axes, bounds=bounds)


def table(*right: np.ndarray) -> list[SuiteTable]:
    return [SuiteTable(right=np.stack(right), changed=~np.stack(right))]


def test_a_candidate_that_others_beat_everywhere_is_never_on_the_front() -> None:
    n = 50
    good, bad = np.arange(n) < 40, np.arange(n) < 10
    found = membership(simple(n, ("score", "churn")), table(good, bad), resamples=200)
    assert list(found) == [1, 0]


def test_equal_candidates_are_on_the_front_together() -> None:
    right = np.arange(30) < 15
    assert list(membership(simple(30), table(right, right, right), resamples=50)) == [1, 1, 1]


def test_two_that_differ_by_chance_share_the_front() -> None:
    """20 items each that only one has right: each wins about half of the draws."""
    items = np.arange(200)
    found = membership(simple(200), table(items < 120, (items >= 20) & (items < 140)))
    assert found[0] == pytest.approx(found[1], abs=0.1)
    assert 0.45 < found[0] < 0.62
    # a sign test: k of 40 discordant items, ties count for both
    rng = np.random.default_rng(1)
    draws = rng.multinomial(200, [0.1, 0.1, 0.8], size=100_000)
    assert found[0] == pytest.approx((draws[:, 0] >= draws[:, 1]).mean(), abs=0.05)


def test_what_breaks_a_constraint_in_a_draw_is_not_on_that_front() -> None:
    bound = Bound(metric="score", suites=("a",), limit=0.5, sign=-1.0)
    items = np.arange(100)
    found = membership(simple(100, bounds=(bound,)), table(items < 50, items < 20))
    share = np.random.default_rng(2).binomial(100, 0.5, size=100_000) >= 50
    assert found[0] == pytest.approx(share.mean(), abs=0.05)
    assert found[1] == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 3))
def test_every_draws_front_is_that_of_the_ranks(seed: int, count: int, axes: int) -> None:
    rng = np.random.default_rng(seed)
    metrics: tuple[Metric, ...] = ("score", "churn", "inconsistency")
    bound = Bound(metric="score", suites=("a",), limit=0.4, sign=-1.0, confidence=0.9)
    question = simple(12, metrics[:axes], (bound,))
    tables = [
        SuiteTable(right=rng.random((count, 12)) < 0.6, changed=rng.random((count, 12)) < 0.5)
    ]
    values, missed = resampled(question, tables, resamples=20, seed=3)
    expected = np.zeros(count)
    for points, violations in zip(values, missed, strict=True):
        expected += np.array([r == 1 for r in ranks(points.tolist(), violations.tolist())])
    found = membership(question, tables, resamples=20, seed=3)
    assert found == pytest.approx(expected / 20)
    assert found.sum() * 20 >= (missed <= 0).any(axis=1).sum()


def test_the_same_seed_gives_the_same_shares_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    right = rng.random((6, 40)) < 0.5
    tables = [SuiteTable(right=right, changed=~right)]
    whole = membership(simple(40, ("score", "churn")), tables, resamples=100)
    monkeypatch.setattr("optim.membership.MOST_COUNTS", 40 * 7)
    assert membership(simple(40, ("score", "churn")), tables, resamples=100) == pytest.approx(whole)


def equals(rng: np.random.Generator, clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two equally good candidates: in a fifth of the clusters only the one is right, in another
    only the other."""
    draw = rng.random(clusters).repeat(size)
    return draw < 0.6, (draw < 0.4) | (draw > 0.8)


def test_equally_good_candidates_are_seldom_called_worse() -> None:
    """Of two such, one is below 5 % of the fronts in one study of twenty, for either one."""
    rng, at = np.random.default_rng(7), np.arange(40).repeat(8)
    whole, items = [], []
    for _ in range(400):
        two = table(*equals(rng, 40, 8))
        whole.append(membership(simple(320, clusters=at), two, resamples=200).min() < 0.05)
        items.append(membership(simple(320), two, resamples=200).min() < 0.05)
    # three standard errors, and what a bootstrap of 40 clusters is too bold by
    assert np.mean(whole) < 0.1 + 3 * (0.1 * 0.9 / 400) ** 0.5
    assert np.mean(items) > 0.35


@pytest.mark.parametrize("clusters", [12, 60])
def test_intervals_of_resampled_differences_cover(clusters: int) -> None:
    rng, at = np.random.default_rng(clusters), np.arange(clusters).repeat(8)
    whole, items = [], []
    for _ in range(300):
        two = table(*equals(rng, clusters, 8))
        for covers, labels in ((whole, at), (items, None)):
            question = simple(8 * clusters, clusters=labels)
            values = resampled(question, two, resamples=300)[0][:, :, 0]
            low, high = np.quantile(values[:, 0] - values[:, 1], [0.025, 0.975])
            covers.append(low <= 0 <= high)
    assert np.mean(whole) > 0.91
    assert np.mean(items) < 0.7


def test_the_errors_of_clusters_are_those_of_whole_draws() -> None:
    """With few of them, spreads are still not too small: one fewer is drawn than there are."""
    rng = np.random.default_rng(3)
    right = rng.random((1, 9)) < 0.5
    question = simple(36, clusters=np.arange(9).repeat(4))
    values = resampled(question, table(right[0].repeat(4)), resamples=20_000)[0][:, 0, 0]
    assert values.std() == pytest.approx(right.std(ddof=1) / 3, rel=0.02)


def test_a_single_cluster_is_drawn_item_by_item() -> None:
    items = np.arange(30)
    two = table(items < 15, items >= 15)
    alone = membership(simple(30, clusters=np.zeros(30, int)), two)
    assert list(alone) == list(membership(simple(30), two))


def test_without_clusters_nothing_has_changed() -> None:
    rng = np.random.default_rng(11)
    right, changed = rng.random((3, 50)) < 0.6, rng.random((3, 50)) < 0.4
    bound = Bound(metric="negative_flip_rate", suites=("a",), limit=0.5, sign=1.0, confidence=0.95)
    question = simple(50, ("score", "churn"), (bound,))
    tables = [SuiteTable(right=right, changed=changed)]
    assert list(membership(question, tables)) == [0.486, 0.368, 0.209]


@pytest.mark.parametrize("size", [None, 5])
def test_a_large_study_takes_seconds(size: int | None) -> None:
    """1,000 draws of 200 candidates, 5,000 items and 5 objectives."""
    rng = np.random.default_rng(0)
    clusters = None if size is None else np.arange(1000) // size
    suites = tuple(
        ItemSuite(name=f"s{i}", form="choice", reference=rng.random(1000) < 0.6, clusters=clusters)
        for i in range(5)
    )
    axes = (Axis(metric="macro"), Axis(metric="negative_flip_rate", sign=1.0),
            Axis(metric="churn", sign=1.0), Axis(metric="score", suite="s0"),
            Axis(metric="score", suite="s1"))  # fmt: skip
    each = Bound(metric="negative_flip_rate", suites=tuple(s.name for s in suites), limit=0.3,
                 sign=1.0, confidence=0.95)  # fmt: skip
    tables = [
        SuiteTable(right=rng.random((200, 1000)) < 0.6, changed=rng.random((200, 1000)) < 0.4)
        for _ in suites
    ]
    start = time.perf_counter()
    found = membership(Question(suites=suites, axes=axes, bounds=(each,)), tables)
    assert time.perf_counter() - start < 10
    assert found.shape == (200,)
