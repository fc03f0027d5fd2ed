"""How far to trust the figures: split by split, what is wrong with the study, who saw the test."""

from __future__ import annotations

from services.report import words
from services.report.blocks import Block, Cell, Facts, Section, Table, Text
from services.report.material import Material, metric_of
from services.report.pool import number
from services.studies import certainty, sealed
from services.studies.read import CandidateView

#: readings of the test split that are listed; the others are counted
MOST_READINGS = 8


def section(material: Material) -> Section:
    """Splits side by side, findings, readings of the test split."""
    blocks: list[Block] = [
        _splits(material),
        *_optimism(material),
        *_findings(material),
        *_inherited(material),
        *_readings(material),
    ]
    return Section(name="uncertainty", title="How far to trust this", blocks=blocks)


def _splits(material: Material) -> Table:
    """The candidate's numbers on every split that may be read: what shrinks was luck."""
    study = material.study
    names = [("macro", "")] if len(study.scored) > 1 else []
    names += [("score", s.name) for s in study.suites if len(study.scored) < 2 or s.form == "text"]
    names += [("negative_flip_rate", ""), ("churn", "")] if study.scored else []
    rows: list[list[Cell]] = []
    for split, found in _views(material).items():
        reference = next(c for c in found if c.trial.role == "reference")
        mine = next((c for c in found if c.trial.number == material.number), None)
        if mine is None:
            continue
        for name, suite in names:
            text = bool(suite) and study.form(suite) == "text"
            metric = metric_of(mine, name, suite)
            old = number(metric_of(reference, name, suite), text=text)
            row = [words.metric(name, suite), split, None if metric is None else metric.n]
            rows.append([*row, old, number(metric, text=text)])
    order = {words.metric(*name): index for index, name in enumerate(names)}
    rows.sort(key=lambda row: order[str(row[0])])
    return Table(
        columns=["what", "split", "n", study.reference, material.name],
        rows=rows,
        title="Split by split",
        note="The searcher sees the search split and the choice is made on validation, so the best "
        "values there are lucky ones too. 95 % intervals of each model by itself.",
    )


def _views(material: Material) -> dict[str, list[CandidateView]]:
    found = {"search": list(material.search)}
    if material.validation:
        found["validation"] = list(material.validation)
    if material.split == "test":
        found["test"] = list(material.found)
    return found


def _optimism(material: Material) -> list[Block]:
    """By how much the best of many is flattered by having been chosen."""
    split = material.open_split
    found = certainty.optimism(material.database, material.study, split)
    if found is None or found.candidates < 2:
        return []
    free = material.split == "test" and material.chosen
    test = " The figures of the test split are free of that." if free else ""
    return [Text(text=f"{found.line}{test}")]


def _findings(material: Material) -> list[Block]:
    # what the candidate has from its parents is said more exactly below
    own = {one.leakage.suite for one in material.inherited}
    found = [f for f in material.findings if not (f.kind == "leakage" and own)]
    if not found:
        return [Text(text="Nothing was found wrong with the study.")]
    facts = [
        (finding.kind, words.sentence(finding.what) + _mend(finding.mend)) for finding in found
    ]
    return [Text(text="What was found about the study:"), Facts(facts=facts)]


def _inherited(material: Material) -> list[Block]:
    """Suites that parents of the candidate may have seen, the worst first for each."""
    rows: list[list[Cell]] = [
        [
            one.leakage.suite,
            one.parent,
            words.weight(one.weight),
            f"{', '.join(one.leakage.signs)}: {one.leakage.what}",
        ]
        for one in material.inherited
    ]
    if not rows:
        return []
    return [
        Table(
            columns=["suite", "parent", "weight", "signs"],
            rows=rows,
            title="Suites that its parents may have seen",
            note="A merge inherits what its parents have seen: judge these suites by items that "
            "were written later, or leave such checkpoints out.",
        )
    ]


def _mend(mend: str) -> str:
    return f" {words.sentence(mend)}" if mend else ""


def _readings(material: Material) -> list[Block]:
    """How often the test split was opened and what for, this reading included."""
    found = sealed.readings(material.database, material.study.id)
    if not found:
        return [Text(text="The test split has not been opened.")]
    elsewhere = sealed.opened_elsewhere(material.database, material.study.id)
    other = (
        f" It was also open to studies {', '.join(map(str, elsewhere))}: what they chose may have "
        "been chosen by it."
        if elsewhere
        else ""
    )
    hidden = len(found) - MOST_READINGS
    earlier = f"; the last {MOST_READINGS} of them" if hidden > 0 else ""
    rows: list[list[Cell]] = [
        [words.moment(r["at"]), r["purpose"], r["trials"]] for r in found[-MOST_READINGS:]
    ]
    return [
        Table(
            columns=["when", "what for", "candidates"],
            rows=rows,
            title=f"The test split was opened {words.many(len(found), 'time')}{earlier}",
            note="The search and the choice come before the first." + other,
        )
    ]
