"""A race that stops nothing: suites are scored in blocks, in an order drawn from its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optim.predictions import Predictions


class Shuffled:
    """Keeps the order that it was told, and checks that every block has its answers."""

    def __init__(self, seed: int, suites: Sequence[str]) -> None:
        self.seed, self.suites = seed, tuple(suites)
        self.drawn: list[tuple[str, tuple[int, ...]]] = []

    def order(self, drawn: Sequence[tuple[str, np.ndarray]]) -> None:
        self.drawn = [(name, tuple(items.tolist())) for name, items in drawn]

    def block(self, number: int, arrays: Mapping[str, np.ndarray]) -> bool:
        assert len(arrays["correct"]) == len(arrays["answer"]) == len(self.drawn[number][1])
        return True

    def suite(self, name: str, found: Predictions) -> bool:
        return True

    def items(self, suite: str) -> list[int]:
        """All items of a suite, in the order in which they came."""
        return [item for name, items in self.drawn for item in items if name == suite]
