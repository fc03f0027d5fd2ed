"""A finding: one thing that is wrong, or worth knowing, with its mend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that somebody should know."""

    #: short name, stable; of a study: no-gain, at-the-edge, within-noise, constraint, saturated,
    #: twins, too-small, searcher, about (nothing is wrong: how the searcher does); of a suite:
    #: twins, repeated, conflict, gives-away, constant, position, too-small; leakage
    kind: str
    what: str
    #: empty where nothing is to be mended
    mend: str

    @property
    def line(self) -> str:
        """For people."""
        return f"! {self.what}. {self.mend}." if self.mend else f"{self.what}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
