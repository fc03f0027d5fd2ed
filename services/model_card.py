"""The model card of a cast checkpoint: what it was made of, and how to make it again.

A pure function of the recipe and the card's data: no dates, no local paths, so that the same
candidate has the same artefact digest wherever and whenever it is cast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from optim.recipe import Recipe
from services.mergekit import inexpressible, to_mergekit

#: more groups of tensors than this would make the table of weights too wide
MOST_GROUPS = 12
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")


def model_card(recipe: Recipe, weights_digest: str, card: Mapping[str, Any] | None = None) -> str:
    """Markdown with Hugging Face's front matter, naming every parent with its weight.

    `card` may hold study, study_number, trial, label, and parents: {digest: {name, uri}}.
    """
    card = card or {}
    parents: Mapping[str, Mapping[str, str]] = card.get("parents") or {}
    names = {digest: _name(digest, parents) for digest in recipe.parents}
    places = {digest: _place(parents.get(digest, {})) or names[digest] for digest in names}
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [merge, remelt]",
        "---",
        f"# {plain(_title(card))}",
        "",
        f"A linear combination of {len(recipe.parents)} checkpoints, found and measured by Remelt;"
        " no training was done.",
        "",
        *_table(recipe, names, parents),
        "",
        *_exceptions(recipe),
        f"- accumulated in float32, rounded once to {recipe.dtype}",
        f"- recipe `{recipe.digest}` (`recipe.yaml`)",
        f"- weights `{weights_digest}`: the SHA-256 of the tensors that were evaluated",
        "",
        *_mergekit(recipe, places),
        "Every file's SHA-256 is in `manifest.json`.",
    ]
    return "\n".join(lines) + "\n"


def _table(
    recipe: Recipe, names: Mapping[str, str], parents: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """A line for every parent; a column of weights for every group, and for all other tensors."""
    shown = recipe.groups if len(recipe.groups) <= MOST_GROUPS else ()
    head = [*(plain(group.label) for group in shown), "other tensors" if shown else "weight"]
    rows = [group.weights for group in shown] + [recipe.weights]
    places = [plain(_place(parents.get(parent, {}))) for parent in recipe.parents]
    places = places if any(places) else []
    lines = [
        ["parent", *head, "digest", *(["place"] if places else [])],
        ["---", *(["---:"] * len(rows)), "---", *(["---"] if places else [])],
    ]
    for number, parent in enumerate(recipe.parents):
        weights = [f"{row[number]:.9g}" for row in rows]
        end = places[number : number + 1]
        lines.append([plain(names[parent]), *weights, f"`{parent[:16]}`", *end])
    return [f"| {' | '.join(line)} |" for line in lines]


def _exceptions(recipe: Recipe) -> list[str]:
    """That not all tensors have the weights of the table."""
    parts = []
    if len(recipe.groups) > MOST_GROUPS:
        parts.append(f"{len(recipe.groups)} groups of tensors have weights of their own")
    if recipe.columns:
        parts.append(f"{len(recipe.columns)} tensors have weights per column")
    return [f"These are the weights of most tensors; {' and '.join(parts)}.", ""] if parts else []


def _mergekit(recipe: Recipe, places: Mapping[str, str]) -> list[str]:
    if what := inexpressible(recipe):
        return [f"mergekit cannot make it again: it has no word for {what}.", ""]
    return [
        "As a mergekit configuration (same formula; mergekit rounds at other places):",
        "",
        "```yaml",
        to_mergekit(recipe, places).rstrip(),
        "```",
        "",
    ]


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def _title(card: Mapping[str, Any]) -> str:
    title = str(card.get("study") or "Remelted model")
    if card.get("trial") is not None:
        title += f", trial {card['trial']}"
    return f"{title} ({card['label']})" if card.get("label") else title


def _name(digest: str, parents: Mapping[str, Mapping[str, str]]) -> str:
    return str(parents.get(digest, {}).get("name") or digest[:16])


def _place(parent: Mapping[str, str]) -> str:
    """Where others find a parent; a path on somebody's machine tells them nothing."""
    uri = str(parent.get("uri") or "")
    return uri if uri.startswith("s3://") else ""
