"""Where it comes from and how to make it again: digests, seeds, versions, recipe, commands."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from optim.recipe import Recipe
from services.recipe_yaml import recipe_yaml
from services.report import words
from services.report.blocks import Block, Code, Facts, Section, Text
from services.report.material import Material
from services.version import code_version


def section(material: Material) -> Section:
    """No path of any machine: checkpoints are named by their digests."""
    study, about, detail = material.study, material.about, material.detail
    weights = sorted({e["weights_digest"] for e in detail["evaluations"] if e["weights_digest"]})
    facts = [
        ("Study", f"{study.id}, {study.name}: {study.state}"),
        ("Trial", str(material.number)),
        ("Recipe", detail["recipe_digest"]),
        ("Weights that were evaluated", ", ".join(weights)),
        *[("Published checkpoint", a["digest"]) for a in _published(material)],
        ("Pool", f"{study.pool.name} {about['pool_digest']}"),
        ("Seed", str(study.spec.search.seed)),
        ("Submitted", f"{words.moment(about['created_at'])}, by Remelt {about['code_version']}"),
        ("Ended", words.moment(about["finished_at"])),
        ("This page", f"{words.moment(material.made_at)}, by Remelt {code_version()}"),
    ]
    digests = [f"{m.digest}  checkpoint {m.name}" for m in study.pool.members]
    digests += [f"{suite.digest}  suite {suite.name}" for suite in study.suites]
    spec = study.spec.model_dump(mode="json", exclude_defaults=True)
    return Section(
        name="provenance",
        title="Provenance",
        blocks=[
            Facts(facts=facts),
            Code(title="Take it home", text=_commands(material), language="sh"),
            recipe_block(
                Recipe.from_dict(detail["recipe_data"]),
                {m.digest: m.name for m in study.pool.members},
            ),
            Code(title="study.yaml", text=_yaml(spec), language="yaml", folded=True),
            Code(title="Digests (SHA-256)", text="\n".join(digests), folded=True),
        ],
    )


def recipe_block(recipe: Recipe, names: Mapping[str, str]) -> Block:
    """The recipe to copy; weights of every column would be as long as the model is wide."""
    if recipe.columns:
        count = words.many(len(recipe.columns), "tensor")
        text = f"The recipe has weights of every column for {count}: remelt cast writes it out."
        return Text(text=text)
    text = recipe_yaml(recipe, names)
    return Code(title="recipe.yaml", text=text, language="yaml", folded=True)


def _published(material: Material) -> list[dict[str, str]]:
    return [a for a in material.detail["artefacts"] if a["state"] == "published"]


def _commands(material: Material) -> str:
    study, trial = material.study.id, material.number
    lines = [] if _published(material) else [f"remelt publish {study} {trial}"]
    lines += [
        "# fetch it, every file verified",
        f"remelt pull {study}/{trial} OUT",
        "# make the same bytes again",
        f"remelt merge recipe.yaml OUT --pool {material.study.pool.name}",
        "# run the whole study again",
        "remelt study submit study.yaml --wait",
    ]
    return "\n".join(lines)


def _yaml(data: object) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
