"""Descents inside one process: gradients of coefficients against those of a plain autograd graph,
what memory they need, and that a stopped descent goes on as if it had not been."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optim.descent import Job, State, Task
from optim.descent.job import GRAINS
from services.checkpoints import read_checkpoint
from services.errors import BadInput
from services.suites import Item, Suite
from tests.plugins.tiny_models import Save
from workers.engine.candidate import Candidate
from workers.engine.descent import Descent
from workers.engine.gradients import Moving
from workers.engine.group import Group
from workers.engine.lower import Activations

Members = list[tuple[str, Path]]
Make = Callable[..., Descent]
TEXT = "the cat sat on a mat and dogs ran over hills when rain fell in spring"
WORDS = TEXT.split()


def suites() -> dict[str, Suite]:
    """One of each form, all of it on the search split but a little."""
    rng = np.random.default_rng(0)

    def words(n: int) -> str:
        return " ".join(rng.choice(WORDS, n))

    items: dict[str, list[Item]] = {"choice": [], "exact": [], "text": []}
    for number in range(12):
        name = str(number)
        options = tuple(f" {w}" for w in rng.choice(WORDS, 2 + number % 2, replace=False))
        items["choice"].append(Item(id=name, context=words(9), choices=options, gold=number % 2))
        items["exact"].append(Item(id=name, prompt=words(4), target=f" {words(2)}"))
        items["text"].append(Item(id=name, text=words(6)))
    return {
        form: Suite(name=form, form=form, items=tuple(many), fractions=(0.9, 0.05, 0.05))  # type: ignore[arg-type]
        for form, many in items.items()
    }


@pytest.fixture(scope="module", params=["Llama", "GPT2", "Mixtral"])
def members(
    request: pytest.FixtureRequest, tiny_model: Save, tmp_path_factory: pytest.TempPathFactory
) -> Members:
    """Three checkpoints of one architecture; what stands in block 0 is the same in all."""
    return perturbed(tiny_model(request.param), tmp_path_factory.mktemp("pool"), 3)


def perturbed(source: Path, root: Path, count: int) -> Members:
    found = []
    tensors = load_file(source / "model.safetensors")
    for seed in range(count):
        folder = root / str(seed)
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        torch.manual_seed(seed)
        changed = {
            name: t if ".0." in name else t + 0.2 * t.std().nan_to_num(0.1) * torch.randn_like(t)
            for name, t in tensors.items()
        }
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        found.append((read_checkpoint(folder).digest, folder))
    return found


def candidate(members: Members) -> Candidate:
    made = Candidate(
        Group(0, 1), device=torch.device("cpu"), compute="auto", parallel="auto", meeting=None,
        tier=None, activations=Activations(2**24), plain=False, tell=lambda *_: None,
        forget=lambda: None,
    )  # fmt: skip
    made.load(members, "float32")
    return made


def job(members: Members, *tasks: Task, **more: Any) -> Job:
    n = len(members)
    bounds = {"low": (-0.5,) * n, "high": (1.5,) * n}
    defaults = {"start": (1 / n,) * n, "steps": 6, "batch": 4, "temperature": 2.0, **bounds}
    return Job(
        parents=tuple(digest for digest, _ in members),
        dtype="float32",
        tasks=tasks,
        **{**defaults, **more},
    )


def descent(members: Members, *tasks: Task, **more: Any) -> Descent:
    held = candidate(members)
    return Descent(
        job(members, *tasks, **more), held, suites(), batch_tokens=256, tell=lambda *_: None
    )


TASKS = {
    "choice": Task(suite="choice", loss="supervised"),
    "exact": Task(suite="exact", loss="supervised"),
    "text": Task(suite="text", loss="supervised"),
    "undecided": Task(suite="choice", loss="entropy"),
    "undecided text": Task(suite="text", loss="entropy"),
    "undecided exact": Task(suite="exact", loss="entropy"),
    "imitate": Task(suite="choice", loss="imitate", teacher=1),
    "imitate text": Task(suite="text", loss="imitate", teacher=2),
}


def point(one: Descent, seed: int = 0) -> np.ndarray:
    """Coefficients that are no special ones."""
    noise = np.random.default_rng(seed).normal(0, 0.1, one.blocks.size)
    return one.blocks.project(one.blocks.start(one.job.start) + noise)


def plain_loss(one: Descent, x: torch.Tensor, members: Members) -> torch.Tensor:
    """The loss of step 0 by a graph that holds every parent's every tensor: all items one by one,
    nothing packed, nothing shared, parameters as functions of x."""
    model, encoder = one.model.module, one.model.encoder
    files = [load_file(folder / "model.safetensors") for _, folder in members]

    def merged(c: Callable[[int], torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for name, parts in one.model_parts.items():
            tensors = []
            for part in parts:
                if part in one.blocks.index:
                    block = c(one.blocks.index[part])
                    tensors.append(sum(b * file[part] for b, file in zip(block, files)))  # noqa: B905
                else:
                    tensors.append(files[0][part])
            shape = dict(model.state_dict())[name].shape
            found[name] = torch.cat([t.reshape(-1) for t in tensors]).view(shape)
        return found

    def of_x(index: int) -> torch.Tensor:
        part = x[one.blocks.starts[index] : one.blocks.starts[index + 1]]
        return part.view(len(members), -1).float()

    def logits(parameters: Mapping[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
        out = torch.func.functional_call(
            model, dict(parameters), (torch.tensor([ids]),), {"use_cache": False}, tie_weights=True
        )
        return out.logits[0]

    here = merged(of_x)
    total = torch.zeros(())
    for course in one.courses:
        task, suite = course.task, suites()[course.task.suite]
        items = chosen(one, course.number)
        losses, count = [], 0
        texts = [[c] for c in encoder.texts(items, "")] if suite.form == "text" else None
        if suite.form == "exact":
            items = [Item(id=i.id, context=i.prompt, choices=(i.target,)) for i in items]
        options = texts or encoder.choices(items, "")
        for item, mine in zip(items, options, strict=True):
            if task.loss == "imitate" or (task.loss == "entropy" and suite.form != "choice"):
                ids = mine[0].ids[:-1] if suite.form == "text" else mine[0].ids[: mine[0].start]
                student = logits(here, ids)
                if task.loss == "imitate":
                    teacher = merged(lambda _, t=task.teacher: torch.eye(len(members))[t][:, None])
                    taught = logits(teacher, ids)
                    for position in range(len(ids)):
                        p = (taught[position] / 2).softmax(-1)
                        q = (student[position] / 2).log_softmax(-1)
                        losses.append((p * (p.log() - q)).sum())
                        count += 1
                else:
                    last = suite.form == "exact"
                    for position in range(len(ids) - 1 if last else 0, len(ids)):
                        q = student[position].log_softmax(-1)
                        losses.append(-(q.exp() * q).sum())
                        count += 1
                continue
            sums = []
            for option in mine:
                found = logits(here, option.ids[:-1]).log_softmax(-1)
                at = torch.arange(option.start - 1, len(option.ids) - 1)
                sums.append(found[at, torch.tensor(option.ids[option.start :])].sum())
                count += len(at)
            if suite.form == "choice":
                shares = torch.stack(sums).log_softmax(0)
                wanted = -shares[item.gold] if task.loss == "supervised" else None
                losses.append(-(shares.exp() * shares).sum() if wanted is None else wanted)
            else:
                losses += [-s for s in sums]
        choice = suite.form == "choice" and task.loss != "imitate"
        total = total + task.weight * sum(losses) / (len(items) if choice else count)
    return total


def chosen(one: Descent, number: int) -> list[Item]:
    """The items of task `number` in step 0, worked out by the documented rule."""
    suite = suites()[one.job.tasks[number].suite]
    items = suite.split("search")
    order = np.random.default_rng([one.job.seed, number, 0]).permutation(len(items))
    batch = one.job.batch
    lessons = [order[i : i + batch] for i in range(0, len(order), batch)]
    first = np.random.default_rng([one.job.seed, number, 0, 1]).permutation(len(lessons))[0]
    return [items[i] for i in lessons[first]]


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's parameters and the checkpoint's tensors that each is made of, for the graph."""

    def parts(self: Descent) -> dict[str, list[str]]:
        assert self.candidate.pool is not None
        known = {slot.name for slot in self.candidate.pool.layout.slots}
        return {
            name: [n for n in self.model.names[id(p)] if n in known]
            for name, p in self.model.module.named_parameters()
        }

    monkeypatch.setattr(Descent, "model_parts", property(parts), raising=False)


def both_slopes(
    one: Descent, members: Members
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Gradients of the engine's loss and of the plain one, which agree; and what was spent."""
    x = point(one)
    with one.watched():
        loss, gradient, spent = one.slope(x, 0)
    leaf = torch.tensor(x, requires_grad=True)
    expected = plain_loss(one, leaf, members)
    (slope,) = torch.autograd.grad(expected, leaf)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    return gradient, slope.numpy(), spent


# every grain and every loss: they meet in nothing but the weight's gradient
@pytest.mark.parametrize(
    ("grain", "task"),
    [*((grain, "choice") for grain in GRAINS), *(("columns", t) for t in TASKS if t != "choice")],
)
def test_the_gradient_is_that_of_the_whole_graph(members: Members, grain: str, task: str) -> None:
    gradient, slope, spent = both_slopes(descent(members, TASKS[task], grain=grain), members)
    scale = float(np.abs(slope).max())
    assert scale > 1e-4
    assert np.abs(gradient - slope).max() <= 2e-4 * scale
    assert spent[0] == 4
    assert spent[1] == (4 if "imitate" in task else 0)


def test_several_tasks_add_up_by_weight(members: Members) -> None:
    tasks = [TASKS["choice"], TASKS["imitate text"], TASKS["text"]]
    weights = (0.5, 2.0, 0.0)
    weighted = [replace(t, weight=w) for t, w in zip(tasks, weights, strict=True)]
    gradient, slope, spent = both_slopes(descent(members, *weighted), members)
    assert gradient == pytest.approx(slope, rel=1e-3, abs=1e-4)
    # a task that weighs nothing is not run
    assert spent[:2] == (8, 4)


@pytest.mark.parametrize("grain", ["model", "columns"])
def test_finite_differences_say_the_same(members: Members, grain: str) -> None:
    one = descent(members, TASKS["text"], grain=grain)
    x, rng = point(one), np.random.default_rng(1)
    with one.watched():
        _, gradient, _ = one.slope(x, 0)
        for _ in range(3):
            way = one.blocks.tangent(rng.normal(size=len(x)))
            way /= np.linalg.norm(way)
            up, down = (one.slope(x + s * 2e-2 * way, 0)[0] for s in (1, -1))
            assert (up - down) / 4e-2 == pytest.approx(way @ gradient, rel=0.05, abs=2e-3)


class Live(TorchDispatchMode):
    """Counts the bytes of everything that torch has made and nobody has let go of."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, torch.Tensor)
        }
        for tensor in tree_leaves(out):
            # a view of something is nothing new, be it of the pool
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {k: (ref, n) for k, (ref, n) in self._made.items() if not ref.expired()}
        self.peak = max(self.peak, sum(n for _, n in self._made.values()))
        return out


@pytest.mark.parametrize("grain", ["layers", "columns"])
def test_more_parents_need_no_more_memory(tiny_model: Save, tmp_path: Path, grain: str) -> None:
    """Beside the pool and the coefficients; a graph over the parents would hold each of them."""
    members = perturbed(tiny_model("Llama"), tmp_path, 8)
    peaks = {}
    for count in (2, 8):
        one = descent(members[:count], TASKS["text"], grain=grain)
        x = point(one)
        with one.watched(), Live() as live:
            one.slope(x, 0)
        weights = 4 * sum(one.counts.values())
        peaks[count] = live.peak - 16 * one.blocks.size
    assert peaks[8] < peaks[2] + 0.1 * weights
    assert peaks[8] > 1000


def test_one_weight_gradient_at_a_time_whatever_the_number_of_parents(
    tiny_model: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is gone before the next one comes, and the largest temporary is a chunk."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []
    take = Descent._take

    def counted(self: Descent, one: Moving, gradient: torch.Tensor) -> None:
        base = gradient._base if gradient._base is not None else gradient
        alive.append(weakref.ref(base.untyped_storage()))
        most.append(len({id(r()) for r in alive if r() is not None}))
        take(self, one, gradient)

    monkeypatch.setattr(Descent, "_take", counted)
    members = perturbed(tiny_model("Llama"), tmp_path, 6)
    for count in (2, 6):
        most.clear()
        one = descent(members[:count], TASKS["choice"], grain="columns")
        with one.watched():
            one.slope(point(one), 0)
        assert len(most) > 8
        assert max(most) <= 2
        assert all(p.grad is None for p in one.model.module.parameters())
        assert not any(p.requires_grad for p in one.model.module.parameters())


@pytest.mark.parametrize("grain", GRAINS)
def test_a_descent_lowers_its_loss_and_stays_in_its_space(members: Members, grain: str) -> None:
    one = descent(members, TASKS["text"], grain=grain, steps=25, rate=0.05, batch=100)
    seen: list[State] = []
    end = one.run(None, seen.append)
    with one.watched():
        before, after = (one.slope(x, 0)[0] for x in (one.blocks.start(one.job.start), end.x))
    assert after < before - 0.01
    assert [s.step for s in seen] == list(range(1, 26))
    assert end.items == 25 * len(suites()["text"].split("search"))
    assert end.passes == 3 * end.items
    for i in range(len(one.blocks.blocks)):
        rows = one.blocks.view(end.x, i)
        assert rows.sum(axis=0) == pytest.approx(1.0, abs=1e-9)
        assert rows.min() >= -0.5
        assert rows.max() <= 1.5
    assert not any(p.requires_grad for p in one.model.module.parameters())


def test_what_comes_out_is_what_the_recipe_forms(members: Members) -> None:
    """The last buffer and the candidate of the recipe differ by the rounding of its numbers."""
    one = descent(members, TASKS["text"], grain="columns", steps=3)
    end = one.run(None, lambda _: None)
    one._form(end.x)
    live = one.candidate.live
    assert live is not None
    before = live.clone()
    recipe = one.blocks.recipe(end.x, one.job.parents, "float32")
    one.candidate.become(recipe)
    scale = float(before.abs().max())
    assert torch.allclose(live, before, rtol=0, atol=1e-5 * scale)
    assert not torch.equal(live, before)
    assert len(recipe.columns) == len(one.blocks.blocks)
    weights = one.blocks.mean(end.x, one.counts)
    assert sum(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("grain", ["layers", "columns"])
def test_a_stopped_descent_goes_on_bit_for_bit(members: Members, grain: str) -> None:
    tasks = (TASKS["choice"], TASKS["imitate"])
    more: dict[str, Any] = {"grain": grain, "steps": 7, "similarity": 0.01}
    kept: list[State] = []
    whole = descent(members, *tasks, **more).run(None, kept.append)
    for stop in (1, 4):
        stored = State.from_bytes(kept[stop - 1].to_bytes())
        again = descent(members, *tasks, **more).run(stored, lambda _: None)
        assert again.values.tobytes() == whole.values.tobytes()
        assert (again.step, again.loss, again.items, again.taught, again.tokens) == (
            *(whole.step, whole.loss, whole.items, whole.taught, whole.tokens),
        )


def test_free_coefficients_need_not_sum_to_one(members: Members) -> None:
    one = descent(
        members, TASKS["imitate"], grain="columns", low=None, high=None, steps=5, rate=0.01
    )
    end = one.run(None, lambda _: None)
    sums = np.concatenate([one.blocks.view(end.x, i).sum(axis=0) for i in range(3)])
    assert np.abs(sums - 1).max() > 1e-3
    assert one.blocks.recipe(end.x, one.job.parents, "float32").columns


def test_frozen_blocks_take_no_part(members: Members) -> None:
    one = descent(members, TASKS["text"], grain="layers")
    names = {name for block in one.blocks.blocks for name in block.names}
    assert not any(".0." in name for name in names)
    assert names
    with one.watched():
        trained = {n for n, p in one.model.module.named_parameters() if p.requires_grad}
    assert not any(".0." in name for name in trained)


def test_a_state_of_another_pool_is_refused(members: Members) -> None:
    one = descent(members, TASKS["text"])
    with pytest.raises(BadInput, match="2 coefficients, not 3"):
        one.run(State.begin(np.array([0.5, 0.5])), lambda _: None)


def test_a_suite_that_lm_eval_judges_is_refused(members: Members) -> None:
    suite = replace(suites()["choice"], task={"tasks": {}})
    with pytest.raises(BadInput, match="judged by lm-eval"):
        Descent(
            job(members, TASKS["choice"]), candidate(members), {"choice": suite},
            batch_tokens=256, tell=lambda *_: None,
        )  # fmt: skip


def test_log_likelihoods_of_padded_options() -> None:
    from optim.descent.losses import indecision, options, right_option

    sums = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0], dtype=torch.float64, requires_grad=True)
    shares = options(sums, np.array([0, 3, 5]), torch.ones(5, dtype=torch.float64))
    assert float(shares[0].exp().sum().detach()) == pytest.approx(1.0)
    assert shares[1].isneginf().tolist() == [False, False, True]
    first = functional.cross_entropy(sums[:3][None], torch.tensor([2]))
    second = functional.cross_entropy(sums[3:][None], torch.tensor([0]))
    found = right_option(shares, torch.tensor([2, 0]))
    assert float(found.detach()) == pytest.approx(float((first + second).detach() / 2))
    (slope,) = torch.autograd.grad(indecision(shares), sums)
    assert slope.isfinite().all()
