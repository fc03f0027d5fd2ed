"""Specs as text: YAML or JSON read with messages that name the field, and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from services.errors import SpecRefused
from services.spec.measures import Constraint, Objective
from services.spec.study import StudySpec


def parse_spec(text: str, *, where: str = "spec") -> StudySpec:
    """Read a spec from YAML (JSON is YAML); raises SpecRefused naming the field and the mend."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if hasattr(error, "problem_mark") else ""
        raise SpecRefused("is not valid YAML", where=f"{where}{line}", mend=str(error)) from error
    if not isinstance(data, dict):
        raise SpecRefused(
            f"holds {type(data).__name__}, not a mapping",
            where=where,
            mend="Start with `name:`, `pool:` and `suites:`",
        )
    return spec_from_dict(data, where=where)


def spec_from_dict(data: dict[str, Any], *, where: str = "spec") -> StudySpec:
    """Validate parsed data; raises SpecRefused for the first broken field."""
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SpecRefused(
                "unknown key",
                where=f"{where}: {field}",
                mend="Remove it or check its spelling (remelt study schema lists all keys)",
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch" and field != "publish.to":
            message = "not a name: use a-z, 0-9, dot, dash, underscore; first a letter or digit"
        value = f" (given: {first['input']!r:.80})" if field and "input" in first else ""
        raise SpecRefused(f"{message}{value}", where=f"{where}: {field}".rstrip(": ")) from error


def load_spec(path: Path) -> StudySpec:
    """Read a spec file; raises SpecRefused."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecRefused("cannot be read", where=str(path), mend=str(error)) from error
    return parse_spec(text, where=str(path))


def spec_yaml(spec: StudySpec) -> str:
    """A spec as YAML that reads back equal; what is a default is left out."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    if spec.objectives:
        data["objectives"] = [_short(axis) for axis in spec.objectives]
    if spec.constraints:
        data["constraints"] = [written(part) for part in spec.constraints]
    return yaml.dump(data, Dumper=_SpecDumper, sort_keys=False, allow_unicode=True, width=100)


def _short(axis: Objective) -> str | dict[str, Any]:
    """`macro`, `churn:trec` or a suite's name, where that says all."""
    if Objective.model_validate(axis.label) == axis:
        return axis.label
    return written(axis)


def written(part: Objective | Constraint) -> dict[str, Any]:
    """An objective or constraint as it would be written; the metric is always named."""
    return {"metric": part.metric, **part.model_dump(mode="json", exclude_defaults=True)}


class _SpecDumper(yaml.SafeDumper):
    """Lists of plain values on one line, everything else in blocks."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        """A list; in flow style when it holds no mappings."""
        plain = all(not isinstance(one, dict | list) for one in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)
