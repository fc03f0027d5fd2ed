"""How a model is spread over the ranks of an engine: whole, by DeepSpeed's tensor parallelism, or
by ZeRO-3.

A `Frame` is a model that is built and spread but holds no values: it says which part of every
tensor this rank needs (`cuts`, for the pool) and where that part has to be put (`targets`). Parts
are asked from DeepSpeed's own code, never worked out again here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import deepspeed
import deepspeed.ops
import torch
import torch.distributed
from torch import Tensor, nn

from services.errors import BadInput
from workers.engine.cuts import flat_cut, tensor_cuts
from workers.engine.group import Group
from workers.engine.layout import Cut, Slot
from workers.engine.naming import Names

Kind = Literal["one", "tensor", "zero3", "zero3-offload"]

#: `model_type`s that AutoTP computes right: tests/contract/test_ranks.py compares each with one
#: rank. An architecture that is not here may fit AutoTP's patterns and still come out wrong
#: (fused projections are cut across queries, keys and values).
TENSOR_TYPES = frozenset({"gemma", "gemma3_text", "llama", "mistral", "opt", "qwen2", "qwen3"})
#: the client's watchdog ends a group that hangs long before this
COLLECTIVE_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the model is spread, and why so: for people."""

    kind: Kind
    why: str


def _nothing() -> None:
    """Whole tensors need not be let go of."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A model without values. Names are those of its state dict."""

    model: Any = field(repr=False)
    #: what is called for a forward pass
    engine: Any = field(repr=False)
    choice: Choice
    dtype: torch.dtype
    #: where inputs go
    device: torch.device
    #: whole shapes of parameters and persistent buffers
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    #: what must be pointed at this rank's part; names of one tensor share a target
    targets: Mapping[str, Tensor] = field(repr=False)
    #: the part of it; tensors that are not here are whole on every rank
    cuts: Mapping[str, Cut] = field(repr=False)
    #: names of parameters, not of buffers
    parameters: frozenset[str] = field(repr=False)
    #: for every name: the other names that the tensor had before the model was spread
    ties: Mapping[str, tuple[str, ...]] = field(repr=False)
    #: which tensors of the checkpoint fill which of the model
    names: Names = field(default=Names(parts={}, strange=()), repr=False)
    #: values that a target may read beyond its part, and ignores
    slack: int = 0
    #: let go of what is still gathered after a pass backwards, before other values are written
    release: Callable[[], None] = field(default=_nothing, repr=False)

    def point(self, name: str, flat: Tensor, slot: Slot) -> set[int]:
        """Point the tensor of that name at its slot of `flat`; the ids of all targets pointed."""
        target = self.targets[name]
        if self.cuts.get(name) != slot.cut:
            raise AssertionError(f"{name}: the pool holds {slot.cut}, not {self.cuts.get(name)}")
        if self.slack and name in self.parameters:
            # the last parts are shorter than ZeRO-3's equal ones; what follows is never looked at
            target.data = flat[slot.start : slot.start + target.ds_numel]  # type: ignore[attr-defined]
            return {id(target)}
        part = flat[slot.start : slot.start + slot.count].view(slot.shape)
        target.data = part
        pointed = {id(target)}
        for twin in self.ties[name]:
            # AutoTP gives the output layer a copy of a tied embedding, and cuts that
            if id(self.targets[twin]) not in pointed and slot.cut is None:
                cut = self.cuts.get(twin)
                self.targets[twin].data = part if cut is None else cut.take(part)
                pointed.add(id(self.targets[twin]))
        return pointed


def choose(wanted: str, world: int, model_type: str) -> Choice:
    """The layout to use for `wanted` (a setting); BadInput when it cannot be had."""
    if wanted == "tensor" and world == 1:
        raise BadInput(
            "tensor parallelism needs at least two ranks, the engine has one",
            where="settings",
            mend="Set REMELT_ENGINE_RANKS, or REMELT_ENGINE_PARALLEL=auto",
        )
    if wanted == "tensor" and model_type not in TENSOR_TYPES:
        raise BadInput(
            f"tensor parallelism is not known to compute {model_type!r} right",
            where="settings",
            mend="Set REMELT_ENGINE_PARALLEL=zero3, which takes every architecture",
        )
    if wanted == "tensor":
        return Choice(kind="tensor", why="it was asked for")
    if wanted == "zero3":
        return Choice(kind="zero3", why="it was asked for")
    if wanted == "zero3-offload":
        return Choice(kind="zero3-offload", why="it was asked for")
    if world == 1:
        return Choice(kind="one", why="the engine has one rank")
    if model_type in TENSOR_TYPES:
        return Choice(kind="tensor", why=f"DeepSpeed's AutoTP computes {model_type!r} right")
    return Choice(kind="zero3", why=f"AutoTP is not known to compute {model_type!r} right")


def join(group: Group, meeting: int | None, device: torch.device) -> None:
    """Meet the other ranks, once; `meeting` is a descriptor of a file that all have open."""
    if torch.distributed.is_initialized():
        return
    if meeting is None:
        raise BadInput("several ranks and ZeRO-3 need Linux", where="settings", mend="Use one rank")
    os.environ |= {
        "RANK": str(group.rank),
        "LOCAL_RANK": str(group.rank),
        "WORLD_SIZE": str(group.world),
        # one machine: no other one has to reach them
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DeepSpeed's shared memory operation needs a compiler, and crashes where LOCAL_SIZE is not set
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file:///proc/self/fd/{meeting}",
        rank=group.rank,
        world_size=group.world,
        auto_mpi_discovery=False,
        timeout=COLLECTIVE_TIMEOUT,
    )


def spread(model: Any, choice: Choice, group: Group, device: torch.device) -> Frame:
    """Hand a freshly built model to DeepSpeed, on all ranks together.

    Its buffers move to `device`; the parameters stay where they were built until they are pointed
    at values.
    """
    state = model.state_dict(keep_vars=True)
    dtype = next(model.parameters()).dtype
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    ties = {name: tuple(same) for same in names.values() for name in same}
    parameters = frozenset(n for n, tensor in state.items() if isinstance(tensor, nn.Parameter))
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    release = _nothing
    if choice.kind in ("one", "tensor"):
        engine = _inference_engine(model, dtype, group.world if choice.kind == "tensor" else 1)
    else:
        release = _zero3(model, dtype, offload=choice.kind == "zero3-offload")
        engine = model
    # DeepSpeed casts every floating buffer too: rotary frequencies would lose digits that they
    # have when transformers loads the published checkpoint
    for module, name, buffer in buffers:
        module._buffers[name] = buffer.to(device)
    model.eval()
    targets = dict(model.state_dict(keep_vars=True))
    cuts: dict[str, Cut] = {}
    if choice.kind == "tensor":
        cuts = tensor_cuts(model, shapes)
    elif choice.kind != "one":
        for name in parameters:
            parameter: Any = targets[name]
            targets[name] = parameter.ds_tensor
            if parameter.ds_tensor.numel() < parameter.ds_numel:
                cuts[name] = flat_cut(parameter, group.rank)
    for name in parameters:
        # whatever they hold is nothing: the room is for the pool
        targets[name].data = torch.empty(0, dtype=dtype)
    return Frame(
        model=model,
        engine=engine,
        choice=choice,
        dtype=dtype,
        device=device,
        shapes=shapes,
        targets=targets,
        cuts=cuts,
        parameters=parameters,
        ties=ties,
        slack=0 if choice.kind in ("one", "tensor") else group.world,
        release=release,
    )


def _inference_engine(model: Any, dtype: torch.dtype, ranks: int) -> Any:
    """DeepSpeed's inference engine; with several ranks AutoTP cuts the linear layers."""
    return deepspeed.init_inference(
        model,
        dtype=dtype,
        replace_with_kernel_inject=False,
        keep_module_on_host=True,
        max_out_tokens=2**31 - 1,
        tensor_parallel={"tp_size": ranks},
    )


def _zero3(model: Any, dtype: torch.dtype, *, offload: bool) -> Callable[[], None]:
    """Let ZeRO-3 cut the model's parameters now and gather them for each layer's moment.

    Returns what releases those that it has not let go of: the hook that would do it after a pass
    backwards does not fire for the embedding, whose input has no gradient.
    """
    stage: dict[str, Any] = {
        "stage": 3,
        # nothing may stay gathered from one candidate to the next
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 0,
    }
    if offload:
        stage["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": stage,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    # parameter by parameter: `initialize` alone would move the whole model to the device first
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    engine, *_ = deepspeed.initialize(model=model, config=config, dist_init_required=False)
    zero = engine.optimizer

    def release() -> None:
        zero.release_backward_leftovers()
        zero.get_param_coordinator().release_and_reset_all(model)

    return release
