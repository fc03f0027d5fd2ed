"""Problems to compare searchers on, each with the items a search may see and others held out.

`digits`: a small network for scikit-learn's 8 × 8 digits and 12 fine-tunes of it, each on another
transformation; microseconds a candidate. `synthetic`: margins that are quadratic in the weights,
so that the best trade-offs are known. `Stories`: a pool of checkpoints through the real engine.
Objectives are accuracies, minimised as their negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from optim.search import Axis, ItemSuite, Observation, Question
from optim.search.baselines import single_weights
from optim.space import Space

#: margins of all items for one weight vector, on the searched and on the held-out split
Margins = Callable[[tuple[float, ...]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Testbed:
    """A pool of n parents, of which `reference` is deployed, and suites of 0/1 items."""

    name: str
    n: int
    reference: int
    #: suite of every item, on both splits
    suites: tuple[np.ndarray, np.ndarray]
    margins: Margins

    @property
    def space(self) -> Space:
        """The affine box of a study's defaults."""
        return Space.affine(self.n)

    @property
    def objectives(self) -> int:
        """One for each suite."""
        return int(self.suites[0].max()) + 1

    def question(self) -> Question:
        """The score of every suite."""
        right = self.margins(single_weights(self.n, self.reference))[0] > 0
        suites = tuple(
            ItemSuite(name=f"s{i}", form="choice", reference=right[self.suites[0] == i])
            for i in range(self.objectives)
        )
        return Question(
            suites=suites, axes=tuple(Axis(metric="score", suite=s.name) for s in suites)
        )

    def values(self, margins: np.ndarray, split: int) -> tuple[float, ...]:
        """Minus the accuracy of every suite."""
        suites, right = self.suites[split], margins > 0
        return tuple(-float(right[suites == i].mean()) for i in range(self.objectives))

    def observe(self, slot: str, weights: tuple[float, ...]) -> Observation:
        """What evaluating a candidate on the searched items gives."""
        found = self.margins(weights)[0]
        old = self.margins(single_weights(self.n, self.reference))[0]
        return Observation(
            slot=slot,
            weights=weights,
            values=self.values(found, 0),
            state="complete",
            signal=found.astype(np.float16).astype(np.float32),
            changed=(found > 0) != (old > 0),
        )

    def baselines(self) -> list[Observation]:
        """Every checkpoint alone and the uniform soup."""
        rows = [single_weights(self.n, i) for i in range(self.n)] + [(1 / self.n,) * self.n]
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
    def margins(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        w1, w2, b1, b2 = (
            np.tensordot(np.asarray(weights), np.stack(part), axes=1)
            for part in zip(*branches, strict=True)
        )
        return tuple(_margin(np.tanh(x @ w1 + b1) @ w2 + b2, y) for x, y in splits)  # type: ignore[return-value]

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
    def margins(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        z = space.coordinates(weights)
        found = []
        for difficulty, slopes in splits:
            rows = []
            for suite in range(suites):
                gap = z - optima[suite]
                height = 1.2 - 1.6 * float(metrics[suite] @ gap**2)
                rows.append(height + difficulty[suite] + slopes[suite] @ gap)
            found.append(np.concatenate(rows))
        return found[0], found[1]

    of_item = np.repeat(np.arange(suites), items)
    return Testbed(f"synthetic{seed}", parents, 0, (of_item, of_item), margins)


class Stories:
    """A pool of checkpoints and choice suites through the real engine; use as a context."""

    def __init__(
        self, pool: Path, suites: Path, *, items: int, reference: str = "deployed"
    ) -> None:
        """`items`: at most so many of each suite, both splits together."""
        from services.checkpoints import read_checkpoint
        from services.suites import parse_suite

        folders = sorted(path.parent for path in pool.glob("*/config.json"))
        self._heads = [read_checkpoint(folder, check_values=False) for folder in folders]
        self._reference = [folder.name for folder in folders].index(reference)
        files = sorted(suites.glob("*.jsonl"))
        cut = {f: "\n".join(f.read_text().strip().split("\n")[:items]) for f in files}
        read = [parse_suite(file.stem, text, where=file.name) for file, text in cut.items()]
        self._suites = [suite for suite in read if suite.form == "choice"]

    def __enter__(self) -> Testbed:
        import tempfile

        from optim.recipe import Recipe
        from services.settings import Settings
        from workers.engine.client import Engine

        home = Path(tempfile.mkdtemp(prefix="remelt-bench-"))
        config = Settings(home=home, engine_device="cpu", engine_threads=1)
        engine = self._engine = Engine(config, log_dir=home)
        digests = tuple(head.digest for head in self._heads)
        engine.load([(h.digest, h.path) for h in self._heads], self._heads[0].dtype)

        @cache
        def margins_of(weights: tuple[float, ...], split: str) -> np.ndarray:
            recipe = Recipe(parents=digests, weights=weights, dtype=self._heads[0].dtype)
            found: dict[str, np.ndarray] = {}
            engine.evaluate(
                recipe, self._suites, split, on_suite=lambda r: found.update({r.suite: r.margins})
            )
            return np.concatenate([found[suite.name] for suite in self._suites])

        def margins(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
            return _Lazy(lambda i: margins_of(weights, ("search", "validation")[i]))  # type: ignore[return-value]

        of_item = tuple(
            np.repeat(np.arange(len(self._suites)), [len(s.split(split)) for s in self._suites])
            for split in ("search", "validation")
        )
        return Testbed("stories", len(digests), self._reference, of_item, margins)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        self._engine.kill()


class _Lazy:
    """A pair whose second half is evaluated when somebody asks for it."""

    def __init__(self, get: Callable[[int], np.ndarray]) -> None:
        self._get = get

    def __getitem__(self, index: int) -> np.ndarray:
        return self._get(index)
