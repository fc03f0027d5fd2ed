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

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")


def model_card(recipe: Recipe, weights_digest: str, card: Mapping[str, Any] | None = None) -> str:
    """Markdown with Hugging Face's front matter, naming every parent with its weight.

    `card` may hold study, study_number, trial, label, and parents: {digest: {name, uri}}.
    """
    card = card or {}
    parents: Mapping[str, Mapping[str, str]] = card.get("parents") or {}
    names = {digest: _name(digest, parents) for digest in recipe.parents}
    places = {digest: _place(parents.get(digest, {})) or names[digest] for digest in names}
    rows = [
        f"| {plain(names[parent])} | {weight:.9g} | `{parent[:16]}` |"
        + (f" {plain(_place(parents.get(parent, {})))} |" if _has_places(parents) else "")
        for parent, weight in zip(recipe.parents, recipe.weights, strict=True)
    ]
    place_head, place_rule = (" place |", " --- |") if _has_places(parents) else ("", "")
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
        f"| parent | weight | digest |{place_head}",
        f"| --- | ---: | --- |{place_rule}",
        *rows,
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


def _exceptions(recipe: Recipe) -> list[str]:
    """That not all tensors have the weights of the table."""
    parts = []
    if recipe.groups:
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


def _has_places(parents: Mapping[str, Mapping[str, str]]) -> bool:
    return any(_place(parent) for parent in parents.values())
