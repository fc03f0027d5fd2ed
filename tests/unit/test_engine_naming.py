"""Tensors of files against tensors of models: stacked experts, prefixes, strangers, cuts."""

import math
from itertools import pairwise
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from workers.engine.layout import Cut
from workers.engine.naming import Names, match_names, shape_of

SIZES: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def test_experts_are_stacked_gate_before_up_expert_after_expert() -> None:
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=11))
    prefix = "model.layers.0.block_sparse_moe.experts"
    names = [f"{prefix}.{i}.w{k}.weight" for i in range(11) for k in (3, 2, 1)]
    found = match_names(model, names)
    assert found.strange == ()
    assert found.parts["model.layers.0.mlp.experts.gate_up_proj"] == tuple(
        f"{prefix}.{i}.w{k}.weight" for i in range(11) for k in (1, 3)
    )
    assert found.parts["model.layers.0.mlp.experts.down_proj"] == tuple(
        f"{prefix}.{i}.w2.weight" for i in range(11)
    )
    assert len(found.fused) == 2


def test_a_missing_prefix_and_a_stranger() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    found = match_names(model, ["norm.weight", "model.embed_tokens.weight", "model.extra.weight"])
    assert found.parts["model.norm.weight"] == ("norm.weight",)
    assert found.parts["model.embed_tokens.weight"] == ("model.embed_tokens.weight",)
    assert found.strange == ("model.extra.weight",)
    assert found.fused == ()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_parts_are_cut_where_the_whole_is(ranks: int) -> None:
    names = Names(parts={"whole": ("a", "b", "c"), "alone": ("d",)}, strange=())
    counts = {"a": 4, "b": 6, "c": 4, "d": 9}
    size = math.ceil(14 / ranks)
    taken: dict[str, list[tuple[int, int]]] = {"a": [], "b": [], "c": []}
    for rank in range(ranks):
        low, high = min(rank * size, 14), min((rank + 1) * size, 14)
        whole = Cut(axis=None, ranges=((low, high),))
        cuts = names.cuts({"whole": whole, "alone": whole}, counts)
        assert cuts["d"] is whole
        assert sum(cuts[n].shape((counts[n],))[0] for n in taken) == high - low
        for name in taken:
            taken[name] += [r for r in cuts[name].ranges if r[0] < r[1]]
    for name, ranges in taken.items():
        assert ranges[0][0] == 0
        assert ranges[-1][1] == counts[name]
        assert all(a[1] == b[0] for a, b in pairwise(ranges))


def test_stacked_tensors_are_not_cut_by_rows() -> None:
    names = Names(parts={"whole": ("a", "b")}, strange=())
    with pytest.raises(ValueError, match="made of 2 tensors"):
        names.cuts({"whole": Cut(axis=0, ranges=((0, 1),))}, {"a": 4, "b": 4})


def test_shapes_that_make_up_another() -> None:
    assert shape_of([(3, 4)], (3, 4)) == (3, 4)
    assert shape_of([(4, 3)], (3, 4)) is None
    assert shape_of([(3, 4)] * 4, (2, 6, 4)) == (2, 6, 4)
    assert shape_of([(3, 4)] * 3, (2, 6, 4)) is None
