"""What a tensor's name says about it: its layer, and the kind of module it belongs to.

Knows the names of the usual families (Llama, Qwen, Gemma, Mistral and their mixtures of experts,
GPT-2, GPT-NeoX, OPT). A pure function of the name, so that a recipe means the same everywhere.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: the kinds that a recipe may name
KINDS = ("attention", "mlp", "embedding", "norm", "other")

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
#: the first that is found decides: `q_norm` inside an attention module is a norm
_KINDS = (
    ("norm", re.compile(r"norm|(?:^|\.)ln_\w+\.|(?:^|\.)ln\d?\.")),
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|experts?\b|feed_forward|ffn|moe|(?:^|\.)fc\d\.")),
    ("embedding", re.compile(r"embed|(?:^|\.)w[tp]e\.|(?:^|\.)(?:lm_head|output)\.")),
)


@lru_cache(maxsize=65536)
def layer_of(name: str) -> int | None:
    """Number of the layer, from 0; None for what stands before and after the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


@lru_cache(maxsize=65536)
def kind_of(name: str) -> str:
    """One of `KINDS`; the output layer counts as an embedding, as it is one where they are tied."""
    lower = name.lower()
    return next((kind for kind, pattern in _KINDS if pattern.search(lower)), "other")
