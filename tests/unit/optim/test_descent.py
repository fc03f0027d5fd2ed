"""What a descent is made of: its coefficients and their space, Adam, preferences, stored states."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.descent import DESCENTS, Job, State, Task
from optim.descent.adam import adam
from optim.descent.blocks import Blocks, project_rows, regularised
from optim.descent.reduce import coefficient_gradient
from optim.descent.spread import preferences
from optim.space import GRID, Space

COLUMNS = {
    "model.embed_tokens.weight": 4,
    "model.layers.0.mlp.up_proj.weight": 4,
    "model.layers.0.self_attn.q_proj.weight": 4,
    "model.layers.3.mlp.up_proj.weight": 4,
    "model.norm.weight": 3,
}
TASK = Task(suite="a", loss="supervised")


def job(**more: Any) -> Job:
    bounds: dict[str, Any] = {"low": (-0.5,) * 3, "high": (1.5,) * 3, "start": (1 / 3,) * 3}
    given = {"parents": ("a", "b", "c"), "dtype": "float32", "tasks": (TASK,), **bounds, **more}
    return Job(**given)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_rows_are_projected_as_the_space_does(n: int, seed: int, simplex: bool) -> None:
    low, high = (0.0, 1.0) if simplex else (-0.5, 1.5)
    rows = np.random.default_rng(seed).normal(0, 3, (4, n))
    found = project_rows(rows, np.full(n, low), np.full(n, high))
    space = Space(n, low, high)
    for row, mine in zip(rows, found, strict=True):
        assert mine == pytest.approx(space.project(row), abs=1e-9)
        assert space.contains(mine)


@pytest.mark.parametrize(
    ("grain", "groups", "widths"),
    [
        ("model", 0, [1]),
        ("layers", 2, [1] * 3),
        ("kinds", 4, [1] * 4),
        ("columns", 0, [4] * 4 + [3]),
    ],
)
def test_blocks_of_a_grain(grain: str, groups: int, widths: list[int]) -> None:
    blocks = Blocks.of(job(grain=grain), COLUMNS)
    assert [block.width for block in blocks.blocks] == widths
    assert sorted(name for block in blocks.blocks for name in block.names) == sorted(COLUMNS)
    assert set(blocks.index) == set(COLUMNS)
    assert blocks.size == 3 * sum(widths)
    x = blocks.project(np.random.default_rng(0).normal(1 / 3, 0.3, blocks.size))
    recipe = blocks.recipe(x, ("a", "b", "c"), "float32")
    assert len(recipe.groups) == groups
    for name in COLUMNS:
        block = blocks.view(x, blocks.index[name])
        if grain == "columns":
            assert np.array(recipe.columns[name]) == pytest.approx(block, abs=4 / GRID)
            assert np.array(recipe.columns[name]).sum(axis=0) == pytest.approx(1.0, abs=1e-12)
        else:
            assert recipe.weights_of(name) == pytest.approx(block[:, 0], abs=2 / GRID)
            assert sum(recipe.weights_of(name)) == pytest.approx(1.0, abs=1e-12)
            assert not recipe.columns


def test_coefficients_that_are_free_are_left_alone() -> None:
    blocks = Blocks.of(job(grain="columns", low=None, high=None), COLUMNS)
    x = np.random.default_rng(0).normal(size=blocks.size)
    assert blocks.project(x) is x
    assert blocks.tangent(x) is x
    columns = blocks.recipe(x, ("a", "b", "c"), "float32").columns
    for name, rows in columns.items():
        assert np.array(rows) == pytest.approx(blocks.view(x, blocks.index[name]), abs=1 / GRID)


def test_the_tangent_leaves_every_sum_alone() -> None:
    blocks = Blocks.of(job(grain="columns"), COLUMNS)
    found = blocks.tangent(np.random.default_rng(0).normal(size=blocks.size))
    for i in range(len(blocks.blocks)):
        assert blocks.view(found, i).sum(axis=0) == pytest.approx(0.0, abs=1e-12)


def test_the_mean_weighs_by_values() -> None:
    blocks = Blocks.of(job(grain="layers"), COLUMNS)
    x = np.concatenate([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).astype(float)
    counts = dict.fromkeys(COLUMNS, 1) | {"model.norm.weight": 5}
    # layer 0 has two tensors, layer 3 one, the rest embedding and norm
    assert blocks.mean(x, counts) == pytest.approx((2 / 9, 1 / 9, 6 / 9))


def test_parents_that_do_not_differ_leave_nothing_to_do() -> None:
    with pytest.raises(ValueError, match="do not differ"):
        Blocks.of(job(), {})


@pytest.mark.parametrize("what", ["similarity", "l1", "l2"])
@pytest.mark.parametrize("grain", ["layers", "columns"])
def test_what_coefficients_cost_has_the_slope_it_says(what: str, grain: str) -> None:
    blocks = Blocks.of(job(grain=grain), COLUMNS)
    x = np.random.default_rng(0).normal(size=blocks.size)
    shares = {"similarity": 0.0, "l1": 0.0, "l2": 0.0, what: 0.7}
    _, slope = regularised(blocks, x, **shares)
    for i in range(0, len(x), 3):
        step = np.zeros(len(x))
        step[i] = 1e-6
        up, down = (regularised(blocks, x + s * step, **shares)[0] for s in (1, -1))
        assert slope[i] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_equal_coefficients_have_a_cosine_of_one() -> None:
    blocks = Blocks.of(job(grain="columns"), COLUMNS)
    cost, slope = regularised(blocks, blocks.start((1 / 3,) * 3), similarity=1.0, l1=0.0, l2=0.0)
    assert cost == pytest.approx(1.0)
    assert slope == pytest.approx(0.0, abs=1e-9)


def test_adam_is_torchs() -> None:
    rng = np.random.default_rng(0)
    leaf = torch.tensor(rng.normal(size=5), requires_grad=True)
    state, other = State.begin(leaf.detach().numpy().copy()), torch.optim.Adam([leaf], lr=0.03)
    for _ in range(20):
        gradient = rng.normal(size=5) * 0.1
        leaf.grad = torch.tensor(gradient)
        other.step()
        state = adam(state, gradient, 0.03)
    assert state.x == pytest.approx(leaf.detach().numpy(), abs=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        adam(state, np.full(5, np.nan), 0.1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_state_is_stored_to_the_bit(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    state = State(
        step=3, values=rng.normal(size=(3, size)), loss=float(rng.normal()), items=5, tokens=7,
        taught=2, seconds=float(rng.random()),
    )  # fmt: skip
    again = State.from_bytes(state.to_bytes())
    assert again.values.tobytes() == state.values.tobytes()
    assert again.about() == state.about()
    assert again.passes == 17


@pytest.mark.parametrize(
    "broken", [b"", b"{}\n", b"[]\n", b"x", b'{"magic": "remelt descent 1"}\n']
)
def test_what_is_no_state_is_refused(broken: bytes) -> None:
    whole = State.begin(np.ones(2)).to_bytes()
    for data in (broken, whole[:-1], whole.replace(b'"step"', b'"stop"')):
        with pytest.raises(ValueError, match="state"):
            State.from_bytes(data)


@given(st.integers(1, 6), st.integers(1, 20))
def test_preferences_are_spread(aims: int, count: int) -> None:
    found = preferences(aims, count)
    assert len(found) == (1 if aims == 1 else count)
    assert len(set(found)) == len(found)
    assert found[0] == pytest.approx([1 / aims] * aims)
    for one in found:
        assert sum(one) == pytest.approx(1.0)
        assert min(one) >= 0
    assert preferences(aims, count + 1)[0] == found[0]
    if aims > 1 and count > aims:
        # every aim has a descent of its own
        assert {tuple(row) for row in np.eye(aims)} <= set(found)


def test_the_gradient_of_coefficients_by_hand() -> None:
    gradient = torch.tensor([1.0, 2, 3, 4, 5, 6])
    parents = [torch.tensor([1.0, 0, 0, 1, 0, 0]), torch.ones(6, dtype=torch.bfloat16)]
    assert coefficient_gradient(gradient, parents).tolist() == [[5.0], [21.0]]
    by_column = coefficient_gradient(gradient, parents, columns=3)
    assert by_column.tolist() == [[5.0, 0.0, 0.0], [5.0, 7.0, 9.0]]


@pytest.mark.parametrize(("columns", "size"), [(None, 300_000), (7, 7 * 50_000)])
def test_chunks_change_nothing(columns: int | None, size: int) -> None:
    torch.manual_seed(0)
    gradient, parents = torch.randn(size), [torch.randn(size) for _ in range(2)]
    width = columns or size
    expected = [
        (gradient.double() * p.double()).view(-1, width).sum(0 if columns else 1) for p in parents
    ]
    found = coefficient_gradient(gradient, parents, columns=columns)
    assert torch.allclose(found, torch.stack(expected), rtol=1e-4, atol=1e-2)


def test_a_job_is_stored_as_it_is() -> None:
    one = job(tasks=(TASK, Task(suite="b", loss="imitate", teacher=2, weight=0.5)), l1=0.1)
    assert Job.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    free = job(low=None, high=None, grain="columns")
    assert Job.from_dict(json.loads(json.dumps(free.to_dict()))) == free
    assert free.free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": ("a",)}, "job.parents"),
        ({"tasks": ()}, "job.tasks"),
        ({"tasks": (Task(suite="a", loss="imitate"),)}, "needs one"),
        ({"tasks": (Task(suite="a", loss="imitate", teacher=3),)}, "teacher 3"),
        ({"tasks": (Task(suite="a", loss="supervised", weight=-1.0),)}, "weight"),
        ({"grain": "rows"}, "job.grain"),
        ({"low": None}, "job.low"),
        ({"start": (1.0,)}, "job.start"),
        ({"start": (np.nan, 0.0, 1.0)}, "job.start"),
        ({"batch": 0}, "job.batch"),
        ({"rate": 0.0}, "job.rate"),
    ],
)
def test_a_job_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(**change)


def test_unknown_keys_of_a_job_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown keys"):
        Job.from_dict({**job().to_dict(), "colour": "red"})


@pytest.mark.parametrize("name", DESCENTS)
def test_methods_describe_themselves(name: str) -> None:
    method = DESCENTS[name]
    assert method.name == name
    assert method.summary
    assert method.settings({}) == {option.name: option.default for option in method.options}
    for option in method.options:
        assert option.doc
        if option.kind == "choice":
            assert option.default in option.choices
            with pytest.raises(ValueError, match=f"search.options.{option.name}: 'no' is not one"):
                method.settings({option.name: "no"})
    with pytest.raises(ValueError, match="no_such"):
        method.settings({"no_such": 1})
