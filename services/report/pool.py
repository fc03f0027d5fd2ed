"""What there was to combine: every checkpoint by itself, and the plain average of all."""

from __future__ import annotations

from collections.abc import Sequence

from services.report import words
from services.report.blocks import Cell, Number, Section, Table, Unit
from services.report.material import Material, mean_score, metric_of
from services.studies.propose import BASELINES
from services.studies.read import CandidateView, Metric
from services.studies.record import StudySuite
from services.studies.space import mean_of

#: more suites than this would make the table too wide
MOST_SUITES = 8


def section(material: Material) -> Section:
    """A row for every baseline, the best mean score first."""
    study = material.study
    several = len(study.scored) > 1
    columns = ["model", *(["mean score"] if several else [])]
    columns += [suite.name for suite in _suites(material)]
    columns += [*(["negative flips", "churn"] if study.scored else []), "weight"]
    found = [c for c in material.found if c.trial.role in BASELINES]
    found.sort(key=mean_score, reverse=True)
    rows = [_row(material, c, several) for c in found]
    marked = [i for i, c in enumerate(found) if c.trial.role == "reference"]
    groups = " (mean of the groups)" if _groups(material) else ""
    note = (
        f"{material.split.capitalize()} split, {_items(material)}; 95 % intervals. Flips and churn "
        f"against {study.reference}. Weight: in {material.name}{groups}."
    )
    table = Table(columns=columns, rows=rows, note=note, marked=marked)
    return Section(name="pool", title="The pool", blocks=[table])


def _row(material: Material, candidate: CandidateView, several: bool) -> list[Cell]:
    study, trial = material.study, candidate.trial
    name = f"{trial.label} (reference)" if trial.role == "reference" else trial.label
    row: list[Cell] = [name]
    row += [number(metric_of(candidate, "macro"))] if several else []
    row += [
        number(metric_of(candidate, "score", s.name), text=s.form == "text")
        for s in _suites(material)
    ]
    if study.scored:
        row += [number(metric_of(candidate, name)) for name in ("negative_flip_rate", "churn")]
    weights = mean_of(study, material.candidate.trial.weights)
    named = dict(zip(study.pool.names, weights, strict=True))
    row.append(words.weight(named[trial.label]) if trial.role != "uniform" else None)
    return row


def _suites(material: Material) -> Sequence[StudySuite]:
    """Those with a column; none where there are so many that the table would be too wide."""
    suites = material.study.suites
    return suites if len(suites) <= MOST_SUITES or len(material.study.scored) < 2 else ()


def number(metric: Metric | None, *, text: bool = False) -> Number | None:
    """A stored metric as a cell; `text`: it is in nats per token."""
    if metric is None:
        return None
    unit: Unit = "nats" if text else "share"
    return Number(value=metric.value, low=metric.low, high=metric.high, n=metric.n, unit=unit)


def _groups(material: Material) -> bool:
    return len(set(material.candidate.trial.weights)) > len(material.study.pool.members)


def _items(material: Material) -> str:
    """`sst2 150, trec 149 items`."""
    answers = material.of(material.reference)
    return ", ".join(f"{s.name} {len(answers[s.name])}" for s in material.study.suites) + " items"
