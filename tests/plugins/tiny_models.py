"""Random tiny models of many architectures with a byte-level tokenizer of their own, saved as users
save theirs. Large initial weights, so that likelihoods differ and greedy answers vary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = "the cat sat on a mat and dogs ran over hills when rain fell in spring at dawn"
VOCABULARY = 320
POSITIONS = 96
SPECIAL = ("<unk>", "<s>", "</s>", *(f"<end{number}>" for number in range(20)))
#: so many tokens end an answer that some of the random ones do end
END_TOKENS = range(2, len(SPECIAL))
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.4,
}  # fmt: skip
#: architecture -> what its configuration says beyond `COMMON`
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 8},
    "Gemma3Text": {
        "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]
    },
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 48, "decoder_sparse_step": 1,
    },
}  # fmt: skip
#: whose tokenizer puts <s> before every text
OPENED = ("Llama", "Mistral", "Mixtral", "Gemma", "Gemma2", "Gemma3Text")

Save = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """A function: the folder of a tiny model of that architecture (a key of `MODELS`)."""
    saved: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in saved:
            saved[name] = tmp_path_factory.mktemp(name)
            _save(name, saved[name])
        return saved[name]

    return folder


def _save(name: str, folder: Path) -> None:
    import torch
    import transformers

    config_class = getattr(transformers, f"{name}Config")
    common = {k: v for k, v in COMMON.items() if name != "GPT2" or k in _GPT2_KEYS}
    model_class = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM", None)
    if name == "GPT2":
        model_class = transformers.GPT2LMHeadModel
    torch.manual_seed(5)
    model = model_class(config_class(**common, **MODELS[name]))
    model.generation_config.eos_token_id = list(END_TOKENS)
    model.save_pretrained(folder)
    _tokenizer(opened=name in OPENED).save_pretrained(folder)


_GPT2_KEYS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")


def _tokenizer(*, opened: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT] * 3, trainer)
    if opened:
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>" if opened else None,
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
