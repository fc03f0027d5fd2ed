"""The live model: built once from a checkpoint's configuration, its parameters views of one buffer.

Whoever writes the buffer has changed the model; nothing is loaded, copied or compiled again. Never
runs code that came with a checkpoint.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.initialization import no_init_weights

from services.checkpoints import Checkpoint
from services.checkpoints.files import TOKENIZER_NAMES
from services.errors import BadInput
from workers.engine.encode import Encoder
from workers.engine.layout import Layout

#: config keys that say nothing about what the model computes
COSMETIC_KEYS = ("_name_or_path", "torch_dtype", "dtype", "transformers_version")
GENERATION_NAME = "generation_config.json"


def head_key(checkpoint: Checkpoint) -> str:
    """Equal for checkpoints whose model, tokenizer and end tokens are built alike."""
    config = {k: v for k, v in checkpoint.config.items() if k not in COSMETIC_KEYS}
    files = {
        name: info.sha256
        for name, info in checkpoint.files.items()
        if name in TOKENIZER_NAMES or name == GENERATION_NAME
    }
    return json.dumps([config, files], sort_keys=True)


class LiveModel:
    """A causal language model inside DeepSpeed whose weights are whatever `flat` holds.

    `flat` is a buffer in the pool's layout, of the dtype and on the device that the model computes
    with. Raises BadInput naming tensors that are missing from the layout or are not the model's.
    """

    def __init__(self, head: Checkpoint, layout: Layout, flat: Tensor) -> None:
        self.key, self.device = head_key(head), flat.device
        self.where = str(head.path)
        try:
            config = AutoConfig.from_pretrained(
                head.path, local_files_only=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(
                head.path, local_files_only=True, trust_remote_code=False
            )
            model = _build(config, flat.dtype)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadInput(
                f"transformers cannot build it: {' '.join(str(error).split())[:300]}",
                where=self.where,
                mend="Check that AutoModelForCausalLM and AutoTokenizer load this folder",
            ) from error
        _attach(model, layout, flat, self.where)
        self.engine = _in_deepspeed(model, flat)
        self.module: nn.Module = model
        self.end_tokens = _end_tokens(head, model, tokenizer)
        text = config.get_text_config()
        self.encoder = Encoder(
            tokenizer,
            limit=getattr(text, "max_position_embeddings", None),
            vocabulary=model.get_input_embeddings().num_embeddings,
        )
        #: whether the model can be told where left padding ends
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._wanted: Tensor | None = None
        self._gathered = False
        head_module = model.get_output_embeddings()
        if head_module is not None:
            head_module.register_forward_pre_hook(self._gather)

    def logits(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """Logits [M, V] of `inputs` [B, L] at `positions` [M] of the flattened B*L.

        Rows are padded on the right. Only the wanted positions reach the output layer.
        """
        self._wanted, self._gathered = positions.to(self.device), False
        try:
            out: Tensor = self.engine(input_ids=inputs.to(self.device), use_cache=False).logits
        finally:
            wanted, self._wanted = self._wanted, None
        flat = out.reshape(-1, out.shape[-1])
        return flat if self._gathered else flat.index_select(0, wanted)

    def generate(
        self, inputs: Tensor, mask: Tensor, most: int, until: Callable[..., Tensor]
    ) -> Tensor:
        """Greedy continuation of left-padded prompts: new tokens [B, T], T <= `most`.

        `until(ids, scores)` says after each step which rows have enough, bool [B]; a row also ends
        at an end token, and is filled up with zeros.
        """
        out: Tensor = self.engine.generate(
            input_ids=inputs.to(self.device),
            attention_mask=mask.to(self.device, torch.int64),
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=most,
                eos_token_id=sorted(self.end_tokens) or None,
                pad_token_id=0,
                use_cache=True,
            ),
            stopping_criteria=[until],
        )
        return out[:, inputs.shape[1] :]

    def _gather(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._wanted is None:
            return None
        self._gathered = True
        hidden = args[0].reshape(-1, args[0].shape[-1])
        return (hidden.index_select(0, self._wanted).unsqueeze(0), *args[1:])


def _build(config: Any, dtype: torch.dtype) -> Any:
    """The bare model; its parameters are allocated, never filled."""
    # scaled dot product attention has no place for soft-capped scores
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    for attention in ("eager",) if capped else ("sdpa", "eager"):
        try:
            with no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
                )
        except ValueError as error:
            if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise
        model.tie_weights()
        # a penalty or a sampling rule of the config must not reach greedy decoding
        model.generation_config = GenerationConfig()
        return model.eval().requires_grad_(False)
    raise AssertionError("eager attention is tried last")


def _attach(model: Any, layout: Layout, flat: Tensor, where: str) -> None:
    """Point every parameter and persistent buffer at its slot of `flat`."""
    state = model.state_dict(keep_vars=True)
    attached: set[int] = set()
    strange = []
    for name, view in layout.views(flat):
        target = state.get(name, state.get(f"{model.base_model_prefix}.{name}"))
        if target is None:
            patterns = model._keys_to_ignore_on_load_unexpected or ()
            if not any(re.search(pattern, name) for pattern in patterns):
                strange.append(name)
            continue
        if target.shape != view.shape:
            raise BadInput(
                f"tensor {name!r} has shape {list(view.shape)}, config.json makes it "
                f"{list(target.shape)}",
                where=where,
                mend="Put the config.json that belongs to the weights beside them",
            )
        if id(target) not in attached:
            target.data = view
            attached.add(id(target))
    missing = [
        name
        for name, target in state.items()
        # a buffer that no file holds keeps the value that the model's code gave it
        if isinstance(target, nn.Parameter) and id(target) not in attached
    ]
    for names, what in ((strange, "are not parameters of"), (missing, "are missing for")):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise BadInput(
                f"tensors {', '.join(names[:5])}{more} {what} {type(model).__name__}",
                where=where,
                mend="Save it again with save_pretrained of this transformers release; models that "
                "fuse tensors while loading (mixtures of experts) cannot be merged yet",
            )


def _in_deepspeed(model: Any, flat: Tensor) -> Any:
    """DeepSpeed's inference engine around a model whose parameters stay where they are."""
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    engine = deepspeed.init_inference(
        model,
        dtype=flat.dtype,
        replace_with_kernel_inject=False,
        keep_module_on_host=True,
        max_out_tokens=2**31 - 1,
    )
    # DeepSpeed casts every floating buffer too: rotary frequencies would lose digits that they
    # have when transformers loads the published checkpoint
    for module, name, buffer in buffers:
        module._buffers[name] = buffer.to(flat.device)
    return engine


def _end_tokens(head: Checkpoint, model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the generation config's, else the config's or tokenizer's."""
    found: Any = None
    if GENERATION_NAME in head.files:
        found = json.loads((head.path / GENERATION_NAME).read_text()).get("eos_token_id")
    if found is None:
        found = getattr(model.config.get_text_config(), "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])
