"""Which checkpoints may be merged with one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.checkpoints import Checkpoint, check_mergeable, read_checkpoint
from services.errors import CheckpointRefused

Make = Callable[..., Path]
OTHER = {"model.norm.weight": np.full(2, 2, dtype="<f4")}


@pytest.fixture
def first(make_checkpoint: Make) -> Checkpoint:
    return read_checkpoint(make_checkpoint("first"))


def test_equal_shapes_may_be_merged_whatever_the_dtype(
    make_checkpoint: Make, first: Checkpoint
) -> None:
    half = np.ones((4, 2), dtype=np.uint16)
    others = [
        make_checkpoint("sharded", tensors=OTHER, shards=2),
        make_checkpoint(
            "half", tensors={"lm_head.weight": half, "model.embed_tokens.weight": half}
        ),
    ]
    check_mergeable([("first", first), *((p.name, read_checkpoint(p)) for p in others)])
    check_mergeable([("first", first)])
    check_mergeable([])


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"model.norm.weight": None}, "other: tensor 'model.norm.weight' is missing .*'first' has"),
        (OTHER | {"model.extra": np.ones(1, "<f4")}, "'model.extra' is extra .*'first' lacks it"),
        (
            {"model.norm.weight": np.ones(3, "<f4")},
            r"other/model\.safetensors: tensor 'model.norm.weight' has shape \[3\].*it is \[2\]",
        ),
        (
            {"lm_head.weight": np.ones((2, 4), "<f4")},
            r"'lm_head.weight' has shape \[2, 4\]; in 'first' it is \[4, 2\]",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    make_checkpoint: Make, first: Checkpoint, tensors: dict[str, np.ndarray], what: str
) -> None:
    other = read_checkpoint(make_checkpoint("other", tensors=tensors))
    with pytest.raises(CheckpointRefused, match=what):
        check_mergeable([("first", first), ("other", other)])


def test_the_same_vocabulary_size_but_another_token_map(
    make_checkpoint: Make, first: Checkpoint
) -> None:
    folder = make_checkpoint("other", tensors=OTHER, tokens={"<s>": 0, "b": 1, "a": 2, "c": 3})
    with pytest.raises(
        CheckpointRefused, match=r"other/tokenizer\.json: .* other ids than .*'first'"
    ):
        check_mergeable([("first", first), ("other", read_checkpoint(folder))])


def test_the_same_bytes_twice(make_checkpoint: Make, first: Checkpoint) -> None:
    twin = read_checkpoint(make_checkpoint("twin"))
    with pytest.raises(CheckpointRefused, match="twin: is the same checkpoint as 'first'"):
        check_mergeable([("first", first), ("twin", twin)])


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"num_attention_heads": 2}, "num_attention_heads is 2; in 'first' it is 1"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"rope": {"theta": 5}}, "rope.theta is 5"),
    ],
)
def test_a_configuration_that_computes_something_else(
    make_checkpoint: Make, config: dict[str, object], what: str
) -> None:
    rope = {"rope": {"theta": 1, "type": "default"}}
    first = read_checkpoint(make_checkpoint("first", config=rope))
    other = read_checkpoint(make_checkpoint("other", tensors=OTHER, config=rope | config))
    with pytest.raises(CheckpointRefused, match=rf"other/config\.json: {what}"):
        check_mergeable([("first", first), ("other", other)])


def test_what_releases_write_differently_does_not_matter(
    make_checkpoint: Make, first: Checkpoint
) -> None:
    config = {
        "transformers_version": "4.1",
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "attention_dropout": 0.1,
        "rms_norm_eps": None,
        "head_dim": 2,
    }
    other = read_checkpoint(make_checkpoint("other", tensors=OTHER, config=config))
    check_mergeable([("first", first), ("other", other)])


def test_a_real_pool(shared: Path) -> None:
    folders = sorted(p for p in (shared / "pools" / "stories").iterdir() if p.is_dir())
    pool = [(p.name, read_checkpoint(p)) for p in folders]
    check_mergeable(pool)
    assert len({checkpoint.digest for _, checkpoint in pool}) == 12
    assert {checkpoint.parameters for _, checkpoint in pool} == {260_032}
