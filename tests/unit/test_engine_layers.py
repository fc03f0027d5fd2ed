"""Compiled layers: the model's own answers, few graphs, and nothing lost where there are none."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from tests.plugins.tiny_models import POSITIONS, VOCABULARY, Save
from workers.engine import layers
from workers.engine.layers import Form, form_of, wanted
from workers.engine.loading import load_pool
from workers.engine.lower import FROZEN, Activations
from workers.engine.model import LiveModel
from workers.engine.probes import probe_of
from workers.engine.resident import Pool
from workers.engine.tree import Batch, Sharing, batch_rows

CPU = torch.device("cpu")
#: plain rows, trees and what is behind a head, one in a batch or several
FORMS = [
    Form(tree, single, headed)
    for tree, headed in ((False, False), (True, False), (True, True))
    for single in (True, False)
]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made, and run operation by operation: quick, and no compiler is needed."""
    monkeypatch.setattr(layers, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Live:
    """A pool and a model, without the processes around them."""

    def __init__(self, folders: Sequence[Path], compiling: bool = True) -> None:
        heads = [read_checkpoint(folder) for folder in folders]
        self.pool: Pool = load_pool(
            [(head.digest, head.path) for head in heads],
            device=CPU,
            buffer_bytes_per_value=4,
            progress=lambda *_: None,
        )
        self.flat = torch.zeros(self.pool.layout.size)
        self.model = LiveModel(
            heads[0], self.pool.layout, self.flat, activations=Activations(2**20),
            compiling=compiling,
        )  # fmt: skip

    def become(self, *weights: float) -> None:
        self.pool.form_(self.flat, Recipe(parents=tuple(self.pool.parents), weights=weights))
        # nothing is frozen: every pass goes through all layers
        self.model.begin(lambda name: weights)

    def logits(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [self.model.logits(batch) for batch in batches]


def graphs() -> int:
    """Graphs made since the test began."""
    return int(counters["stats"]["unique_graphs"])


def rows_of(seed: int, count: int, length: int, shared: int) -> list[list[int]]:
    """Different rows of `length` tokens, the first `shared` of them common."""
    draw = torch.Generator().manual_seed(seed)
    head = torch.randint(1, VOCABULARY, (shared,), generator=draw).tolist()
    tails = torch.randint(1, VOCABULARY, (count, length - shared), generator=draw).tolist()
    return [head + tail for tail in tails]


def many_batches(sharing: Sharing) -> list[Batch]:
    """Plain rows, trees and heads of many sizes, one a batch and several."""
    found: list[Batch] = []
    for seed, (count, length, tokens) in enumerate(
        [(1, 2, 64), (2, 5, 64), (5, 5, 64), (7, 16, 48), (9, 31, 999), (3, 32, 32), (40, 3, 60)]
    ):
        for shared in (0, length // 2, length - 1):
            rows = rows_of(seed, count, length, shared)
            unlike = [list(row) for row in {tuple(row) for row in rows}]
            found += batch_rows(
                unlike, [shared] * len(unlike), batch_tokens=tokens, vocabulary=VOCABULARY,
                sharing=sharing,
            )  # fmt: skip
    # the longest head of the few rows that fit
    rows = rows_of(99, 12, POSITIONS - 1, POSITIONS - 20)
    found += batch_rows(
        rows, [POSITIONS - 20] * 12, batch_tokens=64, vocabulary=VOCABULARY, sharing=sharing
    )
    return found


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma3Text", "GPT2"])
def test_compiled_layers_give_the_models_own_logits(tiny_model: Save, name: str) -> None:
    plain, compiled = Live([tiny_model(name)], False), Live([tiny_model(name)])
    plain.become(1.0)
    compiled.become(1.0)
    batches = many_batches(compiled.model.sharing)
    forms = {form for form in map(form_of, batches) if form}
    # beyond Gemma's window of 8 tokens no row shares anything
    assert len(forms) >= (2 if name == "Gemma3Text" else 5)
    for batch, mine, expected in zip(
        batches, compiled.logits(batches), plain.logits(batches), strict=True
    ):
        assert torch.allclose(mine, expected, atol=1e-5, rtol=1e-5), batch
    assert compiled.model.layers.about == {
        "compiled": True,
        "compiled_why": "REMELT_ENGINE_COMPILE is on",
    }
    assert plain.model.layers.about["compiled"] is False
    # two kinds of layers, Gemma's local and global ones, have graphs of their own
    assert graphs() == len(forms) * (2 if name == "Gemma3Text" else 1)
    made = graphs()
    compiled.logits(batches)
    assert graphs() == made


def test_values_that_change_in_place_are_seen(tiny_pool: Path) -> None:
    folders = [tiny_pool / "pool" / name for name in ("now", "left", "right")]
    plain, compiled = Live(folders, False), Live(folders)
    words = compiled.model.encoder.vocabulary
    batches = [probe_of(*form, vocabulary=words) for form in FORMS]
    seen = []
    for weights in ((1.0, 0.0, 0.0), (0.3, 0.3, 0.4), (-0.2, 0.5, 0.7)):
        plain.become(*weights)
        compiled.become(*weights)
        for mine, expected in zip(compiled.logits(batches), plain.logits(batches), strict=True):
            assert torch.allclose(mine, expected, atol=1e-5)
        seen.append(compiled.logits(batches)[0])
    assert graphs() == len(FORMS)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)


def test_a_batch_that_comes_again_has_the_same_bits(tiny_model: Save) -> None:
    """Whatever was computed in between: a flip must not be a rounding."""
    live = Live([tiny_model("Llama")])
    live.become(1.0)
    batches = many_batches(live.model.sharing)
    first, backwards = live.logits(batches), live.logits(batches[::-1])[::-1]
    live.become(1.0)
    for found in (backwards, live.logits(batches)):
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))


def test_skipped_blocks_are_not_compiled_back_in(tiny_pool: Path) -> None:
    """With one pool of equal lower blocks: what is kept of them and what is compiled agree."""
    folder = tiny_pool / "pool/now"
    live = Live([folder])
    live.become(1.0)
    batches = [probe_of(False, False, False, vocabulary=live.model.encoder.vocabulary)]
    [whole] = live.logits(batches)
    lower = live.model.lower
    lower.prepare(lambda name: FROZEN)
    assert lower.depth > 0
    [kept] = live.logits(batches)
    for slot in live.pool.layout.slots:
        if ".layers.0." in slot.name:
            live.flat[slot.start : slot.start + slot.count] = torch.nan
    [skipped] = live.logits(batches)
    assert torch.equal(whole, kept)
    assert torch.equal(whole, skipped)
    assert all("forward" not in vars(block) for block in lower._blocks)


def test_gradients_go_through_the_models_own_code(tiny_pool: Path) -> None:
    live = Live([tiny_pool / "pool/now"])
    live.become(1.0)
    batch = probe_of(False, False, False, vocabulary=live.model.encoder.vocabulary)
    weight = live.model.module.model.layers[0].mlp.up_proj.weight  # type: ignore[union-attr]
    weight.requires_grad_(True)
    live.model.logits(batch).sum().backward()
    assert weight.grad is not None
    assert graphs() == 0
    assert live.model.layers.about["compiled"] is False


def failing(*_: Any) -> Callable[..., Any]:
    raise RuntimeError("no compiler on this machine")


def wrong(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
    """Code that is a little off."""
    return lambda *args: tuple(out * 1.05 for out in module(*args))


@pytest.mark.parametrize(
    ("backend", "why"),
    [(failing, "no compiler on this machine"), (wrong, "logits differ by")],
    ids=["failing", "wrong"],
)
def test_what_cannot_be_compiled_stays_as_it_is(
    tiny_model: Save,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    backend: Any,
    why: str,
) -> None:
    monkeypatch.setattr(layers, "BACKEND", backend)
    plain, live = Live([tiny_model("Llama")], False), Live([tiny_model("Llama")])
    plain.become(1.0)
    live.become(1.0)
    batches = many_batches(live.model.sharing)
    for mine, expected in zip(live.logits(batches), plain.logits(batches), strict=True):
        assert torch.equal(mine, expected)
    about = live.model.layers.about
    assert about["compiled"] is False
    assert why in about["compiled_why"]
    assert capfd.readouterr().err.count("layers stay as they are for ") >= 1


def test_a_layer_that_leaves_the_graph_stays_as_it_is(
    tiny_model: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, live = Live([tiny_model("Qwen3")], False), Live([tiny_model("Qwen3")])
    mlp = type(live.model.module.model.layers[0].mlp)  # type: ignore[union-attr]
    own = mlp.forward

    def asks(self: Any, x: torch.Tensor) -> torch.Tensor:
        return own(self, x) if float(x.abs().max()) < 1e9 else x

    monkeypatch.setattr(mlp, "forward", asks)
    plain.become(1.0)
    live.become(1.0)
    batch = probe_of(True, False, True, vocabulary=VOCABULARY)
    [mine], [expected] = live.logits([batch]), plain.logits([batch])
    assert torch.equal(mine, expected)
    assert live.model.layers.about["compiled"] is False


def test_one_size_that_fails_later_does_not_change_the_others(
    tiny_model: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole pass of that size is computed by the model's own code, now and ever after."""
    plain, live = Live([tiny_model("Llama")], False), Live([tiny_model("Llama")])
    plain.become(1.0)
    live.become(1.0)
    fine, odd = (
        batch_rows(rows_of(1, 3, n, 0), [0] * 3, batch_tokens=99, vocabulary=VOCABULARY,
                   sharing=Sharing(limit=0))
        for n in (8, 9)
    )  # fmt: skip
    live.logits(fine)
    last, calls = live.model.layers._code[-1], []

    def code(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(hidden.shape[1])
        if hidden.shape[1] == 9:
            raise RuntimeError("more graphs than may be")
        return last(hidden, *args, **kwargs)

    live.model.layers._code[-1] = code
    for _ in range(2):
        [mine], [expected] = live.logits(odd), plain.logits(odd)
        assert torch.equal(mine, expected)
        live.logits(fine)
    assert calls == [9, 8, 8]
    assert live.model.layers.about["compiled"] is True
    assert capfd.readouterr().err.count("for batches of some sizes") == 1


def test_too_many_graphs_are_an_error_of_the_compiler_only(
    tiny_model: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, live = Live([tiny_model("Llama")], False), Live([tiny_model("Llama")])
    plain.become(1.0)
    live.become(1.0)
    monkeypatch.setattr(layers, "MOST_GRAPHS", 1)
    batches = many_batches(live.model.sharing)
    for mine, expected in zip(live.logits(batches), plain.logits(batches), strict=True):
        assert torch.allclose(mine, expected, atol=1e-5, rtol=1e-5)
    assert graphs() == 1
    assert live.model.layers.about["compiled"] is True
    assert "Limit" in live.model.layers.about["compiled_why"]


def test_graphs_do_not_keep_a_model(tiny_model: Save) -> None:
    live = Live([tiny_model("Llama")])
    live.become(1.0)
    live.logits([probe_of(False, False, False, vocabulary=VOCABULARY)])
    module, flat = weakref.ref(live.model.module), weakref.ref(live.flat)
    del live
    gc.collect()
    assert (module(), flat()) == (None, None)


@pytest.mark.parametrize(
    ("setting", "kind", "plain", "expected"),
    [
        (True, "one", False, True),
        (False, "one", False, False),
        (True, "one", True, False),
        (True, "tensor", False, False),
        (True, "zero3", False, False),
        (True, "zero3-offload", False, False),
    ],
)
def test_when_layers_are_compiled(setting: bool, kind: str, plain: bool, expected: bool) -> None:
    found, why = wanted(setting, kind, plain=plain)
    assert found is expected
    assert why
