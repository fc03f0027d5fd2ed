"""What a study says is wrong with it: each finding where it belongs, and none where all is well."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from optim.predictions import Predictions
from optim.search import METHODS, Observation
from optim.search.base import Remark
from optim.search.random import RandomSearch
from services import noise, stored_suites
from services.cli.front import front_data, print_front
from services.evaluations import Claim
from services.studies import health
from services.suites import Suite
from tests.plugins.studies import from_right, made_up

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = """
name: ill
pool: tiny
suites: [pick, say]
objectives: [macro, negative_flip_rate]
search: {method: random, space: simplex, parallelism: 4}
budget: {trials: 10, finalists: 3}
"""


def kinds(driver: Driver, number: int) -> list[str]:
    return [f.kind for f in health.findings(driver.database, driver.study(number))]


def searched(driver: Driver, text: str, answers: Callable[..., Predictions]) -> int:
    driver.answers = answers
    number = driver.submit(text)
    driver.run(number)
    return number


def by_weights(rule: Callable[[np.ndarray, int], np.ndarray]) -> Callable[..., Predictions]:
    """Answers that are right where rule(weights, n) says so."""

    def answers(held: Claim, suite: Suite) -> Predictions:
        items = suite.split(held.split)
        right = rule(np.array(held.recipe.weights), len(items))
        return from_right(suite, items, right, np.where(right, 1.0, -1.0))

    return answers


def share(portion: float, n: int) -> np.ndarray:
    """The first items are right."""
    return np.arange(n) < round(portion * n)


def test_a_study_says_nothing_before_it_has_searched(driver: Driver) -> None:
    number = driver.submit(SPEC)
    driver.run(number, evaluations_at_most=9)
    assert kinds(driver, number) == []


def test_a_search_that_beats_no_baseline(driver: Driver) -> None:
    # the purer, the better: no merge can beat the best single checkpoint
    number = searched(driver, SPEC, by_weights(lambda w, n: share(0.3 + 0.6 * w.max(), n)))
    found = health.findings(driver.database, driver.study(number))
    assert [f.kind for f in found] == ["no-gain"]
    assert "No candidate beats the best baseline" in found[0].what
    assert "validation" in found[0].what


def test_a_gain_that_may_be_chance_and_one_that_may_not(driver: Driver) -> None:
    def right(w: np.ndarray, n: int, more: float) -> np.ndarray:
        mixed = (w > 0).all() and w.max() > 0.3
        return share(0.4 + (more if mixed else 0), n)

    text = SPEC.replace("negative_flip_rate", "churn")
    spec = text.replace("objectives: [macro, churn]", "objectives: [macro]")
    small = searched(driver, spec, by_weights(lambda w, n: right(w, n, 1.2 / n)))
    assert kinds(driver, small) == ["within-noise", "saturated", "saturated"]
    (said,) = [f.what + f.mend for f in health.findings(driver.database, driver.study(small))
               if f.kind == "within-noise"]  # fmt: skip
    value, low = (float(said.split(word)[1].split()[0]) for word in ("by ", "(95 % "))
    times = ((value - low) / value) ** 2  # intervals shrink with the root of the items
    promised = re.search(r"about (\d+) times", said)
    assert promised is not None
    assert times <= int(promised[1]) < 1.1 * times + 2
    large = searched(driver, spec, by_weights(lambda w, n: right(w, n, 0.5)))
    assert kinds(driver, large) == []


@pytest.mark.parametrize(
    ("space", "edge"),
    [
        ("space: affine, bounds: [-0.2, 0.6]", True),
        ("space: affine, bounds: [-3, 3]", False),
        ("space: task, base: far, bounds: [0, 0.5]", True),
        ("space: simplex", False),
    ],
)
def test_an_optimum_at_the_edge(driver: Driver, space: str, edge: bool) -> None:
    """The more of `now` and the less of `left`, the better, as far as the space goes."""
    text = SPEC.replace("space: simplex", space).replace("trials: 10", "trials: 40")
    text = text.replace("method: random", "method: cma-es").replace("macro, negative", "macro")
    text = text.replace("[macro_flip_rate]", "[macro]")
    worth = by_weights(lambda w, n: share(0.3 + 0.2 * np.clip(w[0], -0.2, 1.4), n))
    number = searched(driver, text, worth)
    found = [f for f in health.findings(driver.database, driver.study(number))
             if f.kind == "at-the-edge"]  # fmt: skip
    assert bool(found) == edge
    if edge:
        assert "with now" in found[0].what
        assert "far" not in found[0].what.split("with")[1]


def test_constraints_that_nobody_meets(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    text = SPEC + "constraints: [{metric: score, suite: each, min: 0.99, confidence: null}]\n"
    number = searched(driver, text, made_up)
    found = health.findings(driver.database, driver.study(number))
    assert found[0].kind == "constraint"
    assert "score of " in found[0].what
    assert ">= 0.99" in found[0].what
    print_front(driver.database, number)
    assert f"! {found[0].what}. {found[0].mend}." in capsys.readouterr().out
    assert front_data(driver.database, number)["health"][0] == found[0].to_dict()


def test_constraints_that_nobody_meets_together(driver: Driver) -> None:
    def right(w: np.ndarray, n: int) -> np.ndarray:
        return np.ones(n, bool) if w[0] < 1 else np.zeros(n, bool)

    # right everywhere or the reference itself, which flips nothing
    text = SPEC + (
        "constraints: [{metric: macro, min: 0.5, confidence: null}, "
        "{metric: churn, max: 0.1, confidence: null}]\n"
    )
    number = searched(driver, text, by_weights(right))
    found = health.findings(driver.database, driver.study(number))
    assert "by none all of them" in found[0].what


def test_suites_that_tell_nobody_apart(driver: Driver) -> None:
    def answers(held: Claim, suite: Suite) -> Predictions:
        items = suite.split(held.split)
        if suite.name == "pick":
            return from_right(suite, items, np.ones(len(items), bool), np.ones(len(items)))
        return made_up(held, suite)

    number = searched(driver, SPEC, answers)
    found = [f for f in health.findings(driver.database, driver.study(number))
             if f.kind == "saturated"]  # fmt: skip
    assert [f.what for f in found] == ["Every candidate has more than 98 % of pick right"]


def test_no_more_changes_than_the_reference_against_itself(driver: Driver) -> None:
    number = searched(driver, SPEC, made_up)
    assert "within-noise" not in [
        f.kind for f in health.findings(driver.database, driver.study(number)) if "another way"
        in f.what
    ]  # fmt: skip
    study = driver.study(number)
    with driver.database.transaction() as connection:
        suite = stored_suites.suite_from_row(stored_suites.suite_row(connection, "pick"))
    how = {"usual": {"dtype": "float32"}, "other": {"dtype": "bfloat16"}}
    floor = noise.NoiseFloor(
        suite="pick", split="validation", variant="dtype", settings=how, n=10, changed=10,
        negative=5, positive=5, largest=1.0,
    )  # fmt: skip
    reference = next(m for m in study.pool.members if m.name == study.reference)
    noise.save(driver.database, reference.digest, suite, floor)
    found = health.findings(driver.database, study)
    assert any("no more than the reference computed in another way" in f.what for f in found)


def test_a_method_may_say_what_it_finds_wrong(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubtful(RandomSearch):
        def remarks(self, observations: Sequence[Observation]) -> list[Remark]:
            complete = sum(o.state == "complete" for o in observations)
            return [
                Remark(f"Nothing can be learnt from {complete} trials", wrong=True),
                Remark("It is quick", wrong=False),
            ]

    monkeypatch.setitem(METHODS, "random", Doubtful)
    number = searched(driver, SPEC, made_up)
    found = health.findings(driver.database, driver.study(number))
    said = {f.kind: (f.what, f.mend) for f in found if f.kind in ("searcher", "about")}
    assert said == {
        "searcher": ("Nothing can be learnt from 10 trials", "See docs/searchers.md"),
        "about": ("It is quick", ""),
    }
