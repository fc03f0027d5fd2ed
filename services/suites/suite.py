"""Items with one way of scoring, and their three splits: values without files or database."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from optim import refusal
from optim.predictions import Form

Split = Literal["search", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT_FRACTIONS = (0.5, 0.25, 0.25)
#: what an option's log-likelihood is divided by: nothing, its UTF-8 bytes (True), its characters
Normalise = bool | Literal["characters"]
#: what a split is dealt: items, or clusters with all their items
SplitBy = Literal["item", "cluster"]
#: clusters are dealt whole where the largest holds at most this share of the items: with fewer and
#: larger ones, splits are of different things, and of any size
LARGEST_CLUSTER = 0.05
#: what an item of a refusal suite expects of a model
Expect = Literal["refuse", "comply"]

#: keys that an item of each form must have; `cluster` (or `group`, the same) may be added to any
FORM_KEYS: dict[Form, tuple[str, ...]] = {
    "choice": ("id", "context", "choices", "gold"),
    "exact": ("id", "prompt", "target"),
    "refusal": ("id", "prompt", "expect"),
    "text": ("id", "text"),
}
#: key of what an lm-eval task asks about an item
ASKED_KEY = "lm_eval"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question; which fields are used depends on the suite's form."""

    id: str
    context: str = ""
    choices: tuple[str, ...] = ()
    #: index into `choices`
    gold: int = -1
    prompt: str = ""
    target: str = ""
    text: str = ""
    #: of a refusal suite: what a safe and helpful model does
    expect: Expect | None = None
    #: items with the same value share a context, so their errors are not independent
    cluster: str | None = None
    #: of an lm-eval task: `doc`, `requests`, `target`, `choices`, `input`, `task`
    asked: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)

    def to_dict(self, form: Form) -> dict[str, Any]:
        """The item as it stands in a suite file."""
        data = {key: getattr(self, key) for key in FORM_KEYS[form]}
        if form == "choice":
            data["choices"] = list(self.choices)
        if self.cluster is not None:
            data["cluster"] = self.cluster
        if self.asked is not None:
            data[ASKED_KEY] = dict(self.asked)
        return data


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Items of one form. `digest` covers everything that changes a score or a split."""

    name: str
    form: Form
    items: tuple[Item, ...] = field(repr=False)
    #: `choice`: compare log-likelihoods divided by the length of each choice; `characters` is
    #: lm-eval's acc_norm, bytes (True) its acc_bytes
    normalise: Normalise = False
    #: shares of search, validation and test
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    split_seed: str = "0"
    #: suites of before there was a choice have none but items
    split_by: SplitBy = "item"
    #: `refusal`: tokens of an answer that are generated and judged
    answer_tokens: int | None = None
    #: lm-eval's definitions of the tasks that the items were made from; None: Remelt's own scoring
    task: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        """What `parse_suite` needs beside the items, JSON-ready."""
        found: dict[str, Any] = {
            "normalise": self.normalise,
            "fractions": list(self.fractions),
            "split_seed": self.split_seed,
        }
        if self.form == "refusal":
            found |= {"answer_tokens": self.answer_tokens, "refusal_rules": refusal.RULES}
        if self.split_by != "item":
            found["split_by"] = self.split_by
        return found if self.task is None else {**found, "task": dict(self.task)}

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of form, items and settings; not of the name."""
        items = [item.to_dict(self.form) for item in self.items]
        data = {"form": self.form, "items": items, **self.settings}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def lengths(self, item: Item) -> list[int]:
        """What the log-likelihood of each choice of an item is divided by."""
        if self.normalise == "characters":
            return [len(choice) for choice in item.choices]
        return [len(choice.encode()) if self.normalise else 1 for choice in item.choices]

    def split(self, name: Split) -> tuple[Item, ...]:
        """The items of one split, in the order of the file."""
        if name not in SPLITS:
            raise ValueError(f"split: {name!r} is not one of {SPLITS}")
        return tuple(item for item in self.items if self.split_of(item) == name)

    def split_of(self, item: Item) -> Split:
        """The one split that an item is in, by a hash of the seed and its id, or its cluster."""
        whole = self.split_by == "cluster" and item.cluster is not None
        raw = hashlib.sha256(
            f"{self.split_seed}\0{item.cluster if whole else item.id}".encode()
        ).digest()
        share = int.from_bytes(raw[:8], "big") / 2**64
        search, validation, _ = self.fractions
        if share < search:
            return "search"
        return "validation" if share < search + validation else "test"

    def to_jsonl(self) -> str:
        """The items as JSON Lines; `parse_suite` with the same settings gives an equal suite."""
        lines = (json.dumps(item.to_dict(self.form), ensure_ascii=False) for item in self.items)
        return "".join(f"{line}\n" for line in lines)


def fitting(items: Sequence[Item]) -> SplitBy:
    """How a suite that is registered is dealt: by cluster where there are clusters, none of them
    with more than `LARGEST_CLUSTER` of the items."""
    sizes = Counter(item.cluster for item in items if item.cluster is not None)
    most = max(sizes.values(), default=0)
    return "cluster" if 1 < most <= LARGEST_CLUSTER * len(items) else "item"
