"""Casting real Llama checkpoints: the bytes, the layout, and what `transformers` makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from optim.merge import weights_digest
from optim.recipe import Recipe
from services import shards
from services.cast import cast
from services.checkpoints import Checkpoint, read_checkpoint
from services.errors import BadInput, CheckpointRefused, IntegrityError, TrialRejected, Unavailable
from services.store import DirectoryStore, publish_checkpoint, pull_checkpoint
from services.store.transfer import artefact_files

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
Make = Callable[..., Checkpoint]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(seed, dtype, tied, max_shard_size) saves a random Llama with a tokenizer."""

    def build(
        seed: int, dtype: str = "float32", *, tied: bool = False, max_shard_size: str = "1GB"
    ) -> Checkpoint:
        torch.manual_seed(seed)
        config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            model.model.norm.weight[0] = -0.0
        folder = tmp_path / f"parent{seed}-{dtype}"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        vocabulary = {"<unk>": 0, **{f"w{i}": i for i in range(1, 40)}}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
        tokenizer.save_pretrained(folder)
        return read_checkpoint(folder)

    return build


def _recipe(parents: list[Checkpoint], *weights: float, dtype: str = "float32") -> Recipe:
    return Recipe(parents=tuple(p.digest for p in parents), weights=weights, dtype=dtype)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def _logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    with torch.inference_mode():
        return model(torch.arange(20).reshape(2, 10)).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
def test_one_hot_gives_the_parent_bit_for_bit(
    make: Make, tmp_path: Path, dtype: str, tied: bool
) -> None:
    parents = [make(seed, dtype, tied=tied) for seed in (1, 2, 3)]
    recipe = Recipe.one_hot(tuple(p.digest for p in parents), 1, dtype)
    out = cast(recipe, parents, tmp_path / "out").path
    made, parent = _tensors(out), _tensors(parents[1].path)
    assert made.keys() == parent.keys()
    assert ("lm_head.weight" in made) is not tied
    for name in made:
        assert made[name].dtype == parent[name].dtype
        assert made[name].view(torch.uint8).equal(parent[name].view(torch.uint8)), name
    assert _logits(out).equal(_logits(parents[1].path))
    assert AutoTokenizer.from_pretrained(out, local_files_only=True)("w3 w5")["input_ids"] == [3, 5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_bytes_are_those_of_the_stated_arithmetic(
    make: Make, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PIECE_VALUES", 100)  # every matrix takes several pieces
    parents = [make(1), make(2, "bfloat16"), make(3), make(4, "float16")]
    weights = (0.7, -0.25, 0.0, 0.55)
    made = _tensors(cast(_recipe(parents, *weights, dtype=dtype), parents, tmp_path / "out").path)
    sources = [_tensors(parent.path) for parent in parents]
    for name, tensor in made.items():
        acc = None
        used = [(w, s[name].float().numpy()) for w, s in zip(weights, sources, strict=True) if w]
        for weight, values in used:
            term = np.float32(weight) * values
            acc = term if acc is None else acc + term
        # the weights sum to 1: what the parents share is kept (norms, which are all ones)
        acc = np.where(np.all([values == used[0][1] for _, values in used], 0), used[0][1], acc)
        expected = torch.from_numpy(acc).to(getattr(torch, dtype))
        assert tensor.view(torch.uint8).equal(expected.view(torch.uint8)), name


def test_the_layout_and_the_records(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    recipe = _recipe(parents, 0.4, 0.6)
    card = {
        "study": "better | <b>model</b>",
        "study_number": 3,
        "trial": 17,
        "label": "chosen",
        "parents": {
            parents[0].digest: {"name": "early", "uri": "s3://models/early"},
            parents[1].digest: {"name": "late", "uri": "file:///home/somebody/late"},
        },
    }
    seen: list[tuple[int, int]] = []
    made = cast(
        recipe, parents, tmp_path / "out", card=card, progress=lambda a, b: seen.append((a, b))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (8 * parents[0].parameters, 8 * parents[0].parameters)
    names = sorted(os.listdir(made.path))
    assert names == sorted(
        ["README.md", "config.json", "generation_config.json", "manifest.json",
         "model.safetensors", "recipe.yaml", "tokenizer.json", "tokenizer_config.json"]
    )  # fmt: skip
    assert made == read_checkpoint(made.path)
    text = (made.path / "recipe.yaml").read_text()
    assert Recipe.from_dict(yaml.safe_load(text)) == recipe
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert sorted(manifest["files"]) == [name for name in names if name != "manifest.json"]
    assert manifest["recipe"] == recipe.digest
    assert manifest["checkpoint"] == made.digest
    assert manifest["weights"] == weights_digest(_tensors(made.path).items())
    assert artefact_files(made.path).keys() == manifest["files"].keys()
    readme = (made.path / "README.md").read_text()
    assert "| early | 0.4 |" in readme
    assert "| late | 0.6 |" in readme
    assert "s3://models/early" in readme
    assert "somebody" not in readme
    assert "<b>" not in readme
    assert manifest["weights"] in readme
    assert yaml.safe_load(readme.split("---\n")[1])["library_name"] == "transformers"


@pytest.mark.parametrize(("written", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_config_states_the_new_dtype(
    make: Make, tmp_path: Path, written: str, asked: str
) -> None:
    parents = [make(1, written), make(2, written)]
    for key in ("dtype", "torch_dtype", None):
        changed = [
            _respelled(parent, key, tmp_path / f"{key}{i}") for i, parent in enumerate(parents)
        ]
        out = tmp_path / f"out-{key}"
        cast(_recipe(changed, 0.5, 0.5, dtype=asked), changed, out)
        config = json.loads((out / "config.json").read_text())
        assert config[key or "torch_dtype"] == asked
        assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == getattr(
            torch, asked
        )


def _respelled(parent: Checkpoint, key: str | None, folder: Path) -> Checkpoint:
    """A copy whose config names its dtype as another release of transformers does, or not."""
    folder.mkdir()
    for name in parent.files:
        (folder / name).write_bytes((parent.path / name).read_bytes())
    config = dict(parent.config)
    written = config.pop("dtype")
    if key:
        config[key] = written
    (folder / "config.json").write_text(json.dumps(config))
    return read_checkpoint(folder)


def test_shards_in_and_out(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2, max_shard_size="6KB"), make(3, max_shard_size="4KB")]
    assert len(parents[1].files) > len(parents[0].files)
    recipe = _recipe(parents, 0.2, 0.3, 0.5)
    whole = cast(recipe, parents, tmp_path / "whole")
    parts = cast(recipe, parents, tmp_path / "parts", max_shard_bytes=5000)
    assert "model-00001-of-" in next(iter(parts.tensors.values())).file
    assert weights_digest(_tensors(parts.path).items()) == weights_digest(
        _tensors(whole.path).items()
    )
    assert _logits(parts.path).equal(_logits(whole.path))
    index = json.loads((parts.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * whole.parameters
    for path in parts.path.glob("*.safetensors"):
        sizes = [t.end - t.start for t in parts.tensors.values() if t.file == path.name]
        assert sum(sizes) <= 5000 or len(sizes) == 1


def test_a_tied_parent_that_stores_both_copies(make: Make, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    parents = [make(1, tied=True), make(2, tied=True)]
    tensors = _tensors(parents[0].path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, parents[0].path / "model.safetensors", {"format": "pt"})
    parents[0] = read_checkpoint(parents[0].path)
    made = cast(_recipe(parents, 1.0, 0.0), parents, tmp_path / "out")
    assert "lm_head.weight" not in _tensors(made.path)
    assert _logits(made.path).equal(_logits(parents[0].path))


def test_the_digest_that_was_evaluated_is_demanded(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    recipe = _recipe(parents, 0.5, 0.5)
    first = cast(recipe, parents, tmp_path / "first")
    right = weights_digest(_tensors(first.path).items())
    again = cast(recipe, parents, tmp_path / "again", weights_digest=right)
    assert again.digest == first.digest
    assert artefact_files(again.path) == artefact_files(first.path)
    with pytest.raises(IntegrityError, match=r"but 0{12}… was evaluated"):
        cast(recipe, parents, tmp_path / "wrong", weights_digest="0" * 64)
    assert not any("wrong" in name for name in os.listdir(tmp_path))


def test_a_parent_that_changed_since_it_was_read(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    path = parents[1].path / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes changed"):
        cast(_recipe(parents, 0.5, 0.5), parents, tmp_path / "out")
    path.write_bytes(raw[:-8])
    with pytest.raises(IntegrityError, match="is cut short"):
        cast(_recipe(parents, 0.5, 0.5), parents, tmp_path / "out", weights_digest="0" * 64)
    (parents[0].path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"tokenizer_config\.json: its bytes changed"):
        cast(_recipe(parents, 1.0, 0.0), parents, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_overflow_is_the_candidates_fault(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    with pytest.raises(TrialRejected, match="overflows float16"):
        cast(_recipe(parents, 1e5, 1.0, dtype="float16"), parents, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["parent1-float32", "parent2-float32"]


def test_weights_that_float32_cannot_hold(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    for weights, word in (((1e-60, 0.0), "all zero in float32"), ((1e60, 1.0), "not finite in")):
        with pytest.raises(BadInput, match=word):
            cast(_recipe(parents, *weights), parents, tmp_path / "out")
    columns = {"model.norm.weight": ((1.0, 2.0), (1.0, 0.0))}
    narrow = Recipe(parents=tuple(p.digest for p in parents), weights=(1, 0), columns=columns)
    with pytest.raises(BadInput, match="2 coefficients, but its last axis has"):
        cast(narrow, parents, tmp_path / "out")


def test_parents_must_be_the_recipes(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    recipe = _recipe(parents, 0.5, 0.5)
    with pytest.raises(BadInput, match="not the recipe's parents in its order"):
        cast(recipe, parents[::-1], tmp_path / "out")
    mixed = [parents[0], make(3, tied=True)]
    with pytest.raises(CheckpointRefused, match="tie_word_embeddings"):
        cast(_recipe(mixed, 0.5, 0.5), mixed, tmp_path / "out")


def test_a_folder_in_use_is_left_alone(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    out = tmp_path / "out"
    out.mkdir()
    cast(_recipe(parents, 0.5, 0.5), parents, out)
    with pytest.raises(BadInput, match="out: is there already"):
        cast(_recipe(parents, 0.4, 0.6), parents, out)


def test_a_disk_without_space(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    recipe = _recipe(parents, 0.5, 0.5)
    with pytest.raises(Unavailable, match="GB are free"):
        cast(recipe, parents, tmp_path / "out", free_bytes=lambda path: 1000)
    code = """
import json, resource, signal, sys
from pathlib import Path
from optim.recipe import Recipe
from services.cast import cast
from services.checkpoints import read_checkpoint
from services.errors import Unavailable
parents = [read_checkpoint(Path(path)) for path in sys.argv[2:]]
import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
recipe = Recipe(parents=tuple(p.digest for p in parents), weights=(0.5, 0.5))
try:
    cast(recipe, parents, Path(sys.argv[1]))
except Unavailable as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *(str(p.path) for p in parents)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "the disk is full. Free disk space" in done.stdout, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["parent1-float32", "parent2-float32"]


def test_killed_while_casting_nothing_appears(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    code = """
import os, sys
from pathlib import Path
from optim.recipe import Recipe
from services.cast import cast
from services.checkpoints import read_checkpoint
parents = [read_checkpoint(Path(path)) for path in sys.argv[2:]]
recipe = Recipe(parents=tuple(p.digest for p in parents), weights=(0.5, 0.5))
cast(recipe, parents, Path(sys.argv[1]), progress=lambda a, b: a > b // 3 and os._exit(9))
"""
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, str(out), *(str(p.path) for p in parents)]
    assert subprocess.run(command, cwd=ROOT).returncode == 9
    assert not out.exists()
    cast(_recipe(parents, 0.5, 0.5), parents, out)


def test_there_and_back_through_a_store(make: Make, tmp_path: Path) -> None:
    parents = [make(1), make(2)]
    made = cast(_recipe(parents, 0.3, 0.7), parents, tmp_path / "out", max_shard_bytes=5000)
    with DirectoryStore(tmp_path / "store") as store:
        digest = publish_checkpoint(store, made.path)
        back = read_checkpoint(pull_checkpoint(store, digest, tmp_path / "back"))
    assert back.digest == made.digest
    assert sorted(os.listdir(back.path)) == sorted(os.listdir(made.path))
    assert _logits(back.path).equal(_logits(made.path))


def test_memory_is_bounded_by_the_piece_not_by_the_model(tmp_path: Path) -> None:
    """Four parents of 64 MB each are cast in one shard with less than 64 MB more than torch."""
    code = """
import json, resource, struct, sys
from pathlib import Path
import numpy as np, torch
from optim.recipe import Recipe
import optim.merge
from services.cast import cast
from services.checkpoints import read_checkpoint
torch.set_num_threads(1)
root, parents = Path(sys.argv[1]), []
for seed in range(4):
    folder = root / str(seed)
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    header = {f"t{i}": {"dtype": "F32", "shape": [8 * 2**20],
              "data_offsets": [i * 2**25, (i + 1) * 2**25]} for i in range(2)}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for i in range(16):
            file.write(np.full(2**20, seed + 1, "<f4").tobytes())
    parents.append(read_checkpoint(folder))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recipe = Recipe(parents=tuple(p.digest for p in parents), weights=(0.25,) * 4)
before = peak()
cast(recipe, parents, root / "out")
print(peak() - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024, f"{done.stdout} KiB"


def test_a_real_pool(shared: Path, tmp_path: Path) -> None:
    pool = shared / "pools" / "stories"
    parents = [read_checkpoint(p) for p in sorted(pool.iterdir()) if p.is_dir()]
    digests: Any = tuple(p.digest for p in parents)
    for index in (0, 7):
        out = tmp_path / f"hot{index}"
        cast(Recipe.one_hot(digests, index), parents, out)
        assert _logits(out).equal(_logits(parents[index].path))
    uniform = Recipe(parents=digests, weights=(1 / 12,) * 12, dtype="bfloat16")
    made = cast(uniform, parents, tmp_path / "uniform")
    assert made.dtype == "bfloat16"
    assert _logits(made.path).isfinite().all()
