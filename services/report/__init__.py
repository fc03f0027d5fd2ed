"""The report of a study: one page on which a person decides about a deployment.

A section is a module with `section(material)`, which returns plain data or None where it has
nothing to say; `SECTIONS` names them in order. Writers draw any of them.
"""

from __future__ import annotations

from pathlib import Path

from services.access import User
from services.db import Database
from services.report import (
    attribution,
    candidate,
    changes,
    cost,
    front,
    html,
    markdown,
    multiplicity,
    pool,
    provenance,
    question,
    safety,
    svg,
    uncertainty,
    verdict,
    words,
)
from services.report.blocks import Report
from services.report.material import Material, gather

#: a section more is a module more and a line more
SECTIONS = (
    verdict.section,
    question.section,
    pool.section,
    front.section,
    candidate.section,
    changes.section,
    safety.section,
    attribution.section,
    multiplicity.section,
    uncertainty.section,
    cost.section,
    provenance.section,
)


def build(
    database: Database,
    study: int,
    *,
    candidate: int | None = None,
    test: bool = True,
    purpose: str = "report",
    by: User | None = None,
) -> Report:
    """The report of a study's choice, or of another candidate. `test`: from the sealed split where
    the study has made its choice; one reading, logged with `purpose`
    and who reads it (`by`, None: the user of the operating system).

    Raises Forbidden, NotFound, BadInput where there are no results yet, and NoFeasibleCandidate.
    """
    return write(gather(database, study, candidate=candidate, test=test, purpose=purpose, by=by))


def write(material: Material) -> Report:
    """Every section that has something to say."""
    study = material.study
    made = (make(material) for make in SECTIONS)
    question = f"{material.name} instead of {study.reference}?"
    if material.keeps:
        question = f"keep {study.reference}?"
    return Report(
        title=f"{study.name}: {question}",
        subtitle=f"Study {study.id}, {words.moment(material.made_at)}. {_judged(material)}",
        sections=[section for section in made if section is not None],
    )


def _judged(material: Material) -> str:
    """Where the figures come from, and why not from test."""
    state = material.study.state
    if material.split == "test":
        return "Judged on the test split, which was sealed until the choice had been made."
    why = "the test split was left closed"
    if state in ("running", "paused"):
        why = "the study goes on, and the test split is sealed until it has made its choice"
    elif state != "finished":
        why = f"the study {state}"
    return f"Judged on the {material.split} split: {why}."


def save(report: Report, folder: Path) -> list[Path]:
    """Write index.html, which needs nothing else, and report.md with its plots; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": html.page(report), "report.md": markdown.page(report)}
    for plot in markdown.plots(report):
        drawn = svg.draw(plot)
        texts[f"{plot.name}.svg"] = drawn.replace("<svg ", f'<svg color="{html.IMAGE_TEXT}" ', 1)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
