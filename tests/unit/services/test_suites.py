"""Suites: parsing, refusals with line numbers, splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import SuiteRefused
from services.suites import SPLITS, Suite, parse_suite

CHOICE = {"id": "1", "context": "c", "choices": ["a", "b"], "gold": 1}
EXACT = {"id": "1", "prompt": "p", "target": "t"}
TEXT = {"id": "1", "text": "t"}


def _lines(*items: dict[str, Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def _parse(text: str, **more: Any) -> Suite:
    return parse_suite("s", text, where="s.jsonl", require_splits=False, **more)


def test_the_three_forms() -> None:
    for item, form in ((CHOICE, "choice"), (EXACT, "exact"), (TEXT, "text")):
        suite = _parse(_lines(item))
        assert suite.form == form
        assert suite.items[0].to_dict(suite.form) == item


def test_blank_lines_a_bom_windows_ends_and_odd_separators_are_fine() -> None:
    odd = TEXT | {"id": "2", "text": "one\u2028two\u0085three\ttab"}
    text = "\ufeff\n" + json.dumps(TEXT) + "\r\n\r\n   \n" + json.dumps(odd, ensure_ascii=False)
    suite = _parse(text)
    assert [item.text for item in suite.items] == ["t", odd["text"]]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "s.jsonl", "holds no items"),
        ("\n \n", "s.jsonl", "holds no items"),
        (_lines(TEXT) + "{oops}\n", "s.jsonl:2", "is not JSON"),
        ("\n\n" + "[" * 100_000, "s.jsonl:3", "is not JSON"),
        ('{"id": "1", "id": "2", "text": "t"}', "s.jsonl:1", "a key stands twice"),
        ("7", "s.jsonl:1", "is not a JSON object"),
        (_lines(TEXT, EXACT | {"id": "2"}), "s.jsonl:2", "is of form 'exact', the items above"),
        (_lines(TEXT, TEXT), "s.jsonl:2", "id '1' is also on line 1"),
        (_lines(TEXT | {"extra": 1}), "s.jsonl:1", "unknown key 'extra'"),
        (_lines(TEXT | {"gold": 1}), "s.jsonl:1", "are not those of one form"),
        (_lines({"id": "1"}), "s.jsonl:1", "are not those of one form"),
        (_lines({"text": "t"}), "s.jsonl:1", "key 'id' is missing"),
        (_lines({"id": "1", "prompt": "p"}), "s.jsonl:1", "key 'target' is missing"),
        (_lines(TEXT | {"id": 7}), "s.jsonl:1", "id is 7, not a string"),
        (_lines(TEXT | {"id": " "}), "s.jsonl:1", "id is empty"),
        (_lines(TEXT | {"id": "a\nb"}), "s.jsonl:1", "control characters"),
        (_lines(TEXT | {"id": "x" * 257}), "s.jsonl:1", "longer than 256"),
        (_lines(TEXT | {"text": ""}), "s.jsonl:1", "text is empty"),
        (_lines(TEXT | {"text": None}), "s.jsonl:1", "text is null, not a string"),
        (_lines(TEXT | {"text": "a\0"}), "s.jsonl:1", "NUL"),
        ('{"id": "1", "text": "\\ud800"}', "s.jsonl:1", "surrogate"),
        (_lines(TEXT | {"cluster": 3}), "s.jsonl:1", "cluster is 3, not a string"),
        (_lines(TEXT | {"cluster": "a", "group": "b"}), "s.jsonl:1", "both a cluster and a group"),
        (_lines(EXACT | {"target": "\n"}), "s.jsonl:1", "target is empty"),
        (_lines(CHOICE | {"choices": []}), "s.jsonl:1", "at least two strings"),
        (_lines(CHOICE | {"choices": ["a"]}), "s.jsonl:1", "at least two strings"),
        (_lines(CHOICE | {"choices": "ab"}), "s.jsonl:1", "at least two strings"),
        (_lines(CHOICE | {"choices": ["a", ""]}), "s.jsonl:1", r"choices\[1\] is empty"),
        (_lines(CHOICE | {"choices": ["a", 2]}), "s.jsonl:1", r"choices\[1\] is empty or no"),
        (_lines(CHOICE | {"choices": ["a", "a"]}), "s.jsonl:1", "two choices are equal"),
        (_lines(CHOICE | {"gold": 2}), "s.jsonl:1", "gold is 2, not an index of the 2 choices"),
        (_lines(CHOICE | {"gold": -1}), "s.jsonl:1", "gold is -1"),
        (_lines(CHOICE | {"gold": True}), "s.jsonl:1", "gold is true"),
        (_lines(CHOICE | {"gold": 1.0}), "s.jsonl:1", "gold is 1.0"),
        (_lines(CHOICE | {"gold": "1"}), "s.jsonl:1", 'gold is "1"'),
    ],
)
def test_refusals_name_file_line_and_mend(text: str, where: str, what: str) -> None:
    with pytest.raises(SuiteRefused, match=what) as caught:
        _parse(text)
    assert caught.value.where == where
    assert caught.value.mend


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "../a", "a" * 97, "a\n"])
def test_names(name: str) -> None:
    with pytest.raises(SuiteRefused, match="is no suite name"):
        parse_suite(name, _lines(TEXT), where="x")


@pytest.mark.parametrize(
    "fractions",
    [(0.5, 0.5), (0.5, 0.5, 0.0), (1.5, -0.25, -0.25), (0.5, 0.25, 0.2), (float("nan"), 0.5, 0.5)],
)
def test_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(SuiteRefused, match="three positive shares"):
        _parse(_lines(TEXT), fractions=fractions)


def test_an_empty_split_is_refused_where_splits_are_needed() -> None:
    with pytest.raises(SuiteRefused, match="split is empty"):
        parse_suite("s", _lines(TEXT), where="x")


def test_normalise_is_for_choices() -> None:
    assert _parse(_lines(CHOICE), normalise=True).normalise
    with pytest.raises(SuiteRefused, match="does not apply"):
        _parse(_lines(TEXT), normalise=True)


def test_lengths_that_log_likelihoods_are_divided_by() -> None:
    line = _lines(CHOICE | {"choices": [" é", "abc"]})
    for normalise, lengths in ((False, [1, 1]), (True, [3, 3]), ("characters", [2, 3])):
        suite = _parse(line, normalise=normalise)
        assert suite.lengths(suite.items[0]) == lengths


def test_items_of_a_task_carry_what_it_asks() -> None:
    asked = {"doc": {"q": 1}, "requests": [["loglikelihood", "", "a"]], "task": "t"}
    task = {"tasks": {"t": {"metric": "acc"}}}
    # what is shown may be anything; what is asked counts
    line = EXACT | {"prompt": "", "target": "", "lm_eval": asked}
    suite = _parse(_lines(line), task=task)
    assert suite.items[0].asked == asked
    again = _parse(suite.to_jsonl(), **suite.settings)
    assert (again, again.digest) == (suite, suite.digest)
    other = _parse(_lines(line), task={"tasks": {"t": {"metric": "em"}}})
    assert other.digest != suite.digest
    with pytest.raises(SuiteRefused, match="is for items of lm-eval tasks"):
        _parse(_lines(line))
    with pytest.raises(SuiteRefused, match="is for items of lm-eval tasks"):
        _parse(_lines(EXACT), task=task)
    with pytest.raises(SuiteRefused, match="holds no doc or no requests"):
        _parse(_lines(EXACT | {"lm_eval": {"doc": {}, "requests": []}}), task=task)


def test_group_is_another_word_for_cluster() -> None:
    one, other = _parse(_lines(TEXT | {"group": "g"})), _parse(_lines(TEXT | {"cluster": "g"}))
    assert one == other
    assert one.items[0].cluster == "g"


STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
FULL = STRINGS.filter(str.strip)
IDS = st.from_regex(r"[!-~]{1,12}", fullmatch=True)
FORMS: list[Callable[[str], st.SearchStrategy[dict[str, Any]]]] = [
    lambda i: st.fixed_dictionaries({"id": st.just(i), "text": FULL}),
    lambda i: st.fixed_dictionaries({"id": st.just(i), "prompt": FULL, "target": FULL}),
    lambda i: st.lists(STRINGS, min_size=2, max_size=4, unique=True).flatmap(
        lambda c: st.fixed_dictionaries(
            {
                "id": st.just(i),
                "context": st.just("") | STRINGS,
                "choices": st.just(c),
                "gold": st.integers(0, len(c) - 1),
            },
            optional={"cluster": FULL},
        )
    ),
]
SUITES = st.tuples(
    st.sampled_from(FORMS), st.lists(IDS, min_size=1, max_size=6, unique=True)
).flatmap(lambda pair: st.tuples(*(pair[0](i) for i in pair[1])))


@settings(deadline=None)
@given(items=SUITES, seed=st.integers() | st.text(max_size=5))
def test_every_suite_round_trips(items: tuple[dict[str, Any], ...], seed: int | str) -> None:
    suite = _parse(_lines(*items), split_seed=seed)
    again = _parse(suite.to_jsonl(), split_seed=suite.split_seed)
    assert again == suite
    assert again.digest == suite.digest


@settings(deadline=None)
@given(
    ids=st.lists(IDS, min_size=1, max_size=60, unique=True), seed=st.integers(), cut=st.integers(0)
)
def test_each_item_is_in_exactly_one_split_and_stays_there(
    ids: list[str], seed: int, cut: int
) -> None:
    items = [TEXT | {"id": item_id} for item_id in ids]
    suite = _parse(_lines(*items), split_seed=seed)
    splits = [suite.split(name) for name in SPLITS]
    assert sorted(item.id for split in splits for item in split) == sorted(ids)
    for split in splits:
        assert list(split) == [item for item in suite.items if item in split]
    fewer = _parse(_lines(*items[: cut % len(items) + 1]), split_seed=seed)
    for item in fewer.items:
        assert fewer.split_of(item) == suite.split_of(item)


@settings(deadline=None)
@given(
    contexts=st.lists(st.sampled_from([None, *"abcdefgh"]), min_size=1, max_size=60),
    seed=st.integers(),
    cut=st.integers(0),
)
def test_a_cluster_is_in_one_split_and_stays_there(
    contexts: list[str | None], seed: int, cut: int
) -> None:
    items = [
        TEXT | {"id": str(i)} | ({} if one is None else {"cluster": one})
        for i, one in enumerate(contexts)
    ]
    suite = _parse(_lines(*items), split_seed=seed, split_by="cluster")
    splits: dict[str, set[str]] = {}
    for item in suite.items:
        splits.setdefault(item.cluster or f"alone {item.id}", set()).add(suite.split_of(item))
    assert all(len(found) == 1 for found in splits.values())
    fewer = _parse(_lines(*items[: cut % len(items) + 1]), split_seed=seed, split_by="cluster")
    assert all(fewer.split_of(item) == suite.split_of(item) for item in fewer.items)
    # who has no cluster is where it always was
    plain = _parse(_lines(*items), split_seed=seed)
    for item in suite.items:
        if item.cluster is None:
            assert suite.split_of(item) == plain.split_of(item)
    again = _parse(suite.to_jsonl(), **suite.settings)
    assert (again, again.digest) == (suite, suite.digest)
    assert suite.digest != plain.digest


def test_suites_are_dealt_by_cluster_where_clusters_are_small() -> None:
    def dealt(sizes: list[int]) -> str:
        items = [
            TEXT | {"id": f"{c}.{i}"} | ({"cluster": f"c{c}"} if c else {})
            for c, size in enumerate(sizes)
            for i in range(size)
        ]
        return _parse(_lines(*items), split_by=None).split_by

    assert dealt([0, *[2] * 20]) == "cluster"
    assert dealt([40, 2, 2]) == "cluster"
    assert dealt([0, *[2] * 19]) == "item", "the largest holds more than a twentieth"
    assert dealt([0, 50, 50, 50, 50]) == "item", "four subjects: each is to be in every split"
    assert dealt([0, *[1] * 40]) == dealt([40]) == "item"
    # stored suites of before have no such setting, and suites without clusters never have it
    base = _parse(_lines(CHOICE, CHOICE | {"id": "2"}))
    assert base.split_by == "item"
    assert _parse(_lines(CHOICE, CHOICE | {"id": "2"}), split_by=None).settings == base.settings
    assert set(base.settings) == {"normalise", "fractions", "split_seed"}


def test_clusters_too_few_for_three_splits_are_dealt_by_item() -> None:
    # 20 pairs, of which some seed puts none into validation
    items = [TEXT | {"id": f"{i}", "cluster": f"c{i // 2}"} for i in range(40)]
    text, empty = _lines(*items), []
    for seed in range(400):
        suite = _parse(text, split_seed=seed, split_by=None)
        assert {suite.split_of(item) for item in suite.items} == {"search", "validation", "test"}
        empty += [seed] if suite.split_by == "item" else []
    assert empty
    with pytest.raises(SuiteRefused, match="split is empty"):
        parse_suite("s", text, where="s.jsonl", split_seed=str(empty[0]), split_by="cluster")


def test_the_shares_are_about_right() -> None:
    items = [TEXT | {"id": f"{number:05d}"} for number in range(4000)]
    suite = parse_suite("s", _lines(*items), where="x", fractions=(0.6, 0.3, 0.1), split_seed=7)
    sizes = [len(suite.split(name)) for name in SPLITS]
    for size, share in zip(sizes, suite.fractions, strict=True):
        assert abs(size / 4000 - share) < 0.03
    with pytest.raises(ValueError, match="split: 'train'"):
        suite.split("train")  # type: ignore[arg-type]


def test_the_digest_covers_all_that_changes_a_score_or_a_split() -> None:
    base = _parse(_lines(CHOICE))
    others = [
        _parse(_lines(CHOICE), normalise=True),
        _parse(_lines(CHOICE), normalise="characters"),
        _parse(_lines(CHOICE), split_seed=1),
        _parse(_lines(CHOICE), fractions=(0.4, 0.3, 0.3)),
        _parse(_lines(CHOICE | {"gold": 0})),
        _parse(_lines(CHOICE | {"cluster": "c"})),
        _parse(_lines(CHOICE, CHOICE | {"id": "2"})),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 8
    renamed = parse_suite("other", _lines(CHOICE), where="y", require_splits=False)
    assert renamed.digest == base.digest


def test_a_known_digest_and_split_never_change() -> None:
    """Stored studies depend on both: a change here makes every old one unreadable."""
    suite = _parse(_lines(CHOICE, CHOICE | {"id": "2"}, CHOICE | {"id": "3"}))
    assert suite.digest == "2c6996e59a56766bb595103e57b2d46992aed6b7f012bf70696cc7e892445cd4"
    assert [suite.split_of(item) for item in suite.items] == ["search", "validation", "validation"]
    # and of a suite with clusters, as it was stored before clusters were dealt
    old = _parse(_lines(*(CHOICE | {"id": str(i), "cluster": "c"} for i in (1, 2, 3))))
    assert old.digest == "71d3fa059f2eb343d51be8e0bd6950efdf47ceb1d193fd0f4cfcc36948caa257"
    assert [old.split_of(item) for item in old.items] == ["search", "validation", "validation"]


def test_real_suites(shared: Path) -> None:
    paths = sorted((shared / "suites").glob("*/*.jsonl"))
    assert len(paths) == 12
    for path in paths:
        suite = parse_suite(path.stem, path.read_text(encoding="utf-8"), where=str(path))
        assert len(suite) == len(path.read_text(encoding="utf-8").split("\n")) - 1
        again = parse_suite(path.stem, suite.to_jsonl(), where="stored")
        assert again.digest == suite.digest
