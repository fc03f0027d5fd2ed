"""The pool's contract: what a rank holds of a tensor, what is kept once, and where it lives."""

import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from optim.recipe import Group, Recipe
from services.checkpoints import read_checkpoint
from services.checkpoints.headers import TensorInfo
from services.errors import BadInput
from workers.engine import tiers
from workers.engine.layout import ALIGNMENT, Cut, Layout
from workers.engine.loading import load_pool
from workers.engine.resident import Pool
from workers.engine.tiers import Tier, plan_tier

CPU = torch.device("cpu")
TIERS: tuple[Tier, ...] = ("host", "mapped")


def info(name: str, *shape: int) -> TensorInfo:
    count = int(np.prod(shape))
    return TensorInfo(name=name, dtype="F32", shape=shape, file="x", start=0, end=4 * count)


def load(folders: list[Path], **more: object) -> Pool:
    pairs = [(read_checkpoint(folder).digest, folder) for folder in folders]
    return load_pool(
        pairs,
        device=CPU,
        buffer_bytes_per_value=4,
        progress=lambda done, total: None,
        **more,  # type: ignore[arg-type]
    )


def recipe(pool: Pool, *weights: float, dtype: str = "float32") -> Recipe:
    return Recipe(parents=tuple(pool.parents), weights=weights, dtype=dtype)


@pytest.fixture(scope="module")
def folders(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints that share the tensors of layer 0 bit for bit."""
    frozen = load_file(tiny_pool / "pool/now/model.safetensors")
    made = []
    for name in ("now", "left", "right"):
        folder = tmp_path_factory.mktemp("frozen") / name
        shutil.copytree(tiny_pool / "pool" / name, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors |= {k: v for k, v in frozen.items() if ".layers.0." in k}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        made.append(folder)
    return made


@given(st.data())
def test_a_cut_is_what_indexing_gives(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    whole = torch.arange(int(np.prod(shape))).view(shape)
    axis = data.draw(st.none() | st.integers(0, len(shape) - 1))
    length = whole.numel() if axis is None else shape[axis]
    bound = st.integers(0, length)
    pairs = data.draw(st.lists(st.tuples(bound, bound), min_size=1, max_size=3))
    cut = Cut(axis=axis, ranges=tuple((min(p), max(p)) for p in pairs))
    index = [i for start, stop in cut.ranges for i in range(start, stop)]
    along = whole.reshape(-1) if axis is None else whole
    expected = along.index_select(axis or 0, torch.tensor(index, dtype=torch.int64))
    assert torch.equal(cut.take(whole), expected)
    assert cut.shape(tuple(shape)) == tuple(expected.shape)


@pytest.mark.parametrize(
    ("cut", "word"),
    [
        (Cut(axis=2, ranges=((0, 1),)), "cut.axis"),
        (Cut(axis=1, ranges=((0, 4),)), "cut.ranges"),
        (Cut(axis=None, ranges=((5, 3),)), "cut.ranges"),
    ],
)
def test_cuts_that_do_not_fit(cut: Cut, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Layout.of({"a": info("a", 2, 3)}, cuts={"a": cut})


def test_fused_tensors_lie_behind_each_other_without_gaps() -> None:
    tensors = {name: info(name, 3, 5) for name in ("a", "e.0", "e.1", "e.10", "e.2", "z")}
    order = ["e.0", "e.1", "e.2", "e.10"]
    layout = Layout.of(tensors, fused=[order])
    assert [slot.name for slot in layout.slots] == ["a", *order, "z"]
    start = layout.slots[1].start
    assert [slot.start - start for slot in layout.slots[1:5]] == [0, 15, 30, 45]
    assert all(layout.slots[i].start % ALIGNMENT == 0 for i in (0, 1, 5))
    flat = torch.arange(layout.size)
    joined = flat[start : start + 60].view(4, 3, 5)
    views = dict(layout.views(flat))
    assert all(torch.equal(joined[i], views[name]) for i, name in enumerate(order))


@pytest.mark.parametrize("fused", [[["a", "q"]], [["a", "b"], ["b"]], [["a"], ["a"]]])
def test_fused_names_are_checked(fused: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="layout"):
        Layout.of({"a": info("a", 2), "b": info("b", 2)}, fused=fused)


@pytest.mark.parametrize("tier", TIERS)
def test_a_rank_forms_its_part_of_what_one_rank_forms(folders: list[Path], tier: Tier) -> None:
    whole = load(folders)
    full = torch.empty(whole.layout.size, dtype=torch.bfloat16)
    whole.form_(full, recipe(whole, 0.5, 0.75, -0.25))
    expected = dict(whole.layout.views(full))
    cuts = {}
    for slot in whole.layout.slots:
        half = slot.shape[-1] // 2
        cuts[slot.name] = [
            Cut(axis=len(slot.shape) - 1, ranges=((half, slot.shape[-1]),)),
            Cut(axis=0, ranges=((0, 1), (slot.shape[0] - 1, slot.shape[0]))),
            Cut(axis=None, ranges=((3, slot.count),)),
        ][slot.start // ALIGNMENT % 3]
    pool = load(folders, cuts=cuts, tier=tier)
    out = torch.empty(pool.layout.size, dtype=torch.bfloat16)
    pool.form_(out, recipe(pool, 0.5, 0.75, -0.25))
    for name, view in pool.layout.views(out):
        assert torch.equal(view, cuts[name].take(expected[name])), name
    assert pool.identical == whole.identical


def test_groups_and_columns_hold_on_every_rank(folders: list[Path]) -> None:
    whole = load(folders)
    generator = torch.Generator().manual_seed(1)
    by_name = {slot.name: slot for slot in whole.layout.slots}
    columns = {
        name: torch.randn(3, by_name[name].shape[-1], generator=generator).tolist()
        for name in by_name
        if "down_proj" in name or "norm" in name
    }
    made = Recipe(
        parents=tuple(whole.parents),
        weights=(0.5, 0.75, -0.25),
        groups=(Group(layers=(1, 1), kinds=("attention",), weights=(0, 0, 1)),),
        columns=columns,
    )
    full = torch.empty(whole.layout.size)
    whole.form_(full, made)
    files = [load_file(folder / "model.safetensors") for folder in folders]
    expected = dict(whole.layout.views(full))
    for name, view in expected.items():
        if name in columns:
            plain = sum(
                torch.tensor(row) * file[name]
                for row, file in zip(columns[name], files, strict=True)
            )
            assert torch.allclose(view, plain, atol=1e-6), name
        elif ".layers.1.self_attn." in name:
            assert torch.equal(view, files[2][name])
    for kind in range(3):
        cuts = {
            slot.name: (
                Cut(axis=len(slot.shape) - 1, ranges=((1, 3), (5, slot.shape[-1]))),
                Cut(axis=0, ranges=((1, slot.shape[0]),)),
                Cut(axis=None, ranges=((3, slot.count - 1),)),
            )[kind]
            for slot in whole.layout.slots
        }
        part = load(folders, cuts=cuts)
        out = torch.empty(part.layout.size)
        part.form_(out, made)
        for name, view in part.layout.views(out):
            assert torch.equal(view, cuts[name].take(expected[name])), (kind, name)


def test_columns_that_do_not_fit_the_pool(folders: list[Path]) -> None:
    pool = load(folders)
    made = Recipe(
        parents=tuple(pool.parents),
        weights=(1, 0, 0),
        columns={"model.norm.weight": ((1.0,), (0.0,), (0.0,))},
    )
    with pytest.raises(BadInput, match=r"1 coefficients, but its last axis has"):
        pool.form_(torch.empty(pool.layout.size), made)
    for weights in ((1e-60, 0, 0), (1e60, 0, 0)):
        with pytest.raises(BadInput, match="float32"):
            pool.form_(torch.empty(pool.layout.size), recipe(pool, *weights))


@pytest.mark.parametrize("tier", TIERS)
def test_identical_tensors_are_kept_once_and_formed_once(folders: list[Path], tier: Tier) -> None:
    pool = load(folders, tier=tier)
    assert {s.name for s in pool.layout.slots if ".layers.0." in s.name} <= pool.identical
    assert len(pool.identical) < len(pool.layout.slots)
    for name in pool.identical:
        assert len({parent.pieces[name].data_ptr() for parent in pool.parents.values()}) == 1
    out = torch.full((pool.layout.size,), torch.nan)
    assert pool.form_(out, recipe(pool, 0.1, 0.2, 0.7)).written == pool.layout.slots
    views, file = dict(pool.layout.views(out)), load_file(folders[0] / "model.safetensors")
    # 0.1 x + 0.2 x + 0.7 x is not x in every float32: frozen tensors stay what they are
    assert all(torch.equal(views[name], file[name]) for name in pool.identical)
    again = pool.form_(out, recipe(pool, 0.4, 0.4, 0.2))
    assert {slot.name for slot in again.written} == {
        s.name for s in pool.layout.slots
    } - pool.identical
    # where the weights do not sum to 1 they change after all, and have to come back
    assert pool.form_(out, recipe(pool, 0.5, 0.5, 0.5)).written == pool.layout.slots
    assert all(not torch.equal(views[name], file[name]) for name in pool.identical)
    assert pool.form_(out, recipe(pool, 1.0, 0.0, 0.0)).written == pool.layout.slots
    assert all(torch.equal(view, file[name]) for name, view in views.items())
    # another buffer holds nothing yet
    assert (
        pool.form_(torch.empty_like(out), recipe(pool, 1.0, 0.0, 0.0)).written == pool.layout.slots
    )


def test_a_frozen_tensor_that_overflows_is_seen_each_time(
    folders: list[Path], tmp_path: Path
) -> None:
    copies = []
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 1e6)
        save_file(tensors, tmp_path / folder.name / "model.safetensors", metadata={"format": "pt"})
        copies.append(tmp_path / folder.name)
    pool = load(copies)
    out = torch.empty(pool.layout.size, dtype=torch.float16)
    for _ in range(2):
        assert pool.form_(out, recipe(pool, 0.1, 0.2, 0.7)).infinite == "model.norm.weight"


def test_a_mapped_pool_is_the_files_themselves(folders: list[Path]) -> None:
    pool = load(folders, tier="mapped")
    maps = {m.path: m for m in psutil.Process().memory_maps(grouped=False) if "frozen" in m.path}
    assert {Path(path).parent for path in maps} == set(folders)
    assert all(m.perms == "r--s" for m in maps.values())
    assert all(m.private_dirty == 0 for m in maps.values())
    assert "mapped: as told" in pool.plan
    assert f"{len(pool.identical)} of {len(pool.layout.slots)} tensors" in pool.plan


def test_the_plan_says_what_was_chosen_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "available_memory", lambda: 100 * 2**30)
    fits = plan_tier(CPU, pool_bytes=30 * 2**30, buffer_bytes=10 * 2**30)
    assert str(fits) == (
        "mapped: on a CPU the files are as fast as a copy, and shared by all workers "
        "(pool 30.0 GiB, model 10.0 GiB, 100.0 GiB free)"
    )
    large = plan_tier(CPU, pool_bytes=95 * 2**30, buffer_bytes=10 * 2**30)
    assert large.tier == "mapped"
    assert "too little, so the disk is read again and again" in large.reason
    assert plan_tier(CPU, pool_bytes=1, buffer_bytes=1, told="device").tier == "host"
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * 2**30, 80 * 2**30))
    assert plan_tier(cuda, pool_bytes=30 * 2**30, buffer_bytes=2**30).tier == "device"
    host = plan_tier(cuda, pool_bytes=45 * 2**30, buffer_bytes=2**30)
    assert host.tier == "host"
    assert "do not fit into 70% of 50.0 GiB free on the device; the pool fits" in host.reason
    assert plan_tier(cuda, pool_bytes=60 * 2**30, buffer_bytes=2**30).tier == "mapped"
    assert plan_tier(cuda, pool_bytes=60 * 2**30, buffer_bytes=1, told="host").tier == "host"
