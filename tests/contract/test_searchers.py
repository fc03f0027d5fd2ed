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

from optim.search import METHODS, Observation, Searcher, Suggestion, make_searcher, quality
from optim.search.base import Generational, slot_name
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
Make = Callable[..., Searcher]


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


@pytest.fixture
def make(method: str) -> Make:
    def make(space: Space = SPACES["affine"], seed: int = 3, **options: object) -> Searcher:
        return make_searcher(method, space=space, objectives=2, seed=seed, options=options)

    return make


def judged(one: Suggestion) -> Observation:
    """What evaluating a suggestion gives: pure, with infeasible and failed ones among them."""
    w = np.array(one.weights)
    target = np.resize(TARGET, len(w))
    state = "failed" if int(w[0] * GRID) % 11 == 0 else "complete"
    values = (float(((w - target) ** 2).sum()), float(np.abs(w).sum()))
    return Observation(
        slot=one.slot,
        weights=one.weights,
        values=values if state == "complete" else None,
        violation=float(w[-1] - 0.3),
        state=state,  # type: ignore[arg-type]
    )


def pending(one: Suggestion) -> Observation:
    return Observation(slot=one.slot, weights=one.weights)


def searched(searcher: Searcher, trials: int, k: int = 4) -> list[Observation]:
    """The rows of a search in which nothing happens in parallel."""
    rows: list[Observation] = []
    while len(rows) < trials:
        found = searcher.ask(rows, min(k, trials - len(rows)))
        assert found
        rows += [judged(one) for one in found]
    return rows


def suggested(rows: Sequence[Observation]) -> dict[str, tuple[float, ...]]:
    return {row.slot: row.weights for row in rows}


def test_suggestions_are_points_of_the_space(make: Make, space: Space) -> None:
    for row in searched(make(space), 50):
        assert len(row.weights) == space.size
        assert all(isinstance(w, float) for w in row.weights)
        rows = np.reshape(row.weights, (space.groups, space.n))
        assert np.allclose(rows.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        assert (rows >= space.low).all()
        assert (rows <= space.high).all()
        assert all(round(w * GRID) / GRID == w for w in row.weights)


def test_no_slot_is_handed_out_twice(make: Make) -> None:
    rows = searched(make(), 60, k=7)
    assert len({row.slot for row in rows}) == 60
    assert rows[0].slot == "g000.00"


def test_asking_changes_nothing(make: Make) -> None:
    searcher, rows = make(), searched(make(), 30)
    first = searcher.ask(rows, 5)
    assert searcher.ask(rows, 5) == first
    assert searcher.ask(rows, 3) == first[:3]
    assert searcher.ask(rows, 0) == []


def test_a_search_rebuilt_from_its_rows_goes_on_as_if_never_stopped(make: Make) -> None:
    whole = searched(make(), 60)
    resumed: list[Observation] = []
    while len(resumed) < 60:
        resumed += [judged(one) for one in make().ask(resumed, 1)]
    assert suggested(resumed) == suggested(whole)


def test_equal_seeds_search_alike_and_others_differently(make: Make) -> None:
    assert searched(make(seed=5), 20) == searched(make(seed=5), 20)
    assert searched(make(seed=5), 20) != searched(make(seed=6), 20)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_results_arrive_changes_nothing(make: Make, seed: int) -> None:
    order, calm = random.Random(seed), suggested(searched(make(), 48))
    open_rows: list[Suggestion] = []
    closed: list[Observation] = []
    while len(open_rows) + len(closed) < 48:
        rows = [pending(one) for one in open_rows] + closed
        order.shuffle(rows)
        open_rows += make().ask(rows, min(order.randint(0, 9), 48 - len(rows)))
        order.shuffle(open_rows)
        done = order.randint(0, len(open_rows))
        closed += [judged(one) for one in open_rows[:done]]
        del open_rows[:done]
    rows = [pending(one) for one in open_rows] + closed
    assert suggested(rows) == calm


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
def test_failed_trials_are_no_error(make: Make, share: float) -> None:
    luck, searcher = random.Random(0), make()
    rows: list[Observation] = []
    while len(rows) < 60:
        for one in searcher.ask(rows, 60):
            row = judged(one)
            if luck.random() < share:
                row = replace(row, state="failed", values=None)
            rows.append(row)
    assert all(SPACES["affine"].contains(row.weights) for row in rows)


def as_stopped(row: Observation) -> Observation:
    """The same result, of which only an estimate is known."""
    return replace(row, state="stopped", values=None, estimate=row.values)


def test_stopped_trials_are_finished_ones(make: Make) -> None:
    luck, searcher = random.Random(0), make()
    rows: list[Observation] = []
    while len(rows) < 60:
        found = searcher.ask(rows, 60)
        assert found
        for one in found:
            row = judged(one)
            stop = row.state == "complete" and luck.random() < 0.6
            rows.append(as_stopped(row) if stop else row)
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


@pytest.mark.parametrize("method", ["cma-es", "nsga-ii"])
def test_start_points_outside_the_space_are_moved_inside(make: Make) -> None:
    narrow = SPACES["narrow"]
    searcher = make(narrow, start=[[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1 / 6] * 6])
    assert all(narrow.contains(row.weights) for row in searched(searcher, 40))


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


def test_a_thousand_trials_of_sixteen_parents_are_replayed_within_a_second(method: str) -> None:
    known = {option.name for option in METHODS[method].options}
    options = {"population": 10} if "population" in known else {}
    space, noise = Space.affine(16), np.random.default_rng(0)
    searcher = make_searcher(method, space=space, objectives=3, seed=0, options=options)
    rows = [
        Observation(
            slot=slot_name(i // 10, i % 10) if options else slot_name(0, i),
            # whatever was evaluated is what is learnt from
            weights=space.round(space.project(noise.normal(1 / 16, 0.3, size=16))),
            values=tuple(noise.normal(size=3).tolist()),
            state="complete",
        )
        for i in range(1000)
    ]
    started = time.process_time()
    assert len(searcher.ask(rows, 4)) == 4
    assert time.process_time() - started < 1.0


def test_describing_the_searchers_loads_no_heavy_library() -> None:
    heavy = ("optuna", "cmaes", "scipy", "moocore", "torch")
    code = (
        "import sys, optim.search, optim.search.baselines, optim.pareto, optim.intervals, "
        f"optim.compatibility; print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
