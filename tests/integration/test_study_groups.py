"""Studies whose candidates have other weights in other parts of the model, with the real engine:
what is published is what was evaluated, and every tensor is the mix that the recipe says."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from optim.recipe import Recipe
from services.artefacts import cast_trial
from services.cli.front import weights_text
from services.errors import BadInput, SpecRefused
from services.settings import Settings
from services.studies.export import export_study
from services.studies.space import labels_of, rows_of
from workers.evaluation import EngineKeeper

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.studies import Driver

SPEC = """
name: parts
pool: tiny
suites: [pick, read]
search:
  {method: cma-es, space: affine, groups: {layers: 2, kinds: true}, parallelism: 4,
   options: {population: 4, sigma: 0.3}}
budget: {trials: 6, finalists: 2}
"""
NAMES = ("now", "left", "right", "far")


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[EngineKeeper]:
    """An engine of this process."""
    found = EngineKeeper(Settings(home=tmp_path, engine_device="cpu"))
    yield found
    found.drop()


def test_a_grouped_candidate_is_published_as_it_was_evaluated(
    driver: Driver,
    keeper: EngineKeeper,
    assert_invariants: AssertInvariants,
    tiny_pool: Path,
    tmp_path: Path,
) -> None:
    driver.keeper = keeper
    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    assert (study.state, study.failure) == ("finished", None)
    trials = driver.trials(number)
    assert {len(t.weights) for t in trials} == {5 * 4}
    assert_invariants(driver.database, number, driver.config)
    for baseline in [t for t in trials if t.role != "search"]:
        assert len(rows_of(study, baseline.weights)) == 1
    found = next(t for t in trials if t.role == "search")
    rows = rows_of(study, found.weights)
    assert list(rows) == [
        "attention, layer 0", "mlp, layer 0", "attention, layer 1", "mlp, layer 1", "the rest",
    ]  # fmt: skip
    # raises when a byte differs from what was measured
    cast_trial(driver.database, driver.config, found.id, tmp_path / "out")
    parents = [load_file(tiny_pool / "pool" / n / "model.safetensors") for n in NAMES]
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert set(made) == set(parents[0])
    for name, tensor in made.items():
        row = rows[group(name)]
        mixed = sum(w * p[name].double() for w, p in zip(row, parents, strict=True))
        assert torch.allclose(tensor.double(), mixed, atol=1e-6), name  # type: ignore[arg-type]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| parent | attention, layer 0 | mlp, layer 0 |" in card
    assert f"| now | {rows['attention, layer 0'][0]:.9g} |" in card


def group(tensor: str) -> str:
    """The name of the group that has a tensor."""
    kind = "attention" if "self_attn" in tensor else "mlp" if ".mlp." in tensor else ""
    return f"{kind}, layer {tensor.split('.')[2]}" if kind else "the rest"


def test_groups_are_shown_by_name(driver: Driver) -> None:
    number = driver.submit(SPEC.replace("{layers: 2, kinds: true}", "kinds"))
    driver.run(number)
    study = driver.study(number)
    assert labels_of(study) == ["attention", "mlp", "the rest"]
    lines = list(csv.DictReader(io.StringIO(export_study(driver.database, number, "csv").decode())))
    for line, trial in zip(lines, driver.trials(number), strict=True):
        shown = [float(line[f"weight:{n}:{label}"]) for label in labels_of(study) for n in NAMES]
        assert shown == list(trial.weights)
    found = next(t for t in driver.trials(number) if t.role == "search")
    mean = np.array(found.weights).reshape(3, 4).mean(axis=0)
    largest = NAMES[int(np.abs(mean).argmax())]
    text = weights_text(study, found.weights)
    assert text.startswith(f"{largest} {np.abs(mean).max():.2f}")
    assert text.endswith("(mean of 3 groups)")
    uniform = next(t for t in driver.trials(number) if t.role == "uniform")
    assert weights_text(study, uniform.weights) == "1/4 each"
    with pytest.raises(BadInput, match="groups by layer or module kind"):
        export_study(driver.database, number, "mergekit", trial=found.number)


def test_the_task_space_adds_differences_to_its_base(
    driver: Driver, assert_invariants: AssertInvariants
) -> None:
    text = SPEC.replace("space: affine, groups: {layers: 2, kinds: true}", "space: task, base: far")
    number = driver.submit(text)
    driver.run(number)
    assert_invariants(driver.database, number, driver.config)
    searched = [t for t in driver.trials(number) if t.role == "search"]
    assert len(searched) == 6
    for trial in searched:
        *others, base = trial.weights
        assert all(0 <= w <= 1 for w in others)
        assert base == pytest.approx(1 - sum(others))
    assert min(t.weights[-1] for t in searched) < 0 or max(t.weights[-1] for t in searched) > 0
    stored = driver.sql("SELECT recipe FROM trial WHERE id = %s", searched[0].id)[0]["recipe"]
    assert Recipe.from_dict(stored).weights == searched[0].weights


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers: 2", "layers: 3", "3 stretches of layers, but the model has 2 layers"),
        ("space: affine", "space: task, base: nobody", "search.base: 'nobody' is not in pool"),
        ("space: affine", "space: affine, bounds: [0.4, 0.9]", "search.bounds: .*cannot sum to 1"),
    ],
)
def test_what_does_not_fit_the_pool_is_refused(
    driver: Driver, old: str, new: str, message: str
) -> None:
    with pytest.raises(SpecRefused, match=message):
        driver.submit(SPEC.replace(old, new))
