"""A model's layers, compiled: what lies between two matrix products becomes one pass over memory.

Compiled code reads the parameters where they are, so a buffer that is written again is a model that
has changed. Passes that leave keys and values behind, and those of descents, run the model's own
code. A batch is computed by the same code for every candidate of an engine; what cannot be
compiled, or computes something else, is left as it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workers.engine.heads import Continued
from workers.engine.lower import longest_list
from workers.engine.probes import in_row_order, probe_of
from workers.engine.tree import Batch

#: with rounding where the model's own code rounds: 99.5 % of a tiny model's logits in bfloat16 then
#: have the bits of that code, else 10 %
BACKEND: Any = "inductor"
OPTIONS: Mapping[str, Any] = {"emulate_precision_casts": True}
#: largest difference of logits, against their largest value, at which compiled code counts as the
#: same computation; in bfloat16 and float16 one rounding is 2^-8
TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2
#: graphs of one model: six forms, each for two kinds of layers where local attention takes turns
MOST_GRAPHS = 16


class Form(NamedTuple):
    """What makes another graph of a layer, whatever the sizes."""

    #: with an attention mask
    tree: bool
    #: one row: PyTorch takes sizes of 1 for constants
    single: bool
    #: behind a head
    headed: bool

    def __str__(self) -> str:
        what = "rows behind a head" if self.headed else "trees" if self.tree else "plain rows"
        return f"{what}, one a batch" if self.single else what


def form_of(batch: Batch) -> Form | None:
    """The form of a batch; None, never compiled: one token a row would be one more graph."""
    rows, length = batch.inputs.shape
    if length < 2:
        return None
    return Form(batch.ends is not None, rows == 1, batch.head is not None)


def wanted(setting: bool, kind: str, *, plain: bool) -> tuple[bool, str]:
    """Whether to compile under the setting `engine_compile`, and why, for people."""
    if not setting:
        return False, "REMELT_ENGINE_COMPILE is off"
    if plain:
        return False, "a plain engine runs the model's own code"
    if kind != "one":
        return False, "only an engine of one rank, without ZeRO-3, compiles"
    return True, "REMELT_ENGINE_COMPILE is on"


class CompiledLayers:
    """The compiled layers of one model, made form by form as batches of them come.

    Nothing here raises because of the compiler: a form that fails its trial stays as it is.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, vocabulary: int) -> None:
        self._blocks = list(longest_list(model))
        self._vocabulary = vocabulary
        self._tolerance = TOLERANCE if dtype == torch.float32 else TOLERANCE_HALF
        self._code: list[Callable[..., Any]] = []
        self.on, self.why = False, "nothing was asked for"
        self._trying = False
        #: forms that came through their trial, and that did not
        self._good: set[Form] = set()
        self._bad: set[Form] = set()
        #: form and sizes of batches that went through compiled code, and that cannot
        self._passed: set[tuple[Form, tuple[int, ...]]] = set()
        self._refused: set[tuple[Form, tuple[int, ...]]] = set()

    def use(self, on: bool, why: str) -> None:
        """Compile from now on, or do not; before the first batch."""
        self.on, self.why = on and bool(self._blocks), why

    @property
    def about(self) -> dict[str, Any]:
        """For people: whether batches ran compiled so far, and why or why not."""
        return {"compiled": bool(self._good), "compiled_why": self.why}

    def meet(self, form: Form | None, logits: Callable[[Batch], Tensor]) -> None:
        """Before a batch is computed: compile its form and try it, if it is the first one.

        What is tried is a batch of a few tokens whose sizes are all different: sizes that are the
        same by chance would become the same in the graph. `logits` computes every layer of it.
        """
        if not self.on or form is None or form in self._good | self._bad or not _eligible():
            return
        began = time.monotonic()
        probe = probe_of(*form, vocabulary=self._vocabulary)
        expected = in_row_order(probe, logits(probe))
        self._trying = True
        try:
            self._code = self._code or self._compile()
            found = in_row_order(probe, logits(probe))
            apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
            # a comparison that NaN fails too: values that overflow say nothing about the code
            if not apart <= self._tolerance and bool(expected.isfinite().all()):
                raise ArithmeticError(f"logits differ by {apart:.2g} of the largest one")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler comes up with
            self._bad.add(form)
            before, self.why = self.why, _short(error)
            # one line for the same reason
            if self.why != before:
                _say(f"layers stay as they are for {form}: {self.why}")
        else:
            self._good.add(form)
            _say(f"layers compiled for {form} in {time.monotonic() - began:.1f} s")
        finally:
            self._trying = False

    def run(self, form: Form | None, sizes: tuple[int, ...], work: Callable[[], Tensor]) -> Tensor:
        """`work()`, a forward pass, with compiled layers where its form has them.

        `sizes` are its rows, tokens of a row and tokens of the head. Blocks whose `forward` is not
        their class's own are left alone.
        """
        if form is None or not _eligible():
            return work()
        mine = (form, sizes)
        if self._trying:
            with self._swapped():
                return work()
        if form not in self._good or mine in self._refused:
            return work()
        try:
            with self._swapped():
                out = work()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # sizes that the form's graphs do not fit, for instance
            if mine in self._passed:
                raise
            if not self._refused:
                _say(f"layers stay as they are for batches of some sizes: {_short(error)}")
            self._refused.add(mine)
            return work()
        self._passed.add(mine)
        return out

    def _compile(self) -> list[Callable[..., Any]]:
        # graphs of a model that is gone would count against the limit of this one's
        torch._dynamo.reset()
        options = dict(OPTIONS) if BACKEND == "inductor" else None
        more = {"fullgraph": True, "dynamic": True, "backend": BACKEND, "options": options}
        codes = [torch.compile(block.forward, **more) for block in self._blocks]
        return [_of_layer(code, number) for number, code in enumerate(codes)]

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        mine = [
            (block, code)
            for block, code in zip(self._blocks, self._code, strict=True)
            if "forward" not in vars(block)
        ]
        for block, code in mine:
            block.forward = code
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
                yield
        finally:
            for block, _ in mine:
                del block.forward


def _of_layer(code: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Hands on a head's keys and values of this layer alone: one that looked up its own by its
    number would need a graph of its own."""

    def mine(value: Any) -> Any:
        return value.of_layer(number) if isinstance(value, Continued) else value

    def call(*args: Any, **more: Any) -> Any:
        return code(*map(mine, args), **{name: mine(value) for name, value in more.items()})

    return call


def _eligible() -> bool:
    """Descents need gradients; graphs for several modes would be made for nothing."""
    return torch.is_inference_mode_enabled()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
