"""The health of a suite by its items: what is found, in which form, and what is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.suite_answers import detectable_difference
from services import suite_health
from services.suites import Suite, parse_suite


def suite(items: Sequence[dict[str, Any]], name: str = "s") -> Suite:
    lines = [json.dumps({"id": f"{i:04d}", **item}) for i, item in enumerate(items)]
    return parse_suite(name, "\n".join(lines), where="s.jsonl")


def kinds(found: Suite) -> list[str]:
    return [finding.kind for finding in suite_health.of_items(found).findings]


def questions(n: int, seed: int = 0, options: int = 3) -> list[dict[str, Any]]:
    """Healthy choice items: every text once, options of the same kind, golds anywhere."""
    rng = np.random.default_rng(seed)
    return [
        {
            "context": f"which of these is item {i} of {seed}",
            "choices": [f"thing {number}" for number in rng.choice(999, options, replace=False)],
            "gold": int(rng.integers(options)),
        }
        for i in range(n)
    ]


def by_split(found: Suite, split: str) -> list[int]:
    return [i for i, item in enumerate(found.items) if found.split_of(item) == split]


def test_a_healthy_suite_has_no_findings() -> None:
    found = suite_health.of_items(suite(questions(400)))
    assert found.findings == []
    assert found.items == {"search": 217, "validation": 93, "test": 90}
    assert found.chance == pytest.approx(1 / 3)
    assert found.detectable["validation"] == pytest.approx(0.0908, abs=1e-3)


def test_twins_across_splits_are_named_with_their_splits() -> None:
    items = questions(400)
    whole = suite(items)
    search, test = by_split(whole, "search"), by_split(whole, "test")
    items[test[0]] = {**items[search[5]], "choices": items[search[5]]["choices"][::-1]}
    items[test[0]]["gold"] = 2 - items[search[5]]["gold"]
    found = suite_health.of_items(suite(items))
    (twin,) = found.twins
    assert twin.items == (f"{search[5]:04d}", f"{test[0]:04d}")
    assert (twin.splits, twin.whole, twin.conflict) == (("search", "test"), True, False)
    (finding,) = found.findings
    assert finding.kind == "twins"
    assert f"1 of {len(test)} test items" in finding.what
    assert found.share_of_twins("test") == 1 / len(test)
    assert found.share_of_twins("validation") == 0


def test_the_same_question_with_two_golds() -> None:
    items = questions(400)
    whole = suite(items)
    first, second = by_split(whole, "search")[:2]
    items[second] = {**items[first], "gold": (items[first]["gold"] + 1) % 3}
    assert kinds(suite(items)) == ["repeated", "conflict"]
    items[second]["gold"] = items[first]["gold"]
    assert kinds(suite(items)) == ["repeated"]
    items[first], items[second] = ({**items[i], "cluster": "one"} for i in (first, second))
    assert kinds(suite(items)) == []


def test_labels_that_all_items_share_are_no_twins() -> None:
    labels = [f"a long label of more than six words, number {i}" for i in range(3)]
    items = [
        {"context": f"text {i}", "choices": labels, "gold": i % 3} for i in range(400)
    ]  # fmt: skip
    assert kinds(suite(items)) == []


def test_options_that_give_the_answer_away() -> None:
    items = questions(400)
    for item in items:
        item["choices"][item["gold"]] += " and that is certain"
    assert kinds(suite(items)) == ["gives-away"]


def test_golds_that_favour_a_position() -> None:
    items = questions(400)
    for item in items[:300]:
        item["gold"] = 0
    found = suite_health.of_items(suite(items))
    assert [f.kind for f in found.findings] == ["constant", "position"]
    assert "always number 1" in found.findings[0].what


def test_a_class_that_is_common_is_a_constant_and_no_position() -> None:
    items = [
        {"context": f"text {i}", "choices": ["no", "yes"], "gold": int(i % 5 == 0)}
        for i in range(400)
    ]
    assert kinds(suite(items)) == ["constant"]


def test_few_items() -> None:
    assert kinds(suite(questions(60))) == ["too-small"]
    texts = [{"text": f"some text {i}"} for i in range(40)]
    assert kinds(suite(texts)) == []
    prompts = [{"prompt": f"say {i}", "target": str(i)} for i in range(40)]
    found = suite_health.of_items(suite(prompts))
    assert [f.kind for f in found.findings] == ["too-small"]
    assert (found.chance, found.guessers, found.spread) == (None, (), None)


def test_the_documented_table_is_right() -> None:
    text = (Path(__file__).parents[3] / "docs" / "suites.md").read_text()
    head, *rest = [line for line in text.splitlines() if line.startswith("|") and "ψ" in line]
    assert not rest
    shares = [float(cell.split("=")[1]) for cell in head.split("|")[2:-1]]
    rows = text.split(head)[1].split("\n\n")[0].strip().splitlines()[1:]
    assert len(rows) == 5
    for row in rows:
        n, *cells = [cell.strip() for cell in row.split("|")[1:-1]]
        for share, cell in zip(shares, cells, strict=True):
            found = detectable_difference(int(n.replace(",", "")), share)
            assert cell == ("none" if found is None else f"{found:.3f}".removeprefix("0"))


def test_the_report_is_json_and_computed_once() -> None:
    asked = suite(questions(60), name="once")
    assert suite_health.known("once", asked.digest) is None
    found = suite_health.of_items(asked)
    assert suite_health.of_items(asked) is found is suite_health.known("once", asked.digest)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["findings"][0]["kind"] == "too-small"
    assert {g["kind"] for g in data["guessers"]} >= {"bayes", "position"}
    assert all(0 <= g["interval"][0] <= g["share"] <= g["interval"][1] for g in data["guessers"])


def test_real_suites(shared: Path) -> None:
    told = {}
    for file in sorted((shared / "suites" / "stories").glob("*.jsonl")):
        told[file.stem] = kinds(parse_suite(file.stem, file.read_text(), where=str(file)))
    assert told["sst2"] == told["shakes"] == []
    assert all("twins" not in kinds_ for kinds_ in told.values())
