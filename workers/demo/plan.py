"""What the demo trains: the model's shape, the first stage and the branches that leave it.

Step counts are fixed, so that a seed gives the same pool; they were chosen to take well under
three minutes on two cores. Every branch sees little or nothing of some tasks and forgets them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

REFERENCE, EARLY = "deployed", "early"
#: raise it when a change of code changes what the same plan trains
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of training; `parent` None starts from random weights."""

    name: str
    parent: str | None
    #: task -> share of the examples
    mixture: Mapping[str, float]
    steps: int
    lr: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages of a pool, in order: the first is the reference, the others branch off."""

    stages: tuple[Stage, ...]
    #: share of the first stage's steps after which the early snapshot is taken
    early: float = 0.4
    hidden_size: int = 80
    intermediate_size: int = 216
    layers: int = 4
    heads: int = 5
    #: examples in one step
    batch: int = 128

    def digest(self, versions: Mapping[str, str]) -> str:
        """SHA-256 hex of everything the pool depends on: plan, code version, data packages."""
        said = {"version": VERSION, "plan": asdict(self), "packages": dict(versions)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def scaled(self, first_steps: int) -> Plan:
        """The same plan with that many steps in the first stage, branches in proportion."""
        share = first_steps / self.stages[0].steps
        return replace(
            self,
            stages=tuple(replace(s, steps=max(1, round(s.steps * share))) for s in self.stages),
        )


def demo_plan(seed: int = 0) -> Plan:
    """A multi-task model, then seven branches of other mixtures, learning rates and seeds.

    Two leave the early snapshot: poor alone, and off the others' path, as in a team's real pool.
    """
    tasks = ("language", "stress", "syllables", "class", "inflection")
    first = Stage(
        name=REFERENCE,
        parent=None,
        mixture=dict.fromkeys(tasks, 1.0),
        steps=500,
        lr=3e-3,
        seed=seed,
    )
    stages = [first]
    branches: tuple[tuple[str, str, tuple[str, ...], float], ...] = (
        ("languages", REFERENCE, ("language",), 2.0e-3),
        ("stresses", REFERENCE, ("stress",), 1.5e-3),
        ("syllables", REFERENCE, ("syllables",), 1.5e-3),
        ("classes", REFERENCE, ("class",), 2.0e-3),
        ("inflections", REFERENCE, ("inflection",), 2.0e-3),
        ("early-classes", EARLY, ("class", "language"), 3.0e-3),
        ("early-inflections", EARLY, ("inflection", "syllables"), 3.0e-3),
    )
    for number, (name, parent, own, lr) in enumerate(branches, start=1):
        stages.append(
            Stage(
                name=name,
                parent=parent,
                mixture={task: 0.9 / len(own) if task in own else 0.02 for task in tasks},
                steps=110,
                lr=lr,
                seed=100 * seed + number,
            )
        )
    return Plan(stages=tuple(stages))
