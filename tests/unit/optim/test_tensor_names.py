"""Names of the usual families: which layer, which kind."""

import pytest

from optim.tensor_names import KINDS, kind_of, layer_of

NAMES = {
    # Llama, Mistral, Qwen, Gemma
    "model.embed_tokens.weight": (None, "embedding"),
    "lm_head.weight": (None, "embedding"),
    "model.norm.weight": (None, "norm"),
    "model.layers.0.self_attn.q_proj.weight": (0, "attention"),
    "model.layers.11.self_attn.k_proj.bias": (11, "attention"),
    "model.layers.3.self_attn.q_norm.weight": (3, "norm"),
    "model.layers.3.mlp.down_proj.weight": (3, "mlp"),
    "model.layers.3.post_attention_layernorm.weight": (3, "norm"),
    "model.layers.3.pre_feedforward_layernorm.weight": (3, "norm"),
    "model.language_model.layers.2.linear_attn.A_log": (2, "attention"),
    # mixtures of experts
    "model.layers.7.block_sparse_moe.gate.weight": (7, "mlp"),
    "model.layers.7.block_sparse_moe.experts.5.w1.weight": (7, "mlp"),
    "model.layers.7.mlp.experts.5.gate_proj.weight": (7, "mlp"),
    "model.layers.7.mlp.shared_expert_gate.weight": (7, "mlp"),
    # GPT-2
    "transformer.wte.weight": (None, "embedding"),
    "wpe.weight": (None, "embedding"),
    "transformer.h.4.attn.c_attn.weight": (4, "attention"),
    "h.10.mlp.c_fc.weight": (10, "mlp"),
    "h.10.ln_1.weight": (10, "norm"),
    "transformer.ln_f.bias": (None, "norm"),
    # GPT-NeoX
    "gpt_neox.embed_in.weight": (None, "embedding"),
    "embed_out.weight": (None, "embedding"),
    "gpt_neox.layers.9.attention.query_key_value.weight": (9, "attention"),
    "gpt_neox.layers.9.mlp.dense_4h_to_h.weight": (9, "mlp"),
    "gpt_neox.final_layer_norm.weight": (None, "norm"),
    # OPT
    "model.decoder.embed_positions.weight": (None, "embedding"),
    "model.decoder.layers.1.self_attn_layer_norm.weight": (1, "norm"),
    "model.decoder.layers.1.fc1.weight": (1, "mlp"),
    "model.decoder.layers.1.self_attn.out_proj.weight": (1, "attention"),
    # nothing known
    "model.rotary.inv_freq": (None, "other"),
    "alpha": (None, "other"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert (layer_of(name), kind_of(name)) == NAMES[name]
    assert kind_of(name) in KINDS
