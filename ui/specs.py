"""Writing a study spec in a browser: the example to start from, and which line an error is about.

Pure text; checking a spec is done by `services.spec` and `services.studies.preflight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from services.db import Row
from services.spec import METHODS

EXAMPLE = """\
name: better-and-quiet
pool: {pool}  # reference: {reference}
suites: [{suites}]
objectives:                     # the axes of the front
{objectives}
# a candidate that breaks a constraint is greyed and never chosen:
# constraints:
#   - {{metric: negative_flip_rate, suite: each, max: 0.05}}
#   - {{suite: {kept}, at_most_worse: 0.02}}  # than the reference
search:
  method: margin-surrogate      # one of those listed below
  space: affine                 # or simplex (none negative), or task
  # groups: {{layers: 4}}         # stretches of layers apart; or kinds
  parallelism: 8                # candidates handed out at a time
  # racing: {{}}                  # stop early what is certainly no good
budget:
  trials: 60                    # candidates; the baselines come on top
  # item_evaluations: 200000    # or so many answers, baselines too
  finalists: 8                  # re-scored on validation and test
# publish: {{to: store}}          # publish the chosen one at the end
"""
_COMMENT = re.compile(r"\s#.*$")
#: suites in the example at most
MOST_SUITES = 8


def example(pools: Sequence[Row], suites: Sequence[Row]) -> str:
    """A sensible spec over the newest pool and the registered suites."""
    scored = [s["name"] for s in suites if s["form"] != "text"]
    names = (scored + [s["name"] for s in suites if s["form"] == "text"])[:MOST_SUITES]
    if len(scored) > 1:
        objectives = ["macro", "negative_flip_rate"]
    elif scored:
        objectives = [scored[0], "negative_flip_rate"]
    else:
        objectives = names[:1]
    pool = pools[-1] if pools else {"name": "my-pool", "reference": "deployed"}
    # what must not get worse: rather what is safe than anything else
    safety = [s["name"] for s in suites if s["form"] == "refusal"]
    text = EXAMPLE.format(
        kept=(safety or names or ["my-suite"])[0],
        pool=pool["name"],
        reference=pool["reference"],
        suites=", ".join(names or ["my-suite"]),
        objectives="\n".join(f"  - {name}" for name in objectives or ["my-suite"]),
    )
    return "\n".join(_aligned(line) for line in text.splitlines()) + "\n"


def methods() -> str:
    """Every search method and its options, as Markdown."""
    lines = []
    for name, kind in METHODS.items():
        lines.append(f"- **{name}** {kind.summary}")
        for option in kind.options:
            default = "" if option.default is None else f" (default {_written(option.default)})"
            lines.append(f"    - `{option.name}`{default}: {option.doc}")
    return "\n".join(lines)


def _written(value: object) -> str:
    """A default as it would stand in YAML."""
    return (
        yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
        .removesuffix("...\n")
        .strip()
    )


def _aligned(line: str) -> str:
    """Comments behind values, of lines that are commented out too, start in one column."""
    value, sep, comment = line.rpartition("  #")
    return f"{value.rstrip():<26}  #{comment}" if sep and value.strip() else line


def with_values(text: str, section: str, values: Mapping[str, Any]) -> str:
    """A spec's text with some keys of a section ('' for the spec itself) set, and those whose value
    is None taken out.

    Everything else stays as it is written, comments too. Raises yaml.YAMLError for text that is no
    YAML mapping.
    """
    for key, value in values.items():
        text = _with_value(text, section, key, value)
    return text


def _with_value(text: str, section: str, key: str, value: Any) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise yaml.YAMLError("the spec is no mapping")
    head, node = next(((k, v) for k, v in root.value if k.value == section), (None, None))
    node = node if section else root
    new = "" if value is None else f"{key}: {_flow(value)}"
    if not isinstance(node, yaml.MappingNode):
        lines = text.rstrip().splitlines()
        at = len(lines) if head is None else head.start_mark.line
        # an empty section has its own line already
        lines[at : at + 1] = [f"{section}:", f"  {new}"]
        return "\n".join(lines) + "\n" if new else text
    if node.flow_style:
        data = yaml.safe_load(text)
        data = (data[section] if section else data) | {key: value}
        data = {k: v for k, v in data.items() if v is not None}
        return text[: node.start_mark.index] + _flow(data) + text[node.end_mark.index :]
    lines = text.splitlines()
    indent = " " * node.start_mark.column
    found = next(((k, v) for k, v in node.value if k.value == key), None)
    if found is None:
        # a section's first keys stand at its head, the spec's own ones behind its last
        at = node.start_mark.line if section else _end(lines, len(lines))
        lines[at:at] = [indent + new] if new else []
        return "\n".join(lines) + "\n"
    first, last = found[0].start_mark.line, found[1].end_mark
    # a block ends where the next key begins, anything else on a line of its own
    end = last.line if last.line > first and last.column <= len(indent) else last.line + 1
    end = max(first + 1, _end(lines, end))
    comment = _COMMENT.search(lines[first]) if end == first + 1 else None
    line = f"{indent + new:<26}  {comment[0].strip()}" if comment else indent + new
    lines[first:end] = [line] if new else []
    return "\n".join(lines) + "\n"


def _end(lines: Sequence[str], end: int) -> int:
    """Without the empty lines and comments that stand between a value and what follows it."""
    while end > 0 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _flow(value: Any) -> str:
    """A value on one line, without YAML's end of document."""
    # quoted with escapes where it has lines: everything stays on one
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    dumped = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, width=10_000, sort_keys=False
    )
    return dumped.removesuffix("...\n").strip()


def field_of(where: str) -> str:
    """`search.method` of an error's `spec: search.method`; '' when it names no field."""
    _, _, field = where.partition(": ")
    return field.strip()


def line_of(text: str, field: str) -> int | None:
    """The line (from 1) of a spec's text that a field like `objectives.0.suite` stands on, or of
    the nearest part of it that is written; None when nothing of it is."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    line: int | None = None
    for part in field.split("."):
        found = _inside(node, part)
        if found is None:
            break
        line, node = found
    return line


def _inside(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        child = node.value[int(part)]
        return child.start_mark.line + 1, child
    return None


def yaml_line(where: str) -> int | None:
    """The line of a YAML error, from `spec line 4`."""
    found = re.search(r"line (\d+)", where)
    return int(found.group(1)) if found else None
