"""An engine of two ranks against one of a single rank: same predictions, same published digest.

Tiny random models of several architectures, each scored by both ways to spread a model. A started
group takes pool after pool, as it does in a worker.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from optim.merge import linear_, weights_digest
from optim.recipe import Group, Recipe
from services.checkpoints import read_checkpoint
from services.errors import BadInput, TrialRejected
from services.settings import Settings
from services.suites import Item, Suite
from tests.plugins.shuffled import Shuffled
from workers.engine.client import Engine, Stopped, SuiteResult
from workers.engine.connection import Aborted

pytestmark = pytest.mark.timeout(300)
LETTERS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz =."]
WEIGHTS = (0.7, 0.4, -0.1)


@dataclass(frozen=True)
class Case:
    """A config, and how `auto` spreads its model."""

    name: str
    config: dict[str, Any]
    auto: str = "tensor"


def case(name: str, model_type: str, auto: str = "tensor", **more: Any) -> Case:
    sizes = {
        "vocab_size": len(LETTERS), "hidden_size": 48, "intermediate_size": 75,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8,
        "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "initializer_range": 0.3,
    }  # fmt: skip
    config = {"model_type": model_type, **sizes, **more}
    return Case(name, {k: v for k, v in config.items() if v is not None}, auto)


CASES = [
    # three pairs of heads over two ranks; 75 columns over two ranks
    case("llama-tied", "llama", tie_word_embeddings=True),
    case("llama-biased", "llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    # more than one grain of 64 columns in the output layer: only they are then on both ranks
    case("llama-wide", "llama", hidden_size=96, head_dim=16, tie_word_embeddings=True),
    # one rank has no head at all
    case("llama-one-kv", "llama", num_key_value_heads=1, tie_word_embeddings=False),
    case("qwen2", "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
    case("qwen3", "qwen3", tie_word_embeddings=True),
    case("mistral", "mistral", sliding_window=8),
    case("gemma", "gemma", num_key_value_heads=2),
    case("gemma3", "gemma3_text", sliding_window=8, sliding_window_pattern=2),
    case("opt", "opt", num_attention_heads=3, num_key_value_heads=None, ffn_dim=70),
    case("gpt2", "gpt2", auto="zero3", n_embd=48, n_layer=2, n_head=4, n_positions=64),
    # three experts, stacked in one tensor that two ranks cut through the middle of the second
    case("mixtral", "mixtral", "zero3", intermediate_size=72, num_local_experts=3),
]  # fmt: skip


def write_pool(root: Path, config: dict[str, Any]) -> list[tuple[str, Path]]:
    """Three random checkpoints, and the tokenizer of single letters."""
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(LETTERS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        for parameter in model.parameters():
            # also what is made as zeros and ones, so that every bias and every norm counts
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
        folder = root / str(seed)
        model.save_pretrained(folder)
        wrapped.save_pretrained(folder)
        members.append((read_checkpoint(folder).digest, folder))
    return members


def make_suites() -> list[Suite]:
    rng = np.random.default_rng(3)

    def word() -> str:
        return "".join(rng.choice(list("abcdefgh"), rng.integers(2, 7)))

    items: dict[str, list[Item]] = {"choice": [], "exact": [], "text": []}
    for number in range(12):
        name = str(number)
        choices = (" n", " p", f" {word()}")
        items["choice"].append(Item(id=name, context=f"{word()} =", choices=choices, gold=1))
        items["exact"].append(Item(id=name, prompt=f"{word()} =", target=f" {word()}"))
        items["text"].append(Item(id=name, text=f"{word()} {word()}"))
    return [Suite(name=form, form=form, items=tuple(many)) for form, many in items.items()]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """One engine of a single rank, and two of two ranks."""
    folder = tmp_path_factory.mktemp("engines")
    made = {}
    for name, ranks in (("one", 1), ("auto", 2), ("zero3", 2)):
        wanted = "auto" if name == "one" else name
        settings = Settings(
            home=folder, engine_device="cpu", engine_ranks=ranks, engine_parallel=wanted
        )
        made[name] = Engine(settings, log_dir=folder / name)
    yield made
    for engine in made.values():
        engine.close()


def run(
    engine: Engine, members: list[tuple[str, Path]], suites: list[Suite], dtype: str = "float32"
) -> tuple[str, dict[str, SuiteResult]]:
    engine.load(members, dtype)
    results: dict[str, SuiteResult] = {}
    recipe = Recipe(parents=tuple(d for d, _ in members), weights=WEIGHTS, dtype=dtype)
    done = engine.evaluate(
        recipe, suites, None, on_suite=lambda result: results.update({result.suite: result})
    )
    return done.weights_digest, results


def check_same(one: dict[str, SuiteResult], many: dict[str, SuiteResult]) -> None:
    assert one.keys() == many.keys()
    for name, alone in one.items():
        a, b = alone.predictions, many[name].predictions
        assert a.items == b.items
        assert a.texts == b.texts
        if a.answer is not None:
            assert np.array_equal(a.answer, b.answer)
        if alone.margins is not None:
            assert many[name].margins == pytest.approx(alone.margins, abs=1e-3)
        if a.nll is not None:
            assert b.nll == pytest.approx(a.nll, abs=1e-3)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_two_ranks_find_what_one_finds(
    engines: dict[str, Engine], tmp_path: Path, one: Case
) -> None:
    members, suites = write_pool(tmp_path, one.config), make_suites()
    digest, alone = run(engines["one"], members, suites)
    files = [load_file(folder / "model.safetensors") for _, folder in members]
    merged = {}
    for name in read_checkpoint(members[0][1]).tensors:
        flat = torch.empty(files[0][name].numel())
        linear_(flat, [file[name].flatten() for file in files], WEIGHTS)
        merged[name] = flat.view(files[0][name].shape)
    assert digest == weights_digest(merged.items())
    for kind in ("auto", "zero3"):
        found, results = run(engines[kind], members, suites)
        assert engines[kind].about["parallel"] == (one.auto if kind == "auto" else "zero3")
        assert found == digest
        check_same(alone, results)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    return write_pool(tmp_path_factory.mktemp("pool"), CASES[0].config)


@pytest.mark.parametrize("kind", ["auto", "zero3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_candidates_that_are_stored_narrow(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str, dtype: str
) -> None:
    suites = make_suites()
    digest, alone = run(engines["one"], members, suites, dtype)
    found, results = run(engines[kind], members, suites, dtype)
    assert found == digest
    check_same(alone, results)


@pytest.mark.parametrize("kind", ["auto", "zero3"])
def test_ranks_stop_together_and_go_on(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str
) -> None:
    engine, suites = engines[kind], make_suites()
    digest, before = run(engine, members, suites)
    pid, recipe = engine.pid, Recipe(parents=tuple(d for d, _ in members), weights=WEIGHTS)
    long = [Suite(name=f"s{i}", form=s.form, items=s.items) for i, s in enumerate(suites * 60)]
    with pytest.raises(Aborted):
        engine.evaluate(recipe, long, None, on_tick=lambda progress: progress.phase != "score")
    again, after = run(engine, members, suites)
    assert again == digest
    check_same(before, after)
    assert engine.pid == pid


@pytest.mark.parametrize("kind", ["auto", "zero3"])
def test_what_one_rank_refuses_all_refuse(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str, tmp_path: Path
) -> None:
    engine, suites = engines[kind], make_suites()
    digest, _ = run(engine, members, suites)
    pid = engine.pid
    tensors = load_file(members[0][1] / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    spoilt = {}
    # the first values are rank 0's, the last ones rank 1's: each alone finds its infinity
    for where, row in (("first", 0), ("last", -1)):
        folder = tmp_path / where
        shutil.copytree(members[0][1], folder)
        bad = tensors[name].clone()
        bad[row] = 3e38
        save_file(tensors | {name: bad}, folder / "model.safetensors", metadata={"format": "pt"})
        spoilt[where] = [(read_checkpoint(folder).digest, folder)]
    for pool in spoilt.values():
        engine.load(pool, "float32")
        recipe = Recipe(parents=(pool[0][0],), weights=(9.0,))
        with pytest.raises(TrialRejected, match=f"tensor '{name}' is not finite"):
            engine.evaluate(recipe, suites, None)
        # not even the rank whose part was finite takes the candidate for held
        with pytest.raises(TrialRejected, match=f"tensor '{name}' is not finite"):
            engine.respond(recipe, [("loglikelihood", "a", " b")])
        with pytest.raises(TrialRejected, match="is not finite"):
            engine.evaluate(Recipe(parents=(pool[0][0],), weights=(1.0,)), suites, None)
    with pytest.raises(BadInput, match="not in the resident pool"):
        engine.evaluate(Recipe(parents=(members[0][0],), weights=(1.0,)), suites, None)
    assert run(engine, members, suites)[0] == digest
    assert engine.pid == pid


def test_a_layout_that_cannot_be_had(
    engines: dict[str, Engine], members: list[tuple[str, Path]], tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path, engine_device="cpu", engine_ranks=2, engine_parallel="tensor"
    )
    config = next(case.config for case in CASES if case.name == "gpt2")
    gpt2 = write_pool(tmp_path / "gpt2", config)
    with Engine(settings, log_dir=tmp_path) as engine:
        with pytest.raises(BadInput, match="not known to compute 'gpt2' right"):
            engine.load(gpt2, "float32")
        engine.load(members, "float32")
        about = engine.about
        assert (about["ranks"], about["parallel"]) == (2, "tensor")
        assert about["parallel_why"] == "it was asked for"


@pytest.mark.parametrize("ranks", [1, 3])
def test_offloaded_to_the_host(
    engines: dict[str, Engine], members: list[tuple[str, Path]], tmp_path: Path, ranks: int
) -> None:
    settings = Settings(
        home=tmp_path, engine_device="cpu", engine_ranks=ranks, engine_parallel="zero3-offload"
    )
    suites = make_suites()
    digest, alone = run(engines["one"], members, suites)
    with Engine(settings, log_dir=tmp_path) as engine:
        found, results = run(engine, members, suites)
        assert engine.about["parallel"] == "zero3-offload"
    assert found == digest
    check_same(alone, results)


@pytest.mark.parametrize("kind", ["auto", "zero3"])
def test_tensors_that_are_the_same_in_all_parents(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str, tmp_path: Path
) -> None:
    """They are gathered and hashed once, and again when a recipe has changed them."""
    frozen = load_file(members[0][1] / "model.safetensors")
    pool = [members[0]]
    for number, (_, folder) in enumerate(members[1:]):
        tensors = load_file(folder / "model.safetensors")
        kept = {name: t for name, t in frozen.items() if "layers.1" not in name}
        shutil.copytree(folder, tmp_path / str(number))
        save_file(
            tensors | kept, tmp_path / f"{number}/model.safetensors", metadata={"format": "pt"}
        )
        pool.append((read_checkpoint(tmp_path / str(number)).digest, tmp_path / str(number)))
    suites = make_suites()[:1]
    for engine in (engines["one"], engines[kind]):
        engine.load(pool, "float32")
        assert "0 of" not in engine.about["pool"]
    for weights in (*[(0.5, 0.3, 0.2), (0.1, 0.2, 0.7)] * 2, (0.9, 0.9, 0.9), (0.5, 0.3, 0.2)):
        recipe = Recipe(parents=tuple(digest for digest, _ in pool), weights=weights)
        digests, results = set(), []
        for name in ("one", kind):
            found: list[SuiteResult] = []
            done = engines[name].evaluate(recipe, suites, None, on_suite=found.append)
            digests.add(done.weights_digest)
            results.append({result.suite: result for result in found})
        assert len(digests) == 1
        check_same(*results)


class StopsAfter(Shuffled):
    """Says stop after so many blocks."""

    def __init__(self, blocks: int, suites: list[str]) -> None:
        super().__init__(1, suites)
        self.blocks = blocks

    def block(self, number: int, arrays: Mapping[str, np.ndarray]) -> bool:
        return super().block(number, arrays) and number + 1 < self.blocks


@pytest.mark.parametrize("kind", ["auto", "zero3"])
def test_blocks_come_in_one_order_and_all_ranks_stop_together(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str
) -> None:
    suites = make_suites()
    scored = [suite.name for suite in suites if suite.form != "text"]
    recipe = Recipe(parents=tuple(d for d, _ in members), weights=WEIGHTS, dtype="float32")
    _, whole = run(engines["one"], members, suites)
    orders = []
    for name in ("one", kind):
        engines[name].load(members, "float32")
        with pytest.raises(Stopped) as stopped:
            engines[name].evaluate(recipe, suites, None, race=StopsAfter(3, scored))
        assert stopped.value.tokens > 0
        race, found = Shuffled(7, scored), list[SuiteResult]()
        engines[name].evaluate(recipe, suites, None, race=race, on_suite=found.append)
        orders.append(race.drawn)
        check_same({suite.name: whole[suite.name] for suite in suites},
                   {result.suite: result for result in found})  # fmt: skip
    assert orders[0] == orders[1]


@pytest.mark.parametrize("kind", ["auto", "zero3"])
def test_weights_of_their_own_for_groups_and_columns(
    engines: dict[str, Engine], members: list[tuple[str, Path]], kind: str
) -> None:
    rng = np.random.default_rng(0)
    shapes = {n: t.shape for n, t in load_file(members[0][1] / "model.safetensors").items()}
    # cut by rows, by columns, not at all
    names = [
        f"model.layers.0.{n}.weight" for n in ("mlp.up_proj", "mlp.down_proj", "input_layernorm")
    ]
    recipe = Recipe(
        parents=tuple(digest for digest, _ in members),
        weights=WEIGHTS,
        groups=(Group(weights=(0.2, 0.2, 0.6), kinds=("attention",)),),
        columns={n: tuple(map(tuple, rng.random((3, shapes[n][-1])))) for n in names},
    )
    digests = set()
    for name in ("one", kind):
        engines[name].load(members, "float32")
        digests.add(engines[name].evaluate(recipe, make_suites()[:1], None).weights_digest)
    assert len(digests) == 1
