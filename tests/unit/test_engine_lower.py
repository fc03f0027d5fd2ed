"""Skipping the lower blocks: only where they are equal, and to the same bits."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from workers.engine.loading import load_pool
from workers.engine.lower import FROZEN, Activations
from workers.engine.model import LiveModel
from workers.engine.resident import Pool
from workers.engine.tree import Sharing, batch_rows

ROWS = [[1, 5, 6, 7, 8], [1, 5, 6, 9], [3, 4]]


@pytest.fixture
def frozen_pool(tiny_pool: Path, tmp_path: Path) -> list[Path]:
    """Two checkpoints that differ in the last block and the norm behind it only."""
    first = tiny_pool / "pool/now"
    tensors = load_file(first / "model.safetensors")
    last = max(int(name.split(".")[2]) for name in tensors if ".layers." in name)
    for name, tensor in tensors.items():
        if f".layers.{last}." in name or name == "model.norm.weight":
            tensors[name] = (tensor.float() * 1.3 + 0.01).to(tensor.dtype)
    shutil.copytree(first, tmp_path / "other")
    save_file(tensors, tmp_path / "other/model.safetensors", metadata={"format": "pt"})
    return [first, tmp_path / "other"]


class Live:
    """A pool and a model, without the processes around them."""

    def __init__(self, folders: list[Path], budget: int = 2**30) -> None:
        heads = [read_checkpoint(folder) for folder in folders]
        self.pool: Pool = load_pool(
            [(head.digest, head.path) for head in heads],
            device=torch.device("cpu"),
            buffer_bytes_per_value=4,
            progress=lambda *_: None,
        )
        self.flat = torch.zeros(self.pool.layout.size)
        self.model = LiveModel(
            heads[0], self.pool.layout, self.flat, activations=Activations(budget)
        )
        self.batches = batch_rows(
            ROWS, [0] * len(ROWS), batch_tokens=64, vocabulary=60, sharing=Sharing(limit=0)
        )

    def logits(self, weights: tuple[float, ...]) -> list[torch.Tensor]:
        self.pool.form_(self.flat, Recipe(parents=tuple(self.pool.parents), weights=weights))
        identical = self.pool.identical
        with torch.inference_mode():
            self.model.begin(lambda name: FROZEN if name in identical else weights)
            return [self.model.logits(batch) for batch in self.batches]


CANDIDATES = [(1.0, 0.0), (0.25, 0.75), (-0.5, 1.5), (0.25, 0.75)]


@pytest.mark.parametrize("budget", [2**30, 0], ids=["memory", "disk"])
def test_later_candidates_start_behind_the_frozen_blocks(
    frozen_pool: list[Path], budget: int
) -> None:
    live, plain = Live(frozen_pool, budget), Live(frozen_pool)
    plain.model.lower.prepare = lambda signature: None  # type: ignore[method-assign]
    for weights in CANDIDATES:
        for found, expected in zip(live.logits(weights), plain.logits(weights), strict=True):
            assert torch.equal(found, expected)
    assert plain.model.lower.depth == 0
    blocks = live.model.module.config.num_hidden_layers  # type: ignore[union-attr]
    assert live.model.lower.depth == blocks - 1
    store = live.model.lower.store
    assert (store.memory_bytes > 0, store.file_bytes > 0) == (budget > 0, budget == 0)
    # the blocks below were not called again: what they would give no longer matters
    for slot in live.pool.layout.slots:
        if ".layers.0." in slot.name:
            live.flat[slot.start : slot.start + slot.count] = torch.nan
    with torch.inference_mode():
        assert all(live.model.logits(batch).isfinite().all() for batch in live.batches)


def test_nothing_is_skipped_where_checkpoints_differ_from_the_bottom(tiny_pool: Path) -> None:
    live = Live([tiny_pool / "pool/now", tiny_pool / "pool/left"])
    live.logits((0.5, 0.5))
    assert live.model.lower.depth == 0


def test_searches_that_move_only_upper_blocks_go_deeper(frozen_pool: list[Path]) -> None:
    """Equal signatures of a block, candidate after candidate, count like frozen ones."""
    live = Live(frozen_pool)
    lower = live.model.lower
    live.logits((1.0, 0.0))
    blocks = len(lower._blocks)

    def moving(from_block: int, value: float) -> None:
        lower.prepare(lambda name: value if block_of(name) >= from_block else "as before")

    def block_of(name: str) -> int:
        return int(name.split(".")[2]) if ".layers." in name else (-1 if "embed" in name else 99)

    depths = []
    for step in range(4):
        moving(1, step)
        depths.append(lower.depth)
    assert depths == [0, 0, 1, 1]
    moving(0, 9)
    assert lower.depth == 0
    assert blocks > 1


def test_blocks_of_gpt2_are_found(tiny_pool: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=4, n_head=2, n_positions=32)
    for name, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(7)
        model = GPT2LMHeadModel(config)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.transformer.h[3].mlp.c_fc.weight)
        shutil.copytree(tiny_pool / "pool/now", tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        model.save_pretrained(tmp_path / name)
    live = Live([tmp_path / "a", tmp_path / "b"])
    first = live.logits((0.5, 0.5))
    again = live.logits((0.5, 0.5))
    assert live.model.lower.depth == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_full_disk_means_computing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.engine.lower._allocate", full)
    store = Activations(0)
    store.put(1, torch.ones(3))
    assert store.get(1) is None
    assert store.file_bytes == 0


def test_the_disk_is_not_filled_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Activations(0, tmp_path)
    monkeypatch.setattr("workers.engine.lower.RESERVE_BYTES", 2**62)
    store.put(1, torch.ones(3))
    assert store.get(1) is None


def test_without_spilling_what_is_over_the_budget_is_not_kept() -> None:
    store = Activations(100, spill=False)
    store.put(0, torch.ones(20))
    store.put(1, torch.ones(20))
    assert store.get(0) is not None
    assert store.get(1) is None
    assert store.file_bytes == 0


def test_what_is_dropped_makes_room_again(tmp_path: Path) -> None:
    store = Activations(12, tmp_path)
    store.put(1, torch.ones(3))
    store.put(2, torch.ones(5))
    assert (store.memory_bytes, store.file_bytes) == (12, 20)
    assert not list(tmp_path.iterdir()), "its files have no name"
    store.drop([1, 2, 3])
    assert (store.memory_bytes, store.file_bytes) == (0, 0)
    store.put(4, torch.ones(2))
    assert (store.memory_bytes, store.file_bytes) == (8, 0)
