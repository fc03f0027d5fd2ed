"""From a checkpoint's configuration to a model without values, and from there to one whose
parameters are views of a flat buffer. Never runs code that came with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from services.checkpoints import TensorInfo
from services.checkpoints.headers import read_tensors
from services.errors import BadInput
from workers.engine.group import Group
from workers.engine.layout import Cut, Layout, Slot
from workers.engine.naming import match_names, shape_of
from workers.engine.parallel import Frame, choose, join, spread


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
        names = match_names(model, read_tensors(path))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_built(error, path) from error
    if choice.kind != "one":
        join(group, meeting, device)
    return replace(spread(model, choice, group, device), names=names)


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


def not_built(error: Exception, path: Path) -> BadInput:
    """The refusal of a folder that transformers makes nothing of."""
    return BadInput(
        f"transformers cannot build it: {' '.join(str(error).split())[:300]}",
        where=str(path),
        mend="Check that AutoModelForCausalLM and AutoTokenizer load this folder",
    )


def cuts_for(frame: Frame, tensors: Mapping[str, TensorInfo]) -> dict[str, Cut]:
    """The frame's cuts by the checkpoint's names of the tensors."""
    return frame.names.cuts(frame.cuts, {name: info.count for name, info in tensors.items()})


def attach(
    frame: Frame, tensors: Mapping[str, TensorInfo], layout: Layout, flat: Tensor, where: str
) -> None:
    """Point every parameter and persistent buffer at its slots of `flat`.

    Raises BadInput naming tensors that are missing, are not the model's, or have another shape.
    """
    slots = {slot.name: slot for slot in layout.slots}
    attached: set[int] = set()
    for name, parts in frame.names.parts.items():
        if not all(part in slots for part in parts):
            continue  # a tied tensor that stands in the files twice is kept once
        shapes = [tensors[part].shape for part in parts]
        if shape_of(shapes, frame.shapes[name]) is None:
            raise BadInput(
                f"tensor {parts[0]!r} has shape {list(shapes[0])}, config.json makes it "
                f"{list(frame.shapes[name])}",
                where=where,
                mend="Put the config.json that belongs to the weights beside them",
            )
        if id(frame.targets[name]) not in attached:
            slot = _slot_of([slots[part] for part in parts], frame, name)
            attached.update(frame.point(name, flat, slot))
    missing = [
        name
        for name, target in frame.targets.items()
        # a buffer that no file holds keeps the value that the model's code gave it
        if name in frame.parameters and id(target) not in attached
    ]
    for names, what in (
        (frame.names.strange, "are not parameters of"),
        (missing, "are missing for"),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise BadInput(
                f"tensors {', '.join(names[:5])}{more} {what} {type(frame.model).__name__}",
                where=where,
                mend="Save it again with save_pretrained of this transformers release",
            )


def _slot_of(parts: list[Slot], frame: Frame, name: str) -> Slot:
    """Parts that lie behind each other as one slot of the model's tensor."""
    if len(parts) == 1:
        return parts[0]
    cut, count = frame.cuts.get(name), sum(part.count for part in parts)
    shape = frame.shapes[name] if cut is None else (count,)
    whole = frame.shapes[name]
    return Slot(name=name, whole=whole, shape=shape, start=parts[0].start, count=count, cut=cut)


def layout_names(frame: Frame) -> dict[int, list[str]]:
    """The checkpoint's names of what every parameter is made of, by the parameter's `id`."""
    found: dict[int, list[str]] = {}
    state = frame.model.state_dict(keep_vars=True)
    for name, parts in frame.names.parts.items():
        found.setdefault(id(state[name]), []).extend(parts)
    return found
