"""The study spec: what a user writes (YAML or JSON) to ask a question of a pool.

Pure validation of the text; whether pools and suites exist is checked at submission. Unknown keys
are errors, and every message names the field, the value and the mend.
"""

from services.spec.measures import METRICS, REPORTED, WORSE, Constraint, Direction, Objective
from services.spec.search import BOUNDS, METHODS, Groups, Racing, Search
from services.spec.study import Budget, Judging, Publish, StudySpec, TextScore
from services.spec.text import load_spec, parse_spec, spec_from_dict, spec_yaml, written

__all__ = [
    "BOUNDS",
    "METHODS",
    "METRICS",
    "REPORTED",
    "WORSE",
    "Budget",
    "Constraint",
    "Direction",
    "Groups",
    "Judging",
    "Objective",
    "Publish",
    "Racing",
    "Search",
    "StudySpec",
    "TextScore",
    "load_spec",
    "parse_spec",
    "spec_from_dict",
    "spec_yaml",
    "written",
]
