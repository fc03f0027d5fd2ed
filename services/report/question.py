"""What was asked: pool, reference, suites, objectives, constraints, method, budget."""

from __future__ import annotations

from services.report import words
from services.report.blocks import Block, Facts, Section, Table, Text
from services.report.material import Material
from services.studies.space import labels_of

FORMS = {
    "choice": "multiple choice",
    "exact": "exact match",
    "text": "nats per token",
    "refusal": "refuse or comply",
}


def section(material: Material) -> Section:
    """Facts, and the suites with their sizes."""
    study, spec = material.study, material.study.spec
    search = spec.search
    groups = len(labels_of(study))
    low, high = search.box
    base = f" around {search.base or study.reference}" if search.space == "task" else ""
    space = f"{search.space} space{base}, weights {words.short(low)} to {words.short(high)}"
    space += f", {groups} groups of tensors" if groups > 1 else ""
    size = words.count(study.pool.members[0].parameters)
    directions = [
        words.objective(axis, study.direction(index)) for index, axis in enumerate(spec.axes)
    ]
    facts = [
        ("Pool", f"{study.pool.name}: {len(study.pool.members)} checkpoints of {size} parameters"),
        ("Reference", f"{study.reference}, the model that answers today"),
        ("Objectives", "; ".join(directions)),
        ("Constraints", "; ".join(map(words.constraint, spec.constraints)) or "none"),
        ("Method", f"{search.method}, {space}, seed {search.seed}"),
        ("Budget", ", ".join(material.summary["used"])),
        ("Finalists", f"{spec.budget.finalists} at most, re-scored on validation and test"),
    ]
    rows = [
        (s.name, FORMS[s.form], s.search_items, s.validation_items, s.test_items)
        for s in study.suites
    ]
    columns = ("suite", "form", "search items", "validation items", "test items")
    blocks: list[Block] = [Facts(facts=facts), Table(columns=columns, rows=rows, title="Suites")]
    notes = [Text(text=f"Notes: {spec.notes}")] if spec.notes.strip() else []
    return Section(name="question", title="The question", blocks=[*blocks, *notes])
