"""Numbers and texts as people read them, flips as escaped HTML, and errors at their line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optim.search import METHODS as SEARCHERS
from services.errors import SpecRefused
from services.spec import parse_spec
from services.studies.read import Flip, Metric
from ui import flip_list, specs, words

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def flip(**more: object) -> Flip:
    """A negative flip."""
    fields: dict[str, object] = {
        "suite": "sst2", "item": "17", "kind": "negative", "prompt": "Mood:", "gold": " good",
        "old": " good", "new": " bad", "old_margin": 0.25, "new_margin": -1.5,
    }  # fmt: skip
    return Flip(**(fields | more))  # type: ignore[arg-type]


class TextOf(HTMLParser):
    """Collects tags and text of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


class TestNumbers:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0 s"), (59, "59 s"), (90, "2 min"), (3600, "1 h"), (12_000, "3 h 20 min")],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert words.duration(seconds) == text

    def test_a_sentence_begins_large_and_leaves_names_alone(self) -> None:
        assert words.sentence("breaks score:MMLU") == "Breaks score:MMLU"
        assert words.sentence("") == ""

    def test_moments(self) -> None:
        assert words.when(NOW - timedelta(minutes=5), NOW) == "5 min ago"
        assert words.when(NOW - timedelta(days=3), NOW) == "2025-12-30 00:00 UTC"

    def test_an_undefined_number_is_a_dash_never_zero(self) -> None:
        nothing = Metric(value=None, low=None, high=None, n=0)
        assert words.percent(None) == words.interval(nothing, "%") == words.DASH
        assert words.amount(None, "nats/token") == words.DASH

    def test_large_numbers_can_be_read(self) -> None:
        assert words.large(1_900_000) == "1.9 million"
        assert words.large(12_400) == "12\u202f400"

    def test_weights_name_the_largest_first(self) -> None:
        assert words.weights(["a", "b", "c"], [0.2, -0.6, 0.001]) == "b -0.60, a 0.20"
        assert words.weights(["a", "b", "c"], [0.5, 0.4, 0.1], most=2) == "a 0.50, b 0.40, +1 more"
        assert words.weights(["a", "b"], [0.5, 0.5]) == "0.500 each"


class TestEscaping:
    @given(st.text(max_size=60))
    def test_a_flip_is_shown_as_text_whatever_it_holds(self, text: str) -> None:
        document = TextOf()
        page = flip_list.flips_html([flip(prompt=text, gold=text, old=text, item=text)], text)
        document.feed(page.removeprefix(flip_list.STYLE))
        allowed = {"table", "thead", "tbody", "tr", "th", "td", "span", "div", "pre"}
        assert document.tags <= allowed

    def test_a_script_is_readable(self) -> None:
        document = TextOf()
        document.feed(flip_list.flips_html([flip(prompt="<script>alert(1)</script>")], "now"))
        assert "<script>alert(1)</script>" in document.text

    def test_markdown_is_shown_as_it_is(self) -> None:
        assert words.plain("[a](http://x) :red[b]") == r"\[a\]\(http\:\/\/x\) \:red\[b\]".replace(
            r"\/", "/"
        )

    def test_long_prompts_are_cut_in_the_middle(self) -> None:
        page = flip_list.flips_html([flip(prompt="a" * 5000 + "the question")], "now")
        assert "the question" in page
        assert len(page) < 5000


FLIPS = [flip(), flip(suite="trec", kind="positive", prompt="Where is ROME?"), flip(item="99")]
POOLS = [{"name": "stories", "reference": "deployed"}]
SUITES = [
    {"name": "prose", "form": "text"},
    {"name": "sst2", "form": "choice"},
    {"name": "infl", "form": "exact"},
]


class TestFilter:
    def test_nothing_chosen_shows_all(self) -> None:
        assert flip_list.matching(FLIPS, suites=[], kinds=[], text="") == FLIPS

    @pytest.mark.parametrize(
        ("filters", "count"),
        [
            ({"suites": ["trec"]}, 1), ({"kinds": ["negative"]}, 2), ({"text": "rome"}, 1),
            ({"text": "99"}, 1), ({"suites": ["trec"], "kinds": ["negative"]}, 0),
        ],
    )  # fmt: skip
    def test_filters_go_together(self, filters: dict[str, object], count: int) -> None:
        options: dict[str, object] = {"suites": [], "kinds": [], "text": ""}
        assert len(flip_list.matching(FLIPS, **(options | filters))) == count  # type: ignore[arg-type]


class TestSpecs:
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_the_example_is_valid_for_any_suites(self, count: int) -> None:
        spec = parse_spec(specs.example(POOLS, SUITES[:count]))
        assert spec.pool == "stories"
        assert {a.label for a in spec.axes} <= {"macro", "negative_flip_rate", "sst2", "prose"}

    def test_its_comments_stand_in_one_column_and_fit_the_field(self) -> None:
        lines = specs.example(POOLS, SUITES).splitlines()
        found = [line.index("  #", 8) for line in lines if "  #" in line[8:]]
        assert len(found) > 8
        # two values are longer than the column
        assert sum(place != 26 for place in found) == 2
        assert max(map(len, lines)) < 72

    def test_every_method_is_offered_with_its_options(self) -> None:
        said = specs.methods()
        for name, kind in SEARCHERS.items():
            assert f"- **{name}** {kind.summary}" in said
            assert all(f"    - `{option.name}`" in said for option in kind.options)
        assert "`sigma` (default 0.07): first standard deviation" in said
        assert "`alphas` (default [0.25, 0.5, 0.75]): " in said

    @pytest.mark.parametrize(
        ("text", "field", "line"),
        [
            ("name: a\npool: p\nsuites: [s]\nsearch:\n  method: cma\n", "search.method", 5),
            ("name: a\npool: p\nsuites: [s]\ncolour: red\n", "colour", 4),
            ("name: a\npool: p\nsuites: [s]\nobjectives:\n  - macro\n  - t\n", "objectives.1", 6),
            ("pool: p\nsuites: [s]\n", "name", None),
            ("name: a\npool: p\nsuites: [s]\nbudget: {trials: 0}\n", "budget.trials", 4),
        ],
    )
    def test_an_error_is_found_at_its_line(self, text: str, field: str, line: int | None) -> None:
        with pytest.raises(SpecRefused) as refused:
            parse_spec(text)
        found = specs.field_of(refused.value.where) or refused.value.what
        assert field in found
        assert specs.line_of(text, field) == line

    def test_broken_yaml_has_a_line_too(self) -> None:
        with pytest.raises(SpecRefused) as refused:
            parse_spec("name: a\npool: [p\n")
        assert specs.yaml_line(refused.value.where) is not None
        assert specs.line_of("name: a\npool: [p\n", "pool") is None

    def test_an_emptied_section_is_filled_again(self) -> None:
        found = specs.with_values("search:\n  seed: 3\npool: p\n", "search", {"seed": None})
        found = specs.with_values(found, "search", {"space": "task", "reuse": True})
        assert yaml.safe_load(found) == {"search": {"space": "task", "reuse": True}, "pool": "p"}
        assert found.count("search:") == 1

    @given(
        base=st.sampled_from(
            [
                "name: a\n",
                "name: a\nsearch: {method: random, seed: 3}\npool: p\n",
                "search:\n  seed: 3  # fix\n  groups:\n    layers: 2\n    kinds: true\npool: p\n",
                "search:\n  # why\n  bounds: [0, 1]\n  space: task\n\n# end\nbudget: {}\n",
                "pool: p\nsearch:\n    space: affine  # wide\n    seed: 1\n",
                "search:\n  groups:\n  - 1\n  - 2\n  seed: 1\n",
            ]
        ),
        values=st.dictionaries(
            st.sampled_from(["space", "bounds", "groups", "seed", "reuse"]),
            st.sampled_from([None, "simplex", [-0.5, 2], {"layers": 4, "kinds": True}, True, 7]),
            max_size=5,
        ),
    )
    def test_keys_are_written_and_the_rest_stays(self, base: str, values: dict[str, Any]) -> None:
        found = specs.with_values(base, "search", values)
        before, after = yaml.safe_load(base), yaml.safe_load(found)
        wanted = {**(before.get("search") or {}), **values}
        kept = {key: value for key, value in wanted.items() if value is not None}
        assert (after.pop("search", None) or {}) == kept
        before.pop("search", None)
        assert after == before
        for line in base.splitlines():
            if line.lstrip().startswith("#") or line.startswith("pool"):
                assert line in found.splitlines()
        if "# wide" in base and values.get("space"):
            assert "# wide" in found

    def test_a_spec_that_is_no_mapping_is_refused(self) -> None:
        for text in ("- a\n", "a: [\n", ""):
            with pytest.raises(yaml.YAMLError):
                specs.with_values(text, "search", {"seed": 1})
