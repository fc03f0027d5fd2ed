"""Names beside digests are comments: whatever they hold, the recipe that is read is the same."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from optim.recipe import Group, Recipe
from services.merging import read_merge
from services.recipe_yaml import recipe_yaml

PARENTS = ("a" * 64, "1" * 64, "3e5" + "0" * 61)
#: what could be taken for a line of the file
LURES = ("weights:", "x\nweights:\n- 1.0", "a" * 90 + " weights: - 1.0", "# b", "'", "\u2028- 1")
texts = st.text(min_size=1) | st.sampled_from(LURES)


def recipe_of(name: str) -> Recipe:
    return Recipe(
        parents=PARENTS,
        weights=(0.5, -0.25, 0.75),
        groups=(Group(layers=(0, 3), names=(name,), weights=(1.0, 0.0, 1e-9)),),
        columns={"weights": ((0.1, 0.2), (0.3, 0.4), (0.6, 0.4))},
    )


@given(st.lists(texts, min_size=3, max_size=3), texts)
@example([LURES[1], LURES[3], LURES[5]], LURES[2])
def test_no_name_changes_what_is_read(names: list[str], group: str) -> None:
    recipe = recipe_of(group)
    written = recipe_yaml(recipe, dict(zip(PARENTS, names, strict=True)))
    assert Recipe.from_dict(yaml.safe_load(written)) == recipe


def test_every_list_of_one_entry_a_parent_says_whose_it_is(tmp_path: Path) -> None:
    recipe = recipe_of("mlp")
    written = recipe_yaml(recipe, {PARENTS[0]: "deployed", PARENTS[2]: "two\n lines"})
    assert f"- {PARENTS[0]}  # deployed\n- '{PARENTS[1]}'\n- {PARENTS[2]}" in written
    assert "weights:\n- 0.5  # deployed\n- -0.25\n- 0.75  # two lines\n" in written
    assert "  weights:\n  - 1.0  # deployed\n  - 0.0\n  - 1.0e-09  # two lines\n" in written
    (tmp_path / "recipe.yaml").write_text(written)
    found = read_merge(tmp_path / "recipe.yaml")
    assert found.names == PARENTS
    assert found.parts([])[0] == recipe.weights
