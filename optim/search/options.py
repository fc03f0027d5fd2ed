"""Options of searchers, described once: validation, forms and docs all read them from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["integer", "number", "numbers", "points", "choice"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting of a searcher; None is allowed exactly where it is the default."""

    name: str
    #: one sentence for people; says what None means where it is allowed
    doc: str
    #: integer, number, a list of numbers, a list of weight vectors, or one of `choices`
    kind: Kind
    default: Any
    #: inclusive bounds of a number
    minimum: float | None = None
    maximum: float | None = None
    #: of a choice
    choices: tuple[str, ...] = ()

    def read(self, value: Any, *, where: str) -> Any:
        """The value in its Python form; ValueError naming `where` and the value otherwise."""
        if value is None and self.default is None:
            return None
        if self.kind == "integer" or self.kind == "number":
            return self._number(value, where)
        if self.kind == "choice":
            if value not in self.choices:
                raise ValueError(f"{where}: {value!r} is not one of {', '.join(self.choices)}")
            return value
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{where}: {value!r} is not a list")
        if self.kind == "numbers":
            return tuple(self._number(v, f"{where}[{i}]") for i, v in enumerate(value))
        return tuple(
            tuple(_finite(w, f"{where}[{i}][{j}]") for j, w in enumerate(point))
            for i, point in enumerate(value)
        )

    def _number(self, value: Any, where: str) -> float | int:
        number = _finite(value, where)
        if self.kind == "integer" and not isinstance(value, int):
            raise ValueError(f"{where}: {value!r} is not an integer")
        if self.minimum is not None and number < self.minimum:
            raise ValueError(f"{where}: {value} is below {self.minimum}")
        if self.maximum is not None and number > self.maximum:
            raise ValueError(f"{where}: {value} is above {self.maximum}")
        return int(value) if self.kind == "integer" else number


def _finite(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: {value!r} is not a finite number")
    return float(value)


def read_options(method: str, known: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every known option with its given or default value; an unknown name is a ValueError."""
    names = {option.name for option in known}
    unknown = sorted(set(given) - names)
    if unknown:
        raise ValueError(
            f"search.options.{unknown[0]}: {method} has no such option; it knows {sorted(names)}"
        )
    return {
        option.name: option.read(given[option.name], where=f"search.options.{option.name}")
        if option.name in given
        else option.default
        for option in known
    }
