"""The live model: built once from a checkpoint's configuration, its parameters views of one buffer.

Whoever writes the buffer has changed the model; nothing is loaded, copied or compiled again. Never
runs code that came with a checkpoint.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
)

from services.checkpoints import Checkpoint
from services.checkpoints.files import TOKENIZER_NAMES
from services.errors import TrialRejected
from workers.engine.build import attach, build_frame, layout_names, not_built
from workers.engine.encode import Encoder
from workers.engine.heads import Continued
from workers.engine.layers import CompiledLayers, Form, form_of, wanted
from workers.engine.layout import Layout
from workers.engine.lower import Activations, LowerBlocks
from workers.engine.parallel import Frame
from workers.engine.probes import in_row_order, probes
from workers.engine.tree import Batch, Head, Sharing

#: config keys that say nothing about what the model computes
COSMETIC_KEYS = ("_name_or_path", "torch_dtype", "dtype", "transformers_version")
GENERATION_NAME = "generation_config.json"
#: largest difference of logits, against their largest value, at which a shared prefix counts as
#: the same computation; in bfloat16 and float16 one rounding is 2^-8
SHARE_TOLERANCE, SHARE_TOLERANCE_HALF = 1e-4, 5e-2
#: values of the largest table of logits: small batches starve a GPU, and leave a CPU's caches less
CPU_LOGITS, GPU_LOGITS = 2**26, 2**29


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

    `flat` is a buffer in the pool's layout, of the dtype that the model computes with, and longer
    than the layout by `frame.slack` values. A `frame` can be used once; without one the model is
    built here, whole, on the device of `flat`. `activations` keeps what leaves skipped blocks;
    a `plain` model skips none, shares no prefixes and compiles nothing, whatever `compiling`, the
    setting `engine_compile`, says.
    Raises BadInput naming tensors that are missing from the layout or are not the model's.
    """

    def __init__(
        self,
        head: Checkpoint,
        layout: Layout,
        flat: Tensor,
        frame: Frame | None = None,
        activations: Activations | None = None,
        *,
        plain: bool = False,
        compiling: bool = False,
    ) -> None:
        frame = frame or build_frame(head.path, flat.dtype, flat.device)
        self.key, self.device, self.spread = head_key(head), frame.device, frame.choice.kind
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                head.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise not_built(error, head.path) from error
        model = frame.model
        attach(frame, head.tensors, layout, flat, str(head.path))
        self.engine, self.release = frame.engine, frame.release
        self.module: nn.Module = model
        self.end_tokens = _end_tokens(head, model, tokenizer)
        text = model.config.get_text_config()
        self._dtype, self._width = flat.dtype, int(getattr(text, "hidden_size", 512))
        self.encoder = Encoder(
            tokenizer,
            limit=getattr(text, "max_position_embeddings", None),
            vocabulary=model.get_input_embeddings().num_embeddings,
        )
        #: whether the model can be told where left padding ends
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        #: which prefixes may be computed once; none until `check` has tried it
        self.sharing = Sharing(
            limit=0, logits=GPU_LOGITS if self.device.type == "cuda" else CPU_LOGITS
        )
        #: the checkpoint's names of what every parameter is made of, by the parameter's `id`
        self.names = layout_names(frame)
        self.lower = LowerBlocks(model, self.names, activations or Activations(0))
        self.layers = CompiledLayers(model, flat.dtype, self.encoder.vocabulary)
        self.layers.use(*wanted(compiling, self.spread, plain=plain))
        self._checked = plain
        #: keys and values of heads by key, the last one used last, and how many are kept
        self._heads: dict[int, DynamicCache] = {}
        self.heads_kept = 1
        #: wall seconds inside the model since `begin`; on a GPU only those of starting the work
        self.forward_seconds = 0.0
        self._wanted: Tensor | None = None
        self._gathered = False
        head_module = model.get_output_embeddings()
        if head_module is not None:
            head_module.register_forward_pre_hook(self._gather)

    def begin(self, signature: Callable[[str], Hashable]) -> None:
        """Get ready for the candidate that now stands in the buffer.

        `signature` as for `LowerBlocks.prepare`. The first call tries on a few tokens what this
        architecture allows: shared prefixes, skipped blocks.
        """
        self._heads.clear()
        self.heads_kept, self.forward_seconds = 1, 0.0
        if not self._checked:
            self.sharing = replace(self.sharing, width=self._width, limit=self._share_limit())
            self.lower.learn(lambda: self.logits(probes(self.encoder.vocabulary)[0]))
            self._checked = True
        self.lower.prepare(signature)

    def forget(self, keys: Sequence[int]) -> None:
        """Batches of these keys will not come again."""
        self.lower.store.drop(keys)

    def logits(self, batch: Batch) -> Tensor:
        """Logits [M, V] at the wanted positions of a batch; only they reach the output layer."""
        self.layers.meet(form_of(batch), lambda probe: self._run(probe, keep=False))
        return self._run(batch, keep=True)

    def _run(self, batch: Batch, *, keep: bool) -> Tensor:
        """Without `keep` every layer is computed, and nothing is kept for later passes."""
        past = None if batch.head is None else self._headed(batch.head, keep=keep)
        key = batch.key if keep else None
        parts = (batch.inputs, batch.positions, batch.mask(), batch.depths, past)
        return self._forward(key, *parts, form=form_of(batch))

    def _forward(
        self,
        key: int | None,
        inputs: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        depths: Tensor | None = None,
        past: DynamicCache | None = None,
        *,
        form: Form | None = None,
    ) -> Tensor:
        self._wanted, self._gathered = positions.to(self.device), False
        more: dict[str, Any] = {} if past is None else {"past_key_values": past}
        if mask is not None:
            more["attention_mask"] = self._as_attention_mask(mask.to(self.device))
        if depths is not None:
            more["position_ids"] = depths.to(self.device)
        started = time.monotonic()

        def call() -> Tensor:
            ids = inputs.to(self.device)
            return self.engine(input_ids=ids, use_cache=past is not None, **more).logits

        try:
            with self.lower.around(key):
                sizes = (*inputs.shape, 0 if past is None else past.get_seq_length())
                out = self.layers.run(form, sizes, call)
        finally:
            wanted, self._wanted = self._wanted, None
            self.forward_seconds += time.monotonic() - started
        flat = out.reshape(-1, out.shape[-1])
        return flat if self._gathered else flat.index_select(0, wanted)

    def _headed(self, head: Head, *, keep: bool) -> Continued:
        """The keys and values of a head; the last `heads_kept` are kept: as long as a suite runs
        in its own order, the batches of a head come together."""
        cache = self._heads.pop(head.key, None)
        if cache is None:
            cache = DynamicCache()
            key = head.key if keep else None
            self._forward(key, head.inputs, torch.zeros(0, dtype=torch.int64), past=cache)
        if keep:
            self._heads[head.key] = cache
        while len(self._heads) > self.heads_kept:
            del self._heads[next(iter(self._heads))]
        return Continued(cache, head.inputs.shape[1])

    def _as_attention_mask(self, seen: Tensor) -> Tensor:
        if self.module.config._attn_implementation == "sdpa":  # type: ignore[union-attr]
            return seen
        hidden = torch.finfo(self._dtype).min
        return torch.zeros_like(seen, dtype=self._dtype).masked_fill(~seen, hidden)

    def _share_limit(self) -> int | None:
        """Longest row that may share prefixes; 0: trees do not give the logits of plain rows."""
        plain, *others = probes(self.encoder.vocabulary)
        tolerance = SHARE_TOLERANCE if self._dtype == torch.float32 else SHARE_TOLERANCE_HALF
        expected = in_row_order(plain, self.logits(plain))
        if not bool(expected.isfinite().all()):
            raise TrialRejected(
                "a logit is not finite",
                where="forward pass",
                mend="The weights overflow: other weights, or float32",
            )
        if not self.takes_positions:
            return 0
        try:
            found = [in_row_order(batch, self.logits(batch)) for batch in others]
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            return 0
        scale = float(expected.abs().max().clamp(min=1.0))
        if not all(float((f - expected).abs().max()) <= tolerance * scale for f in found):
            return 0
        return _window(self.module.config)

    def generate(
        self, inputs: Tensor, mask: Tensor, most: int, until: Callable[..., Tensor]
    ) -> Tensor:
        """Greedy continuation of left-padded prompts: new tokens [B, T], T <= `most`.

        `until(ids, scores)` says after each step which rows have enough, bool [B]; a row also ends
        at an end token, and is filled up with zeros.
        """
        started = time.monotonic()
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
        self.forward_seconds += time.monotonic() - started
        return out[:, inputs.shape[1] :]

    def answer_text(self, ids: Sequence[int]) -> str:
        """Generated ids up to the end token as text."""
        end = next((i for i, token in enumerate(ids) if token in self.end_tokens), len(ids))
        return self.encoder.decode(ids[:end])

    def _gather(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._wanted is None:
            return None
        self._gathered = True
        hidden = args[0].reshape(-1, args[0].shape[-1])
        return (hidden.index_select(0, self._wanted).unsqueeze(0), *args[1:])


def _window(config: Any) -> int | None:
    """The model's sliding window in tokens; within it, full attention sees the same."""
    text = config.get_text_config()
    windows = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((w for w in windows if w), default=None)


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
