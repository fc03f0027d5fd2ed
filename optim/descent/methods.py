"""The two searches with gradients by the name a study spec gives them, each describing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optim.descent.job import GRAINS
from optim.search.options import Option, read_options

DIRECTIONS = Option(
    name="directions",
    doc="how many descents there are, each with another preference among the objectives; each "
    "gives one candidate",
    kind="integer",
    default=8,
    minimum=1,
    maximum=1000,
)
BATCH = Option(
    name="batch",
    doc="items of each suite in a step",
    kind="integer",
    default=16,
    minimum=1,
    maximum=4096,
)


@dataclass(frozen=True, kw_only=True)
class DescentMethod:
    """What a form shows of a method, and what a study spec may set under search.options."""

    name: str
    summary: str
    options: tuple[Option, ...]

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its given or default value; ValueError names what cannot be."""
        return read_options(self.name, self.options, given)


GRADIENT = DescentMethod(
    name="gradient",
    summary="goes down a loss of the suites' items, once for every preference among the objectives",
    options=(
        DIRECTIONS,
        Option(
            name="loss",
            doc="supervised: cross-entropy of the right answer; entropy: how undecided the model "
            "is, which needs no right answers (AdaMerging)",
            kind="choice",
            default="supervised",
            choices=("supervised", "entropy"),
        ),
        Option(
            name="grain",
            doc="what has weights of its own: the whole model, every layer, every kind of module, "
            "every column of every tensor",
            kind="choice",
            default="model",
            choices=GRAINS,
        ),
        Option(
            name="start",
            doc="where every descent starts: the uniform soup, or the best baseline",
            kind="choice",
            default="uniform",
            choices=("uniform", "best"),
        ),
        Option(
            name="steps",
            doc="steps of a descent; unset: once through all items",
            kind="integer",
            default=60,
            minimum=1,
            maximum=100_000,
        ),
        BATCH,
        Option(
            name="rate",
            doc="learning rate of Adam at the first step, in units of a weight; it falls linearly",
            kind="number",
            default=0.02,
            minimum=1e-6,
            maximum=1.0,
        ),
    ),
)

DAM = DescentMethod(
    name="dam",
    summary="one coefficient per column: the merge imitates the best checkpoint of each suite",
    options=(
        Option(
            name="directions",
            doc="how many descents there are, each with another preference among the suites; each "
            "gives one candidate",
            kind="integer",
            default=1,
            minimum=1,
            maximum=1000,
        ),
        Option(
            name="steps",
            doc="steps of a descent; unset: once through all items",
            kind="integer",
            default=None,
            minimum=1,
            maximum=100_000,
        ),
        BATCH,
        Option(
            name="rate",
            doc="learning rate of Adam at the first step; it falls linearly",
            kind="number",
            default=1e-3,
            minimum=1e-6,
            maximum=1.0,
        ),
        Option(
            name="temperature",
            doc="both distributions are softened by it before they are compared",
            kind="number",
            default=2.0,
            minimum=0.1,
            maximum=20.0,
        ),
        Option(
            name="similarity",
            doc="weight of the mean pairwise cosine of the checkpoints' coefficients",
            kind="number",
            default=0.01,
            minimum=0.0,
        ),
        Option(
            name="mse",
            doc="weight of the mean squared difference of the logits",
            kind="number",
            default=0.0,
            minimum=0.0,
        ),
        Option(
            name="l1",
            doc="weight of the mean absolute coefficient",
            kind="number",
            default=0.0,
            minimum=0.0,
        ),
        Option(
            name="l2",
            doc="weight of the mean squared coefficient",
            kind="number",
            default=0.0,
            minimum=0.0,
        ),
    ),
)

#: name -> method
DESCENTS: dict[str, DescentMethod] = {method.name: method for method in (GRADIENT, DAM)}
