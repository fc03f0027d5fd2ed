"""Problems to compare searchers on, each with the items a search may see and others held out.

`digits`: a small network for scikit-learn's 8 × 8 digits and 12 fine-tunes of it, each on another
transformation; microseconds a candidate. `synthetic`: margins that are quadratic in the weights,
so that the best trade-offs are known. `skilled`: skills that are linear in the weights less a
penalty on distance, with so many held-out items that they are as good as the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from optim.search import Axis, Bound, ItemSuite, Observation, Question
from optim.search.baselines import single_weights, uniform
from optim.search.forecast import forecast
from optim.space import Space

#: margins of all items for one weight vector, on the searched split (0) or the held-out one (1)
Margins = Callable[[tuple[float, ...], int], np.ndarray]


#: share of the reference's right answers that may be lost where that is a constraint
FLIPS = 0.03
MACRO = Axis(metric="macro")
#: what may be asked of a testbed
CASES = ("suites", "macro", "macro, few flips", "macro and flips", "four suites")


@dataclass(frozen=True)
class Testbed:
    """A pool of n parents, of which `reference` is deployed, and suites of 0/1 items."""

    name: str
    n: int
    reference: int
    #: suite of every item, on both splits; suite after suite
    suites: tuple[np.ndarray, np.ndarray]
    margins: Margins
    #: one of `CASES`
    case: str = "suites"
    simplex: bool = False

    @property
    def space(self) -> Space:
        """The affine box of a study's defaults, or the simplex."""
        return Space.simplex(self.n) if self.simplex else Space.affine(self.n)

    @property
    def objectives(self) -> int:
        """How many."""
        return len(self.question.axes)

    @cached_property
    def question(self) -> Question:
        """What is asked, of the searched items."""
        return self._question(0)

    def _question(self, split: int) -> Question:
        """Scores of suites, or the macro average of all and how many right answers are lost."""
        of_item = self.suites[split]
        right = self.margins(single_weights(self.n, self.reference), split) > 0
        suites = tuple(
            ItemSuite(name=f"s{i}", form="choice", reference=right[of_item == i])
            for i in range(int(of_item.max()) + 1)
        )
        bound = Bound(metric="negative_flip_rate", suites=("",), limit=FLIPS, sign=1.0)
        if self.case == "macro":
            return Question(suites=suites, axes=(MACRO,))
        if self.case == "macro, few flips":
            return Question(suites=suites, axes=(MACRO,), bounds=(bound,))
        if self.case == "macro and flips":
            flips = Axis(metric="negative_flip_rate", sign=1.0)
            return Question(suites=suites, axes=(MACRO, flips))
        asked = suites[:4] if self.case == "four suites" else suites
        axes = tuple(Axis(metric="score", suite=suite.name) for suite in asked)
        return Question(suites=suites, axes=axes)

    def judged(self, weights: tuple[float, ...], split: int) -> tuple[tuple[float, ...], float]:
        """Objectives, minimised, and violation of a candidate."""
        question = self.question if split == 0 else self._question(split)
        right = (self.margins(weights, split) > 0)[None].astype(float)
        values, violation = forecast(question, right, None)
        return tuple(values[0].tolist()), float(violation[0])

    def observe(self, slot: str, weights: tuple[float, ...]) -> Observation:
        """What evaluating a candidate on the searched items gives."""
        found = self.margins(weights, 0)
        old = self.margins(single_weights(self.n, self.reference), 0)
        values, violation = self.judged(weights, 0)
        return Observation(
            slot=slot,
            weights=weights,
            values=values,
            violation=violation,
            state="complete",
            signal=found.astype(np.float16).astype(np.float32),
            changed=(found > 0) != (old > 0),
        )

    @cached_property
    def baselines(self) -> list[Observation]:
        """Every checkpoint alone and the uniform soup."""
        rows = [*(single_weights(self.n, i) for i in range(self.n)), uniform(self.n)]
        return [self.observe(f"base.{i}", row) for i, row in enumerate(rows)]


def digits(seed: int = 0, parents: int = 12, suites: int = 5) -> Testbed:
    """Fine-tunes of one network on transformed digits; suites are the first transformations.

    The network (64-48-10, tanh) is trained on plain digits and then, per branch, on a mixture in
    which one transformation prevails; the first branch is the deployed one.
    """
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(seed)
    data = load_digits()
    pixels, labels = data.data / 16.0, data.target
    order = rng.permutation(len(labels))
    train, seen, held = order[:800], order[800:1300], order[1300:]
    ways = list(_transformations(rng))

    base = MLPClassifier(
        (48,), activation="tanh", learning_rate_init=3e-3, random_state=seed, batch_size=64
    )
    for _ in range(60):
        base.partial_fit(pixels[train], labels[train], classes=np.arange(10))
    branches = []
    for branch in range(parents):
        model = MLPClassifier(
            (48,), activation="tanh", learning_rate_init=2e-3, random_state=seed, batch_size=64
        )
        model.partial_fit(pixels[train[:64]], labels[train[:64]], classes=np.arange(10))
        model.coefs_ = [c.copy() for c in base.coefs_]
        model.intercepts_ = [c.copy() for c in base.intercepts_]
        own = rng.choice(train, size=300, replace=False)
        for _ in range(25):
            mixed = np.concatenate([ways[branch % len(ways)](pixels[own]), pixels[own[:60]]])
            model.partial_fit(mixed, np.concatenate([labels[own], labels[own[:60]]]))
        branches.append(model.coefs_ + model.intercepts_)

    splits = []
    for rows in (seen, held):
        changed = [way(pixels[rows]) for way in ways[:suites]]
        splits.append((np.concatenate(changed), np.tile(labels[rows], suites)))
    of_item = tuple(np.repeat(np.arange(suites), len(rows)) for rows in (seen, held))

    @cache
    def margins(weights: tuple[float, ...], split: int) -> np.ndarray:
        w1, w2, b1, b2 = (
            np.tensordot(np.asarray(weights), np.stack(part), axes=1)
            for part in zip(*branches, strict=True)
        )
        x, y = splits[split]
        return _margin(np.tanh(x @ w1 + b1) @ w2 + b2, y)

    return Testbed(f"digits{seed}", parents, 0, of_item, margins)  # type: ignore[arg-type]


def _transformations(rng: np.random.Generator) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Of images [k, 64] with values from 0 to 1."""
    from scipy import ndimage

    def turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: ndimage.rotate(
            x.reshape(-1, 8, 8), degrees, axes=(2, 1), reshape=False, order=1
        ).reshape(len(x), 64)

    def moved(down: float, right: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: ndimage.shift(x.reshape(-1, 8, 8), (0, down, right), order=1).reshape(
            len(x), 64
        )

    noise = rng.normal(0, 0.35, size=(5000, 64))
    mask = rng.random(64) < 0.3
    yield moved(0, 1)
    yield turned(35)
    yield lambda x: x + noise[: len(x)]
    yield moved(1, -1)
    yield turned(-35)
    yield lambda x: np.where(mask, 0.0, x)
    yield moved(-1, 0)
    yield lambda x: ndimage.gaussian_filter(x.reshape(-1, 8, 8), (0, 1, 1)).reshape(len(x), 64)
    yield lambda x: np.clip(x * 3, 0, 1)
    yield moved(1, 1)
    yield lambda x: x * 0.4
    yield lambda x: x


def _margin(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Log-probability of gold minus that of the best other class."""
    rows = np.arange(len(gold))
    right = logits[rows, gold]
    logits[rows, gold] = -np.inf
    return right - logits.max(axis=1)


def synthetic(seed: int = 0, parents: int = 12, suites: int = 3, items: int = 300) -> Testbed:
    """Every suite has an optimum of its own near the simplex; margins fall with the square of the
    distance from it, in a metric of the suite, plus a slope of each item's own."""
    rng = np.random.default_rng(seed)
    space = Space.affine(parents)
    optima = [
        space.coordinates(space.project(rng.dirichlet(np.full(parents, 0.3)) * 1.4))
        for _ in range(suites)
    ]
    metrics = [rng.gamma(1.0, 1.0, size=parents - 1) for _ in range(suites)]
    splits = []
    for _ in range(2):
        difficulty = rng.normal(-0.6, 0.8, size=(suites, items))
        slopes = rng.normal(0, 0.35, size=(suites, items, parents - 1))
        splits.append((difficulty, slopes))

    @cache
    def margins(weights: tuple[float, ...], split: int) -> np.ndarray:
        z, (difficulty, slopes) = space.coordinates(weights), splits[split]
        rows = []
        for suite in range(suites):
            gap = z - optima[suite]
            height = 1.2 - 1.6 * float(metrics[suite] @ gap**2)
            rows.append(height + difficulty[suite] + slopes[suite] @ gap)
        return np.concatenate(rows)

    of_item = np.repeat(np.arange(suites), items)
    return Testbed(f"synthetic{seed}", parents, 0, (of_item, of_item), margins)


def skilled(
    seed: int = 0, parents: int = 12, suites: int = 5, items: int = 250, held_out: int = 4000
) -> Testbed:
    """The margin of an item is its suite's skill at w, plus an own part, plus a tilt along w; skill
    is linear in w less a penalty on distance, so scores saturate. Parent 0 is deployed, good at
    everything; the first parents are each the best at one suite."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(-0.8, 0.1, size=(suites, parents))
    skill[np.arange(suites), np.arange(suites)] = rng.uniform(0.3, 0.8, size=suites)
    skill[:, 0] = rng.uniform(0.0, 0.4, size=suites)
    splits = []
    for size in (items, held_out):
        own = rng.normal(size=(suites, size))
        splits.append((own, 0.6 * rng.normal(size=(suites, size, parents))))

    # not kept: 160 KB for every candidate on the held-out items
    def margins(weights: tuple[float, ...], split: int) -> np.ndarray:
        w, (own, tilt) = np.array(weights), splits[split]
        level = skill @ w + 0.5 * (1 - float(w @ w))
        return np.asarray(level[:, None] + own + tilt @ w).ravel()

    of_item = tuple(np.repeat(np.arange(suites), size) for size in (items, held_out))
    return Testbed(f"skilled{seed}", parents, 0, of_item, margins)  # type: ignore[arg-type]
