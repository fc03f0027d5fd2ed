"""The live model: built once from a checkpoint's configuration, its parameters views of one buffer.

Whoever writes the buffer has changed the model; nothing is loaded, copied or compiled again. Never
runs code that came with a checkpoint.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.initialization import no_init_weights

from services.checkpoints import Checkpoint, TensorInfo
from services.checkpoints.files import TOKENIZER_NAMES
from services.errors import BadInput
from workers.engine.encode import Encoder
from workers.engine.group import Group
from workers.engine.layout import Cut, Layout
from workers.engine.parallel import Frame, choose, join, spread

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


def build_frame(
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    *,
    wanted: str = "auto",
    group: Group | None = None,
    meeting: int | None = None,
) -> Frame:
    """The model that the folder's config.json describes, spread over the ranks, without values.

    All ranks call it together. `wanted` is the setting `engine_parallel`, `meeting` a descriptor
    of a file that all ranks have open. Raises BadInput when transformers cannot build the model,
    or when it cannot be spread that way.
    """
    group = group or Group(0, 1)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        choice = choose(wanted, group.world, config.get_text_config().model_type)
        model = _build(config, dtype)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_built(error, path) from error
    if choice.kind != "one":
        join(group, meeting, device)
    return spread(model, choice, group, device)


class LiveModel:
    """A causal language model inside DeepSpeed whose weights are whatever `flat` holds.

    `flat` is a buffer in the pool's layout, of the dtype that the model computes with, and longer
    than the layout by `frame.slack` values. A `frame` can be used once; without one the model is
    built here, whole, on the device of `flat`. Raises BadInput naming tensors that are missing from
    the layout or are not the model's.
    """

    def __init__(
        self, head: Checkpoint, layout: Layout, flat: Tensor, frame: Frame | None = None
    ) -> None:
        frame = frame or build_frame(head.path, flat.dtype, flat.device)
        self.head, self.key, self.device = head, head_key(head), frame.device
        self.where = str(head.path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                head.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _not_built(error, head.path) from error
        model = frame.model
        _attach(frame, head.tensors, layout, flat, self.where)
        self.engine = frame.engine
        self.module: nn.Module = model
        self.end_tokens = _end_tokens(head, model, tokenizer)
        text = model.config.get_text_config()
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


def _not_built(error: Exception, path: Path) -> BadInput:
    return BadInput(
        f"transformers cannot build it: {' '.join(str(error).split())[:300]}",
        where=str(path),
        mend="Check that AutoModelForCausalLM and AutoTokenizer load this folder",
    )


def cuts_for(frame: Frame) -> dict[str, Cut]:
    """The frame's cuts under every name that a checkpoint may have for a tensor."""
    prefix = f"{frame.model.base_model_prefix}."
    return {name.removeprefix(prefix): cut for name, cut in frame.cuts.items()} | dict(frame.cuts)


def _attach(
    frame: Frame, tensors: Mapping[str, TensorInfo], layout: Layout, flat: Tensor, where: str
) -> None:
    """Point every parameter and persistent buffer at its slot of `flat`."""
    model = frame.model
    attached: set[int] = set()
    strange = []
    for slot in layout.slots:
        name = slot.name
        if name not in frame.targets:
            name = f"{model.base_model_prefix}.{name}"
        if name not in frame.targets:
            patterns = model._keys_to_ignore_on_load_unexpected or ()
            if not any(re.search(pattern, slot.name) for pattern in patterns):
                strange.append(slot.name)
            continue
        if (shape := tensors[slot.name].shape) != frame.shapes[name]:
            raise BadInput(
                f"tensor {slot.name!r} has shape {list(shape)}, config.json makes it "
                f"{list(frame.shapes[name])}",
                where=where,
                mend="Put the config.json that belongs to the weights beside them",
            )
        if id(frame.targets[name]) not in attached:
            attached.update(frame.point(name, flat, slot))
    missing = [
        name
        for name, target in frame.targets.items()
        # a buffer that no file holds keeps the value that the model's code gave it
        if name in frame.parameters and id(target) not in attached
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
