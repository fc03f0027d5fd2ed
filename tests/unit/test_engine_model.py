"""The resident pool and the live model inside one process: what is a view of what."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from optim.merge import weights_digest
from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from services.errors import BadInput
from workers.engine.layout import ALIGNMENT, Layout
from workers.engine.loading import load_pool
from workers.engine.model import LiveModel, head_key
from workers.engine.resident import Pool
from workers.engine.tiers import Tier, available_memory
from workers.engine.tree import Batch, Sharing, batch_rows

CPU = torch.device("cpu")


@pytest.fixture
def folders(tiny_pool: Path) -> list[Path]:
    return [tiny_pool / "pool" / name for name in ("now", "left", "right")]


def load(folders: list[Path], tier: Tier | None = None) -> Pool:
    pairs = [(read_checkpoint(folder).digest, folder) for folder in folders]
    return load_pool(
        pairs, device=CPU, buffer_bytes_per_value=4, tier=tier, progress=lambda done, total: None
    )


def recipe(pool: Pool, weights: Sequence[float]) -> Recipe:
    return Recipe(parents=tuple(pool.parents), weights=tuple(weights))


def change(folder: Path, target: Path, **changes: object) -> Path:
    """A copy with other keys in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def row(*ids: int) -> Batch:
    """One plain row, its logits wanted everywhere."""
    [batch] = batch_rows([ids], [0], batch_tokens=64, vocabulary=60, sharing=Sharing(limit=0))
    return batch


def digest_of(pool: Pool, out: torch.Tensor) -> str:
    return weights_digest(pool.layout.views(out))


def test_the_layout_is_in_name_order_and_aligned(folders: list[Path]) -> None:
    checkpoint = read_checkpoint(folders[0])
    layout = Layout.of(checkpoint.tensors)
    assert [slot.name for slot in layout.slots] == sorted(checkpoint.tensors)
    end = 0
    for slot in layout.slots:
        assert slot.start % ALIGNMENT == 0
        assert end <= slot.start < end + ALIGNMENT
        end = slot.start + slot.count
    assert end <= layout.size
    assert sum(slot.count for slot in layout.slots) == checkpoint.parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tier_gives_the_same_bytes(folders: list[Path], dtype: torch.dtype) -> None:
    digests = set()
    for tier in ("host", "mapped"):
        pool = load(folders, tier)  # type: ignore[arg-type]
        out = torch.full((pool.layout.size,), torch.nan, dtype=dtype)
        pool.form_(out, recipe(pool, [0.3, -0.2, 0.9]))
        digests.add(digest_of(pool, out))
    assert len(digests) == 1


def test_mapped_files_need_not_be_aligned(folders: list[Path], tmp_path: Path) -> None:
    source = folders[1] / "model.safetensors"
    raw = source.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    odd = tmp_path / "odd"
    shutil.copytree(folders[1], odd)
    padded = raw[8 : 8 + size].rstrip() + b" "
    padded += b" " * (1 - len(padded) % 2)
    (odd / "model.safetensors").write_bytes(
        len(padded).to_bytes(8, "little") + padded + raw[8 + size :]
    )
    assert len(padded) % 2
    pool = load([odd], "mapped")
    out = torch.empty(pool.layout.size)
    pool.form_(out, recipe(pool, [1.0]))
    assert digest_of(pool, out) == weights_digest(load_file(source).items())


def test_mixed_dtypes_meet_exactly_in_float32(folders: list[Path], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folders[1], mixed)
    tensors = load_file(folders[1] / "model.safetensors")
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    tensors = {name: t.to(kinds[i % 3]) for i, (name, t) in enumerate(tensors.items())}
    save_file(tensors, mixed / "model.safetensors", metadata={"format": "pt"})
    expected = weights_digest((name, t.float()) for name, t in tensors.items())
    for tier in ("host", "mapped"):
        pool = load([mixed], tier)  # type: ignore[arg-type]
        out = torch.empty(pool.layout.size)
        pool.form_(out, recipe(pool, [1.0]))
        assert digest_of(pool, out) == expected


def test_a_pool_stays_in_its_files_unless_told_otherwise(folders: list[Path]) -> None:
    assert available_memory() > 1e6
    assert load(folders).tier == "mapped"
    assert load(folders, "host").tier == "host"


def test_parameters_are_views_of_the_buffer(folders: list[Path]) -> None:
    pool = load(folders)
    flat = torch.zeros(pool.layout.size)
    model = LiveModel(read_checkpoint(folders[0]), pool.layout, flat)
    start, end = flat.data_ptr(), flat.data_ptr() + flat.nbytes
    parameters = dict(model.module.named_parameters())
    assert all(start <= p.data_ptr() < end for p in parameters.values())
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight
    inputs = torch.tensor([[1, 5, 6, 7]])
    with torch.inference_mode():
        for index, folder in enumerate(folders):
            weights = [float(i == index) for i in range(3)]
            pool.form_(flat, recipe(pool, weights))
            plain = LlamaForCausalLM.from_pretrained(folder)
            assert torch.equal(model.logits(row(1, 5, 6, 7)), plain(inputs).logits[0])


def test_computing_in_bfloat16_keeps_the_rotary_frequencies(folders: list[Path]) -> None:
    pool = load(folders[:1])
    flat = torch.zeros(pool.layout.size, dtype=torch.bfloat16)
    model = LiveModel(read_checkpoint(folders[0]), pool.layout, flat)
    pool.form_(flat, recipe(pool, [1.0]))
    plain = LlamaForCausalLM.from_pretrained(folders[0], dtype=torch.bfloat16)
    inputs = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11, 12, 13]])
    with torch.inference_mode():
        found = model.logits(row(*inputs[0].tolist()))
        assert found.dtype == torch.bfloat16
        # the output layer sees the same rows either way, so not even the last bit may differ
        assert torch.equal(found, plain(inputs).logits[0])


def test_names_without_the_prefix_of_the_base_model(folders: list[Path], tmp_path: Path) -> None:
    # GPT-2 as OpenAI published it: no "transformer.", and masks that are no parameters
    config = GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    plain = GPT2LMHeadModel(config).eval()
    shutil.copytree(folders[0], tmp_path / "gpt2")
    config.save_pretrained(tmp_path / "gpt2")
    tensors = {
        name.removeprefix("transformer."): tensor.contiguous()
        for name, tensor in plain.state_dict().items()
        if name != "lm_head.weight"
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    save_file(tensors, tmp_path / "gpt2/model.safetensors", metadata={"format": "pt"})
    pool = load([tmp_path / "gpt2"])
    flat = torch.zeros(pool.layout.size)
    model = LiveModel(read_checkpoint(tmp_path / "gpt2"), pool.layout, flat)
    pool.form_(flat, recipe(pool, [1.0]))
    inputs = torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        found = model.logits(row(*inputs[0].tolist()))
        assert torch.allclose(found, plain(inputs).logits[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_hidden_layers": 3}, r"model.layers.2.*are missing for LlamaForCausalLM"),
        ({"num_hidden_layers": 1}, r"model.layers.1.*are not parameters of LlamaForCausalLM"),
        ({"intermediate_size": 64}, r"has shape \[.*\], config.json makes it"),
        ({"model_type": "unheard-of"}, "transformers cannot build it"),
        ({"model_type": "bert"}, "."),
    ],
)
def test_configs_that_do_not_fit_the_weights(
    folders: list[Path], tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    folder = change(folders[0], tmp_path / "other", **changes)
    pool = load([folder])
    with pytest.raises(BadInput, match=word):
        LiveModel(read_checkpoint(folder), pool.layout, torch.zeros(pool.layout.size))


def test_when_the_model_must_be_built_anew(folders: list[Path], tmp_path: Path) -> None:
    now, left = (read_checkpoint(folder) for folder in folders[:2])
    assert head_key(now) == head_key(left)
    cosmetic = change(folders[0], tmp_path / "a", transformers_version="5.0.0", dtype="bfloat16")
    assert head_key(read_checkpoint(cosmetic)) == head_key(now)
    longer = change(folders[0], tmp_path / "b", max_position_embeddings=128)
    assert head_key(read_checkpoint(longer)) != head_key(now)
    ends = change(folders[0], tmp_path / "c")
    (ends / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert head_key(read_checkpoint(ends)) != head_key(now)
    pool = load([ends])
    model = LiveModel(read_checkpoint(ends), pool.layout, torch.zeros(pool.layout.size))
    assert model.end_tokens == {2, 3}


def test_soft_capped_attention_is_not_left_out(folders: list[Path], tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        attn_logit_softcapping=0.5, final_logit_softcapping=2.0, query_pre_attn_scalar=8,
        initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    plain = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    shutil.copytree(folders[0], tmp_path / "gemma")
    plain.save_pretrained(tmp_path / "gemma")
    pool = load([tmp_path / "gemma"])
    flat = torch.zeros(pool.layout.size)
    model = LiveModel(read_checkpoint(tmp_path / "gemma"), pool.layout, flat)
    pool.form_(flat, recipe(pool, [1.0]))
    inputs = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        expected = plain(inputs).logits[0]
        assert np.allclose(model.logits(row(3, 4, 5, 6)).numpy(), expected.numpy(), atol=1e-5)
        # trees need an attention mask of numbers here, and give the same
        model.begin(lambda name: None)
        assert model.sharing.limit is None or model.sharing.limit > 0
