"""A recipe as YAML for people: digests say which parent, comments say its name.

The comments are for the eye only. What is read back is the same recipe, with or without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import yaml

from optim.recipe import Recipe

#: keys whose lists have one entry per parent: the recipe's own and each group's
_LISTS = re.compile(r"^( *)(?:parents|weights):$")


def recipe_yaml(recipe: Recipe, names: Mapping[str, str]) -> str:
    """What `Recipe.from_dict` and `remelt merge` read. `names` by digest; a parent without one
    stands without a comment."""
    # a text that is wrapped could begin a line like a list's
    lines = yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=math.inf).split("\n")[:-1]
    comments = [_comment(names.get(parent, "")) for parent in recipe.parents]
    return "\n".join(_commented(lines, comments)) + "\n"


def _commented(lines: list[str], comments: list[str]) -> Iterator[str]:
    start, left = "", iter(comments)
    for line in lines:
        if found := _LISTS.match(line):
            start, left = f"{found[1]}- ", iter(comments)
        elif start and line.startswith(start):
            line += next(left, "")
        else:
            start = ""
        yield line


def _comment(name: str) -> str:
    """On one line, whatever the name holds."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return f"  # {shown}" if shown else ""
