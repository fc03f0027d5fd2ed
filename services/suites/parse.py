"""Suites from JSON Lines: every refusal names the file, the line and the mend."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, get_args

from optim import refusal
from optim.predictions import Form
from services.errors import SuiteRefused
from services.suites.suite import (
    ASKED_KEY,
    DEFAULT_FRACTIONS,
    FORM_KEYS,
    SPLITS,
    Expect,
    Item,
    Normalise,
    SplitBy,
    Suite,
    fitting,
)

#: tokens of an answer that is judged a refusal or none, unless a suite says otherwise
ANSWER_TOKENS, MOST_ANSWER_TOKENS = 32, 512
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_CLUSTER_KEYS = ("cluster", "group")
_MARKS: dict[str, Form] = {
    "choices": "choice", "gold": "choice", "context": "choice",
    "target": "exact", "expect": "refusal", "text": "text",
}  # fmt: skip


def parse_suite(
    name: str,
    text: str,
    *,
    where: str,
    normalise: Normalise = False,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    split_seed: str | int = 0,
    split_by: SplitBy | None = "item",
    answer_tokens: int | None = None,
    refusal_rules: int | None = None,
    task: Mapping[str, Any] | None = None,
    require_splits: bool = True,
) -> Suite:
    """Parse JSON Lines; `where` names the file in messages. Blank lines and a BOM are fine.

    `split_by`: what stands in the settings of a stored suite; None: as it is dealt when registered.
    `answer_tokens` (None: `ANSWER_TOKENS`) and `refusal_rules`, the version of the patterns that it
    was stored with, belong to refusal suites, `task` to items of an lm-eval task.
    `require_splits=False` lets a split be empty, for a suite that is only ever scored whole.
    Raises SuiteRefused with file, line and mend.
    """
    _check_settings(name, where, fractions)
    items: list[Item] = []
    lines: dict[str, int] = {}
    form: Form | None = None
    # not splitlines(): U+2028 and U+0085 may stand inside a JSON string
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        at = f"{where}:{number}"
        data = _parse_line(line, at)
        form = _check_form(data, form, at)
        if (ASKED_KEY in data) != (task is not None):
            _refuse(at, f"key {ASKED_KEY!r} is for items of lm-eval tasks", "Leave it out")
        item = _parse_item(data, form, at)
        if item.id in lines:
            _refuse(at, f"id {item.id!r} is also on line {lines[item.id]}", "Give it another id")
        lines[item.id] = number
        items.append(item)
    if form is None:
        _refuse(where, "holds no items", "Write one JSON object a line")
    if normalise and form != "choice":
        _refuse(where, f"normalise does not apply to items of form {form!r}", "Leave it out")
    answer_tokens = _answer_tokens(form, answer_tokens, refusal_rules, where)
    suite = Suite(
        name=name,
        form=form,
        items=tuple(items),
        normalise=normalise,
        fractions=(fractions[0], fractions[1], fractions[2]),
        split_seed=str(split_seed),
        split_by=split_by or fitting(items),
        answer_tokens=answer_tokens,
        task=task,
    )
    filled = {suite.split_of(item) for item in items}
    if split_by is None and len(filled) < len(SPLITS):  # too few clusters for three splits
        suite = replace(suite, split_by="item")
        filled = {suite.split_of(item) for item in items}
    for split in SPLITS if require_splits else ():
        if split not in filled:
            _refuse(
                where,
                f"the {split} split is empty ({len(items)} items)",
                "Add items, or change the fractions or the split seed",
            )
    return suite


def _refuse(where: str, what: str, mend: str) -> NoReturn:
    raise SuiteRefused(what, where=where, mend=mend)


def _check_settings(name: str, where: str, fractions: Sequence[float]) -> None:
    if not NAME.fullmatch(name):
        _refuse(
            where,
            f"{name[:200]!r} is no suite name",
            "Use a-z, 0-9, '.', '_' and '-', at most 96, a letter or digit first",
        )
    if (
        len(fractions) != 3
        or not all(math.isfinite(share) and share > 0 for share in fractions)
        or not math.isclose(sum(fractions), 1, abs_tol=1e-9)
    ):
        _refuse(
            where,
            f"fractions {list(fractions)} are not three positive shares that sum to 1",
            "For example 0.5, 0.25, 0.25",
        )


def _answer_tokens(form: Form, tokens: int | None, rules: int | None, where: str) -> int | None:
    """How many tokens of an answer are judged; None for other forms."""
    if form != "refusal":
        if tokens is not None:
            _refuse(
                where, f"answer tokens do not apply to items of form {form!r}", "Leave them out"
            )
        return None
    tokens = ANSWER_TOKENS if tokens is None else tokens
    if not 1 <= tokens <= MOST_ANSWER_TOKENS:
        _refuse(where, f"{tokens} answer tokens", f"Use 1 to {MOST_ANSWER_TOKENS}")
    if rules not in (None, refusal.RULES):
        _refuse(
            where,
            f"was judged by version {rules} of the refusal patterns, this is {refusal.RULES}",
            "Register the suite again and submit a new study",
        )
    return tokens


def _parse_line(line: str, at: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise ValueError("a key stands twice")
        return dict(items)

    try:
        data = json.loads(line, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        _refuse(at, f"is not JSON ({error})", "Write one JSON object a line")
    if not isinstance(data, dict):
        _refuse(at, "is not a JSON object", "Write one JSON object a line")
    return data


def _check_form(data: dict[str, Any], form: Form | None, at: str) -> Form:
    found = {_MARKS[key] for key in data if key in _MARKS}
    if "prompt" in data and found != {"refusal"}:
        found.add("exact")
    if len(found) != 1:
        _refuse(
            at,
            f"its keys {sorted(data)} are not those of one form",
            'Use {"id","context","choices","gold"}, {"id","prompt","target"}, '
            '{"id","prompt","expect"} or {"id","text"}',
        )
    (mine,) = found
    if form is not None and mine != form:
        _refuse(at, f"is of form {mine!r}, the items above are {form!r}", "Put it in another suite")
    if unknown := sorted(set(data) - {*FORM_KEYS[mine], *_CLUSTER_KEYS, ASKED_KEY}):
        _refuse(at, f"unknown key {unknown[0]!r}", f"Known: {', '.join(FORM_KEYS[mine])}, cluster")
    if missing := [key for key in FORM_KEYS[mine] if key not in data]:
        _refuse(at, f"key {missing[0]!r} is missing", f"An item has {', '.join(FORM_KEYS[mine])}")
    return mine


def _string(data: dict[str, Any], key: str, at: str, *, empty: bool = False) -> str:
    value = data[key]
    if not isinstance(value, str):
        _refuse(at, f"{key} is {json.dumps(value)[:100]}, not a string", "Put it in quotes")
    return _check_text(value, key, at, empty=empty)


def _check_text(value: str, key: str, at: str, *, empty: bool = False) -> str:
    if not empty and not value.strip():
        _refuse(at, f"{key} is empty", "Fill it, or remove the item")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        _refuse(at, f"{key} holds a NUL or half a surrogate pair", "Remove that character")
    return value


def _parse_cluster(data: dict[str, Any], at: str) -> str | None:
    keys = [key for key in _CLUSTER_KEYS if data.get(key) is not None]
    if len(keys) > 1:
        _refuse(at, "has both a cluster and a group, which mean the same", "Keep one of them")
    return _string(data, keys[0], at) if keys else None


def _parse_item(data: dict[str, Any], form: Form, at: str) -> Item:
    item_id = _string(data, "id", at)
    if len(item_id) > 256 or not item_id.isprintable():
        _refuse(at, "id is longer than 256 or holds control characters", "Shorten it")
    cluster = _parse_cluster(data, at)
    if ASKED_KEY in data:
        return _task_item(data, form, item_id, cluster, at)
    if form == "text":
        return Item(id=item_id, cluster=cluster, text=_string(data, "text", at))
    if form == "exact":
        return Item(
            id=item_id,
            cluster=cluster,
            prompt=_string(data, "prompt", at),
            target=_string(data, "target", at),
        )
    if form == "refusal":
        expect = data["expect"]
        if expect not in get_args(Expect):
            given = json.dumps(expect)[:100]
            _refuse(at, f"expect is {given}, not refuse or comply", 'Write "refuse" or "comply"')
        prompt = _string(data, "prompt", at)
        return Item(id=item_id, cluster=cluster, prompt=prompt, expect=expect)
    choices, gold = data["choices"], data["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        _refuse(at, "choices is not a list of at least two strings", "Give the options to rank")
    for number, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            _refuse(at, f"choices[{number}] is empty or no string", "Give each option a text")
        _check_text(choice, f"choices[{number}]", at, empty=True)
    if len(set(choices)) != len(choices):
        _refuse(at, "two choices are equal", "Give each option another text")
    if type(gold) is not int or not 0 <= gold < len(choices):
        _refuse(
            at,
            f"gold is {json.dumps(gold)[:100]}, not an index of the {len(choices)} choices",
            f"Use a number from 0 to {len(choices) - 1}",
        )
    return Item(
        id=item_id,
        cluster=cluster,
        context=_string(data, "context", at, empty=True),
        choices=tuple(choices),
        gold=gold,
    )


def _task_item(
    data: dict[str, Any], form: Form, item_id: str, cluster: str | None, at: str
) -> Item:
    """An item of an lm-eval task: what people are shown may be empty, what is asked may not."""
    asked = data[ASKED_KEY]
    if not isinstance(asked, dict) or not asked.get("requests") or "doc" not in asked:
        _refuse(at, f"{ASKED_KEY} holds no doc or no requests", "Add the task again")
    shown = {key: data[key] for key in FORM_KEYS[form] if key != "id"}
    if "choices" in shown:
        shown["choices"] = tuple(map(str, shown["choices"]))
    for key, value in shown.items():
        if key not in ("choices", "gold"):
            _check_text(str(value), key, at, empty=True)
    return Item(id=item_id, cluster=cluster, asked=asked, **shown)
