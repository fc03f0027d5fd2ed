"""Checkpoints of SmolLM2-135M's shape with random weights, for benches that need files."""

from __future__ import annotations

import json
from pathlib import Path

import torch

#: SmolLM2-135M
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
}  # fmt: skip


def write_checkpoints(folder: Path, count: int) -> list[Path]:
    """Different random checkpoints of one architecture."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models

    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (49152, 576)}
    for i in range(30):
        at = f"model.layers.{i}."
        shapes |= {
            f"{at}self_attn.{n}_proj.weight": (r, 576)
            for n, r in zip("qkvo", (576, 192, 192, 576), strict=True)
        }
        shapes |= {f"{at}mlp.{n}_proj.weight": (1536, 576) for n in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (576, 1536), f"{at}input_layernorm.weight": (576,),
                   f"{at}post_attention_layernorm.weight": (576,)}  # fmt: skip
    shapes["model.norm.weight"] = (576,)
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator) * 0.02 for n, s in shapes.items()}
    made = []
    for number in range(count):
        place = folder / f"p{number}"
        place.mkdir()
        tensors = {n: (t * (1 + number / 50)).to(torch.bfloat16) for n, t in base.items()}
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(CONFIG))
        Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, "<unk>")).save(
            str(place / "tokenizer.json")
        )
        (place / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}'
        )
        made.append(place)
    return made


def freeze(folders: list[Path]) -> None:
    """Give all checkpoints the first one's embedding and layers, but for the last three layers."""
    from safetensors.torch import load_file, save_file

    first = load_file(folders[0] / "model.safetensors")
    moving = tuple(f"model.layers.{i}." for i in (27, 28, 29))
    for folder in folders[1:]:
        mine = load_file(folder / "model.safetensors")
        kept = {n: t if n.startswith(moving) else first[n] for n, t in mine.items()}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
