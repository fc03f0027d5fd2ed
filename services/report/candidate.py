"""The candidate itself: its weights, and its scores beside those of what else could be deployed."""

from __future__ import annotations

from services.report import paired, words
from services.report.blocks import Bars, Block, Cell, Plots, Section, Table
from services.report.material import Material, metric_of
from services.report.pool import number
from services.report.verdict import headline
from services.studies.space import mean_of, rows_of


def section(material: Material) -> Section:
    """Weights and scores."""
    title = "The chosen candidate" if material.chosen else "The candidate"
    blocks: list[Block] = [Plots(plots=[_weights(material)]), *_groups(material), _scores(material)]
    return Section(name="candidate", title=f"{title}: {material.name}", blocks=blocks)


def _weights(material: Material) -> Bars:
    study, weights = material.study, material.candidate.trial.weights
    groups = len(rows_of(study, weights))
    named = sorted(
        zip(study.pool.names, mean_of(study, weights), strict=True), key=lambda pair: -pair[1]
    )
    mean = f" (mean of {groups} groups of tensors)" if groups > 1 else ""
    return Bars(
        name="weights",
        title=f"Weights{mean}",
        bars=named,
        alt="; ".join(f"{name} {words.weight(value)}" for name, value in named),
    )


def _groups(material: Material) -> list[Block]:
    """Weights of every group of tensors, where there are several."""
    rows = rows_of(material.study, material.candidate.trial.weights)
    if len(rows) < 2:
        return []
    cells: list[list[Cell]] = [
        [label, *(words.weight(weight) for weight in row)] for label, row in rows.items()
    ]
    columns = ["tensors", *material.study.pool.names]
    return [Table(columns=columns, rows=cells, title="Weights of each group of tensors")]


def _scores(material: Material) -> Table:
    """Score of every suite and their mean: reference, best single, uniform soup, this one."""
    study = material.study
    others = [material.reference]
    for other in (material.single, material.uniform):
        if other is not None and other.trial.number not in {
            *(o.trial.number for o in others),
            material.number,
        }:
            others.append(other)
    shown = [*others, material.candidate]
    old, new = material.of(material.reference), material.of(material.candidate)
    rows: list[list[Cell]] = []
    for suite in study.suites:
        change = paired.difference(old[suite.name], new[suite.name], material.clusters[suite.name])
        text = suite.form == "text"
        cells = [number(metric_of(c, "score", suite.name), text=text) for c in shown]
        rows.append([suite.name, change.n, *cells, change])
    if len(study.scored) > 1:
        change = headline(material)
        cells = [number(metric_of(c, "macro")) for c in shown]
        rows.insert(0, ["mean score", change.n, *cells, change])
    heads = [
        c.trial.label + (" (best other checkpoint)" if c.trial.role == "single" else "")
        for c in others[1:]
    ]
    note = (
        f"{material.split.capitalize()} split; 95 % intervals, of changes paired on the same items."
    )
    if material.single in others:
        note += f" The best other checkpoint is that of the {material.open_split} split."
    return Table(
        columns=["suite", "n", f"{study.reference} (reference)", *heads, material.name,
                 f"change from {study.reference}"],
        rows=rows,
        title="Scores",
        note=note,
        marked=[0] if len(study.scored) > 1 else [],
    )  # fmt: skip
