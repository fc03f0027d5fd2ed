"""What every searcher promises (`optim.search.Searcher`), checked on all of them alike."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from optim.search import (
    METHODS,
    Axis,
    ItemSuite,
    Observation,
    Question,
    Searcher,
    Suggestion,
    make_searcher,
    quality,
)
from optim.search.base import Generational
from optim.search.invented import invented
from optim.space import GRID, Space

SPACES = {
    "simplex": Space.simplex(6),
    "affine": Space.affine(6),
    "narrow": Space(6, 0.1, 0.3),
    "pair": Space.affine(2),
    "groups": Space(3, -0.5, 1.5, groups=4),
    "task": Space.task(5, base=1, lower=-0.2),
}
TARGET = np.array([0.6, 0.3, 0.1, 0.0, 0.0, 0.0])
#: two suites of 15 items for those that learn from items
QUESTION = Question(
    suites=tuple(
        ItemSuite(name=name, form="choice", reference=np.arange(15) % 2 == 0) for name in "ab"
    ),
    axes=(Axis(metric="score", suite="a"), Axis(metric="churn", sign=1.0)),
)
Make = Callable[..., Searcher]
#: end when their recipes are tried, and use no random numbers
SWEEPS = ("softmax", "bcwi", "greedy")
#: trials of a search; a Gaussian process thinks about each for a fifth of a second, a surrogate
#: about a generation of six for as long
TRIALS = {"gp": 7, "margin-surrogate": 20, "metric-surrogate": 20}
#: goals, seconds of CPU: 1 for all but Gaussian processes (measured: 5, two of them imports)
SECONDS = {"gp": 15.0}


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


@pytest.fixture
def make(method: str) -> Make:
    def make(
        space: Space = SPACES["affine"],
        seed: int = 3,
        known: Sequence[Observation] = (),
        **options: object,
    ) -> Searcher:
        return make_searcher(
            method,
            space=space,
            objectives=2,
            seed=seed,
            options=options,
            known=known,
            question=QUESTION,
        )

    return make


@pytest.fixture
def trials(method: str) -> int:
    """How long a search is worth watching."""
    return TRIALS.get(method, 60)


def judged(one: Suggestion) -> Observation:
    """What evaluating a suggestion gives: pure, with infeasible and failed ones among them."""
    w = np.array(one.weights)
    target = np.resize(TARGET, len(w))
    # about one in eleven, none of the parents alone
    lot = round(float(w @ np.arange(1, len(w) + 1)) * GRID) % 11
    state = "failed" if lot == 7 else "complete"
    values = (float(((w - target) ** 2).sum()), float(np.abs(w).sum()))
    return Observation(
        slot=one.slot,
        weights=one.weights,
        values=values if state == "complete" else None,
        violation=float(w[-1] - 0.3),
        state=state,  # type: ignore[arg-type]
        signal=np.sin(np.arange(30) + 3 * w[0]).astype(np.float32),
        changed=np.arange(30) % 3 == int(w[0] * GRID) % 3,
    )


def pending(one: Suggestion) -> Observation:
    return Observation(slot=one.slot, weights=one.weights)


def searched(searcher: Searcher, trials: int, k: int = 4) -> list[Observation]:
    """The rows of a search in which nothing happens in parallel; a sweep may end early."""
    rows: list[Observation] = []
    while len(rows) < trials:
        found = searcher.ask(rows, min(k, trials - len(rows)))
        if not found:
            assert searcher.name in SWEEPS
            assert len(rows) >= 5
            break
        rows += [judged(one) for one in found]
    return rows


def known_results(space: Space) -> list[Observation]:
    """What baselines and an earlier study have shown: corners, the uniform soup, some mixtures."""
    corners = [space.repeated(row) for row in np.eye(space.n).tolist()]
    soup = space.repeated((1 / space.n,) * space.n)
    mixed = np.random.default_rng(7).dirichlet(np.ones(space.n), (5, space.groups))
    points = [*corners, soup, *space.place_all(mixed.reshape(5, -1))]
    rows = [judged(Suggestion(f"known.{i}", tuple(w))) for i, w in enumerate(points)]
    return [row for row in rows if row.state == "complete"]


def suggested(rows: Sequence[Observation]) -> dict[str, tuple[float, ...]]:
    return {row.slot: row.weights for row in rows}


def test_suggestions_are_points_of_the_space(make: Make, space: Space, trials: int) -> None:
    for row in searched(make(space), trials):
        assert len(row.weights) == space.size
        assert all(isinstance(w, float) for w in row.weights)
        rows = np.reshape(row.weights, (space.groups, space.n))
        assert np.allclose(rows.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        assert (rows >= space.low).all()
        assert (rows <= space.high).all()
        assert all(round(w * GRID) / GRID == w for w in row.weights)


def test_no_slot_is_handed_out_twice(make: Make, trials: int) -> None:
    rows = searched(make(), trials, k=7)
    assert len({row.slot for row in rows}) == len(rows)
    assert rows[0].slot == "g000.00"


def test_asking_changes_nothing(make: Make, trials: int) -> None:
    searcher, rows = make(), searched(make(), min(trials, 12))
    first = searcher.ask(rows, 5)
    assert searcher.ask(rows, 5) == first
    assert searcher.ask(rows, 3) == first[:3]
    assert searcher.ask(rows, 0) == []


def test_asking_for_fewer_loses_no_slot(make: Make, trials: int) -> None:
    whole, one_by_one = make().ask([], 1000), list[Suggestion]()
    while len(one_by_one) < min(len(whole), trials):
        one_by_one += make().ask([pending(one) for one in one_by_one], 1)
    assert one_by_one == whole[: len(one_by_one)]


def test_a_search_rebuilt_from_its_rows_goes_on_as_if_never_stopped(
    make: Make, trials: int
) -> None:
    whole = searched(make(), trials)
    resumed: list[Observation] = []
    while len(resumed) < len(whole):
        resumed += [judged(one) for one in make().ask(resumed, 1)]
    assert suggested(resumed) == suggested(whole)


def test_equal_seeds_search_alike_and_others_differently(make: Make, method: str) -> None:
    assert searched(make(seed=5), 7) == searched(make(seed=5), 7)
    assert (searched(make(seed=5), 7) == searched(make(seed=6), 7)) == (method in SWEEPS)


def test_what_is_known_is_never_suggested_again(make: Make, space: Space, trials: int) -> None:
    known = known_results(space)
    rows = searched(make(space, known=known), trials)
    places = {space.place(row.weights) for row in known if space.contains(row.weights)}
    assert not places & {row.weights for row in rows}
    # an earlier study with the same seed is no reason to see its trials again
    again = make(space, known=[*known, *(row for row in rows if row.state == "complete")])
    told = {row.weights for row in rows if row.state == "complete"}
    found = again.ask([], 5)
    assert found or again.name in SWEEPS
    assert not told & {one.weights for one in found}


def test_what_is_known_changes_nothing_about_replay(make: Make, trials: int) -> None:
    known, luck = known_results(SPACES["affine"]), random.Random(1)
    whole = searched(make(known=known), trials)
    resumed: list[Observation] = []
    while len(resumed) < len(whole):
        luck.shuffle(resumed)
        asked = make(known=known).ask(resumed, min(3, len(whole) - len(resumed)))
        resumed += [judged(one) for one in asked]
    assert suggested(resumed) == suggested(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "pending"}, "known 'known.0': is no complete"),
        ({"weights": (1.0, 0.0)}, "known 'known.0': is no complete result of 6 weights"),
        ({"values": (1.0, float("nan"))}, "known 'known.0': values"),
        ({"values": (1.0,)}, "known 'known.0': values"),
        ({"violation": float("inf")}, "known 'known.0': violation"),
    ],
)
def test_impossible_knowledge_is_refused(
    make: Make, change: dict[str, object], message: str
) -> None:
    good = Observation("known.0", (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), (1.0, 2.0), 0.0, "complete")
    with pytest.raises(ValueError, match=message):
        make(known=[replace(good, **change)])  # type: ignore[arg-type]


def test_nothing_more_to_suggest_stays_so(make: Make, method: str) -> None:
    if method not in SWEEPS:
        pytest.skip("never ends")
    rows = searched(make(SPACES["pair"]), 1000)
    assert len(rows) < 1000
    assert make(SPACES["pair"]).ask(rows, 9) == []
    with pytest.raises(ValueError, match="slot"):
        make(SPACES["pair"]).ask([*rows, replace(rows[0], slot="g999.00")], 9)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_results_arrive_changes_nothing(
    make: Make, seed: int, trials: int
) -> None:
    order, rows_alone = random.Random(seed), searched(make(), trials)
    count, open_rows = len(rows_alone), list[Suggestion]()
    closed: list[Observation] = []
    while len(open_rows) + len(closed) < count:
        rows = [pending(one) for one in open_rows] + closed
        order.shuffle(rows)
        open_rows += make().ask(rows, min(order.randint(0, 9), count - len(rows)))
        order.shuffle(open_rows)
        done = order.randint(0, len(open_rows))
        closed += [judged(one) for one in open_rows[:done]]
        del open_rows[:done]
    rows = [pending(one) for one in open_rows] + closed
    assert suggested(rows) == suggested(rows_alone)


def test_results_of_the_current_generation_do_not_matter_yet(make: Make) -> None:
    searcher = make()
    first = searcher.ask([], 3)
    best = [replace(judged(one), values=(-9.0, -9.0), state="complete") for one in first]
    assert searcher.ask(best, 2) == searcher.ask([pending(one) for one in first], 2)


def test_nothing_is_suggested_while_a_generation_is_pending(make: Make) -> None:
    searcher = make()
    generation = searcher.ask([], 1000)
    rows = [pending(generation[0]), *(judged(one) for one in generation[1:])]
    if isinstance(searcher, Generational):
        assert searcher.ask(rows, 4) == []
    else:  # learns nothing, so it has nothing to wait for
        assert [one.slot for one in searcher.ask(rows, 1)] == ["g000.1000"]
    assert searcher.ask([judged(one) for one in generation], 1)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_failed_trials_are_no_error(make: Make, share: float, method: str, trials: int) -> None:
    luck, searcher = random.Random(0), make()
    rows: list[Observation] = []
    while len(rows) < trials and (found := searcher.ask(rows, 60)):
        for one in found:
            row = judged(one)
            if luck.random() < share:
                row = replace(row, state="failed", values=None)
            rows.append(row)
    assert len(rows) >= trials or method in SWEEPS
    assert all(SPACES["affine"].contains(row.weights) for row in rows)


STARTED = [name for name in sorted(METHODS) if "start" in {o.name for o in METHODS[name].options}]


def as_stopped(row: Observation) -> Observation:
    """The same result, of which only an estimate is known."""
    return replace(row, state="stopped", values=None, estimate=row.values)


def test_stopped_trials_are_finished_ones(make: Make, method: str, trials: int) -> None:
    luck, searcher = random.Random(0), make()
    rows: list[Observation] = []
    while len(rows) < trials and (found := searcher.ask(rows, trials)):
        for one in found:
            row = judged(one)
            stop = row.state == "complete" and luck.random() < 0.6
            rows.append(as_stopped(row) if stop else row)
    assert len(rows) >= trials or method in SWEEPS
    assert all(SPACES["affine"].contains(row.weights) for row in rows)
    luck.shuffle(rows)
    assert searcher.ask(rows, 3) == make().ask(sorted(rows, key=lambda row: row.slot), 3)


def test_a_stopped_trial_is_behind_complete_ones_and_before_failed_ones() -> None:
    good = Observation("g000.00", (1.0,), (-0.5, 0.0), 0.0, "complete")
    seen = [as_stopped(replace(good, values=(value, 0.0))) for value in (-0.9, -0.6)]
    missed = [replace(good, violation=miss) for miss in (0.1, 0.3)]
    between = as_stopped(replace(good, violation=0.2))
    failed = replace(good, state="failed", values=None)
    order = [good, *seen, missed[0], between, missed[1], failed]
    assert sorted(random.Random(1).sample(order, len(order)), key=quality) == order


@pytest.mark.parametrize("method", STARTED)
def test_start_points_outside_the_space_are_moved_inside(make: Make, trials: int) -> None:
    narrow = SPACES["narrow"]
    searcher = make(narrow, start=[[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1 / 6] * 6])
    assert all(narrow.contains(row.weights) for row in searched(searcher, trials))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": (float("nan"), 0.0)}, "values"),
        ({"values": (0.0, float("inf"))}, "values"),
        ({"values": (0.0,)}, "values"),
        ({"values": None}, "values"),
        ({"violation": float("nan")}, "violation"),
        ({"violation": float("inf")}, "violation"),
        ({"state": "lost"}, "state"),
        ({"weights": (1.0, 0.0)}, "weights"),
        ({"weights": (9.0, -8.0, 0.0, 0.0, 0.0, 0.0)}, "weights"),
        ({"weights": (float("nan"),) * 6}, "weights"),
        ({"state": "stopped"}, "estimate"),
        ({"state": "stopped", "estimate": (1.0,)}, "estimate"),
        ({"state": "stopped", "estimate": (1.0, float("nan"))}, "estimate"),
        ({"slot": "single.3"}, "slot"),
        ({"slot": "g000.9999"}, "slot"),
        ({"slot": "g001.00"}, "slot"),
    ],
)
def test_an_impossible_observation_is_refused_by_field(
    make: Make, change: dict[str, object], message: str
) -> None:
    searcher = make()
    first, second = searcher.ask([], 2)
    done = replace(judged(second), values=(1.0, 2.0), state="complete", violation=0.0)
    assert searcher.ask([judged(first), done], 1)
    with pytest.raises(ValueError, match=message):
        searcher.ask([judged(first), replace(done, **change)], 1)  # type: ignore[arg-type]


def test_a_doubled_slot_is_refused(make: Make) -> None:
    row = judged(make().ask([], 1)[0])
    with pytest.raises(ValueError, match="slot occurs twice"):
        make().ask([row, row], 1)


def test_the_inputs_of_a_result_are_not_needed_for_a_failed_trial(make: Make) -> None:
    one = make().ask([], 1)[0]
    failed = Observation(one.slot, one.weights, (float("nan"),), float("nan"), "failed")
    assert make().ask([failed], 1)


def test_options_describe_themselves(method: str) -> None:
    kind = METHODS[method]
    assert kind.name == method
    assert kind.summary
    for option in kind.options:
        assert option.doc
        assert option.read(option.default, where=option.name) == option.default
    defaults = {option.name: option.default for option in kind.options}
    assert (
        make_searcher(method, space=SPACES["pair"], objectives=1, seed=0, options=defaults).settings
        == defaults
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"no_such": 1}}, "search.options.no_such"),
        ({"space": Space.simplex(1)}, "space.n"),
        ({"objectives": 0}, "objectives"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_arguments_are_checked(method: str, arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"space": SPACES["pair"], "objectives": 1, "seed": 0}
    with pytest.raises(ValueError, match=message):
        make_searcher(method, **(good | arguments))  # type: ignore[arg-type]


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"search.method: 'sgd'.*cma-es"):
        make_searcher("sgd", space=SPACES["pair"], objectives=1, seed=0)


@pytest.mark.parametrize("groups", [1, 32])
def test_a_thousand_trials_of_sixteen_parents_are_replayed_within_a_second(
    method: str, groups: int
) -> None:
    space = Space(16, -0.5, 1.5, groups=groups)
    searcher = make_searcher(method, space=space, objectives=3, seed=0)
    noise = np.random.default_rng(0)
    points = space.place_all(noise.normal(1 / space.n, 0.3, size=(1000, space.size)))
    rows = invented(searcher, points, noise.normal(size=(1000, 3)).tolist())
    started = time.process_time()
    # the last generation may not have four left
    assert searcher.ask(rows, 4) or method in SWEEPS
    assert time.process_time() - started < SECONDS.get(method, 1.0)


def test_describing_the_searchers_loads_no_heavy_library() -> None:
    heavy = ("optuna", "cmaes", "scipy", "moocore", "torch")
    code = (
        "import sys, optim.search, optim.search.baselines, optim.pareto, optim.intervals, "
        f"optim.compatibility; print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
