"""What a study has cost: candidates, item evaluations, tokens, operations, seconds, energy.

Sums of what workers wrote beside each evaluation; answers are not read, so the sealed split's costs
are in it too. The search, its baselines, the finals and the descents stand apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.db import Database, Row
from services.studies import read
from services.studies.propose import BASELINES
from services.studies.record import Study

#: of a forward pass, for each parameter and token (Kaplan et al. 2020, 2001.08361, section 2.1)
FLOPS_EACH = 2


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What was measured of the energy, and of how much of the work."""

    #: evaluations that carry a measurement, of those that have ended
    measured: int
    ended: int
    kwh: float
    gco2e: float
    #: distinct sources of the carbon intensity, and ways of measuring
    sources: tuple[str, ...]
    how: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a study's work."""

    #: evaluations handed out to be carried out, by how they ended
    started: int = 0
    finished: int = 0
    stopped: int = 0
    failed: int = 0
    #: attempts beyond the first of each; what they cost is known only where a suite was finished
    retries: int = 0
    items: int = 0
    tokens: int = 0
    #: about 2 · parameters · tokens; attention and the head's share are not counted apart
    flops: float = 0.0
    #: wall seconds inside the engine, by phase: form, compile, score, digest, and descend; forward
    #: passes lie inside score. Of candidates that were stopped early nobody knows
    phases: dict[str, float] = field(default_factory=dict)
    #: wall seconds for which a worker held them (last attempts), fetching and waiting included
    worker_seconds: float = 0.0
    #: largest of all; None where no engine said
    peak_memory_bytes: int | None = None
    #: None where nothing was measured
    energy: Energy | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One trial on all splits."""

    number: int
    role: str
    label: str
    #: of each split that it was asked on
    states: dict[str, str]
    cost: Part


@dataclass(frozen=True, kw_only=True)
class StudyCost:
    """Everything; the parts add up to `total`."""

    study: int
    parameters: int
    #: search (candidates on the search split), baselines (the same), validation, test, descents;
    #: those of other roles, such as probes, by role
    parts: dict[str, Part]
    total: Part
    #: `read.racing_saved`; None where candidates are not raced
    racing: Row | None
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def of_study(database: Database, study: Study) -> StudyCost:
    """The cost of a study so far."""
    parameters = study.pool.members[0].parameters
    rows = database.rows("cost.evaluations", study=study.id)
    descents = [_as_row(one) for one in database.rows("descents.of_study", study=study.id)]
    by_part: dict[str, list[Row]] = {"search": [], "baselines": []}
    for one in rows:
        by_part.setdefault(_part_of(one), []).append(one)
    if descents:
        by_part["descents"] = descents
    trials: dict[int, list[Row]] = {}
    for one in rows:
        trials.setdefault(one["number"], []).append(one)
    raced = study.spec.search.racing is not None
    return StudyCost(
        study=study.id,
        parameters=parameters,
        parts={name: _part(found, parameters) for name, found in by_part.items()},
        total=_part([*rows, *descents], parameters),
        racing=read.racing_saved(database, study.id) if raced else None,
        candidates=tuple(
            Candidate(
                number=number,
                role=found[0]["role"],
                label=found[0]["label"],
                states={one["split"]: one["state"] for one in found},
                cost=_part(found, parameters),
            )
            for number, found in trials.items()
        ),
    )


def _part_of(one: Row) -> str:
    if one["role"] not in (*BASELINES, "greedy", "warm", "search"):
        return str(one["role"])
    if one["split"] != "search":
        return str(one["split"])
    return "search" if one["role"] in ("warm", "search") else "baselines"


def _as_row(descent: Row) -> Row:
    """A descent as an evaluation's row: a pass forwards and backwards counts as three forwards."""
    cost = dict(descent["cost"])
    read_items = cost.get("items", 0) + cost.get("taught", 0)
    passes = cost.get("passes", 3 * cost.get("items", 0) + cost.get("taught", 0))
    begun, ended = descent["started_at"], descent["finished_at"]
    return {
        "state": descent["state"],
        "attempt": descent["attempt"],
        "items": passes,
        "tokens": cost.get("tokens", 0),
        "times": passes / read_items if read_items else 1.0,
        "cost": {**cost, "phases": {"descend": cost.get("seconds", 0.0)}},
        "seconds": (ended - begun).total_seconds() if begun and ended and ended >= begun else None,
    }


def _part(rows: Sequence[Row], parameters: int) -> Part:
    states = [one["state"] for one in rows]
    phases: dict[str, float] = {}
    for one in rows:
        for name, seconds in (one["cost"].get("phases") or {}).items():
            if name != "total":
                phases[name] = phases.get(name, 0.0) + float(seconds)
    memory = [one["cost"].get("peak_memory_bytes") or 0 for one in rows]
    return Part(
        started=sum(one["attempt"] > 0 for one in rows),
        finished=states.count("complete"),
        stopped=states.count("stopped"),
        failed=states.count("failed") + states.count("abandoned"),
        retries=sum(max(one["attempt"] - 1, 0) for one in rows),
        items=sum(one["items"] for one in rows),
        tokens=sum(one["tokens"] for one in rows),
        flops=float(
            sum(FLOPS_EACH * parameters * one["tokens"] * one.get("times", 1.0) for one in rows)
        ),
        phases=phases,
        worker_seconds=sum(one["seconds"] or 0.0 for one in rows),
        peak_memory_bytes=max(memory, default=0) or None,
        energy=_energy(rows),
    )


def _energy(rows: Iterable[Row]) -> Energy | None:
    ended = [one for one in rows if one["state"] in ("complete", "stopped")]
    found: list[Mapping[str, Any]] = [
        one["cost"]["energy"] for one in ended if one["cost"].get("energy")
    ]
    if not found:
        return None
    return Energy(
        measured=len(found),
        ended=len(ended),
        kwh=sum(float(one["kwh"]) for one in found),
        gco2e=sum(float(one["gco2e"]) for one in found),
        sources=tuple(dict.fromkeys(str(one["source"]) for one in found)),
        how=tuple(dict.fromkeys(str(one["how"]) for one in found)),
    )
