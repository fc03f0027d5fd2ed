"""The study spec: friendly short forms, and messages that name field, value and mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.errors import SpecRefused
from services.spec import METHODS, Objective, StudySpec, load_spec, parse_spec, spec_yaml

SMALL = "name: s\npool: p\nsuites: [a, b]\n"


def test_defaults_are_enough() -> None:
    spec = parse_spec(SMALL)
    assert spec.search.method == "margin-surrogate"
    assert spec.search.box == (-0.5, 1.5)
    assert [axis.label for axis in spec.axes] == ["a", "b"]
    assert spec.budget.trials == 100


def test_short_forms_of_objectives() -> None:
    spec = parse_spec(SMALL + "objectives: [macro, a, negative_flip_rate, 'churn:b']\n")
    assert spec.objectives == (
        Objective(metric="macro"),
        Objective(metric="score", suite="a"),
        Objective(metric="negative_flip_rate"),
        Objective(metric="churn", suite="b"),
    )
    assert [axis.label for axis in spec.axes] == ["macro", "a", "negative_flip_rate", "churn:b"]


def test_a_stored_spec_reads_back_equal() -> None:
    spec = parse_spec(
        SMALL
        + "constraints: [{metric: negative_flip_rate, suite: each, max: 0.02}]\n"
        + "search: {method: nsga-ii, space: simplex, seed: 3}\npublish: {}\n"
    )
    assert StudySpec.model_validate(json.loads(spec.model_dump_json())) == spec
    assert spec.search.box == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "layers", "kinds"),
    [
        ("model", None, False),
        ("kinds", None, True),
        ("{layers: 4}", 4, False),
        ("{layers: 4, kinds: true}", 4, True),
    ],
)
def test_short_forms_of_groups(text: str, layers: int | None, kinds: bool) -> None:
    groups = parse_spec(SMALL + f"search: {{groups: {text}}}\n").search.groups
    assert (groups.layers, groups.kinds) == (layers, kinds)


def test_the_box_of_a_space() -> None:
    for text, box in (("task", (0, 1)), ("task, bounds: [-1, 2]", (-1, 2)), ("simplex", (0, 1))):
        assert parse_spec(SMALL + f"search: {{space: {text}}}\n").search.box == box


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not valid YAML"),
        ("- a", "holds list, not a mapping"),
        ("pool: p\nsuites: [a]\n", "name: Field required"),
        (SMALL + "colour: red\n", "colour: unknown key.*spelling"),
        (SMALL + "search: {sede: 1}\n", "search.sede: unknown key"),
        (
            SMALL + "search: {method: magic}\n",
            "search.method: unknown method; .* cma-es, .*magic",
        ),
        (SMALL + "search: {method: [cma-es]}\n", "search.method"),
        (SMALL + "search: {bounds: [1, 0]}\n", "search.bounds: the first bound must be below"),
        (SMALL + "search: {base: a}\n", "search: base belongs to the task space"),
        (SMALL + "search: {groups: rows}\n", "search.groups: write model, kinds, "),
        (SMALL + "search: {groups: {layers: 0}}\n", "search.groups.layers"),
        (SMALL + "budget: {trials: 0}\n", r"budget.trials: .*greater than or equal to 1.*given: 0"),
        (SMALL + "budget: {wall_minutes: -1}\n", "budget.wall_minutes"),
        (SMALL + "objectives: [c]\n", r"objectives.0.suite: 'c' is not among .*\['a', 'b'\]"),
        (SMALL + "objectives: [a, a]\n", "objectives: one stands twice"),
        (SMALL + "objectives: [score]\n", "score needs a suite"),
        (SMALL + "objectives: ['macro:a']\n", "macro is over all suites"),
        (SMALL + "constraints: [{metric: churn}]\n", "give exactly one of max and min"),
        (SMALL + "constraints: [{metric: churn, suite: z, max: 1}]\n", "constraints.0.suite: 'z'"),
        (SMALL + "publish: {to: /tmp/x}\n", "publish.to"),
        ("name: Bad Name\npool: p\nsuites: [a]\n", "name: not a name: use a-z.*given: 'Bad Name'"),
        ("name: s\npool: p\nsuites: []\n", "suites"),
        ("name: s\npool: p\nsuites: [a, a]\n", "a suite stands twice"),
    ],
)
def test_refusals_name_the_field(text: str, message: str) -> None:
    with pytest.raises(SpecRefused, match=message) as caught:
        parse_spec(text, where="study.yaml")
    assert "study.yaml" in caught.value.line()
    assert caught.value.exit_code == 2


def test_yaml_cannot_make_objects() -> None:
    with pytest.raises(SpecRefused, match="not valid YAML"):
        parse_spec("!!python/object/apply:os.system ['true']")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecRefused, match=r"nope\.yaml: cannot be read"):
        load_spec(tmp_path / "nope.yaml")


def test_every_field_of_the_schema_is_described() -> None:
    schema = StudySpec.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    bare = [
        f"{model['title']}.{name}"
        for model in models
        for name, field in model.get("properties", {}).items()
        if "description" not in field
    ]
    assert not bare


def test_the_schema_lists_every_searcher() -> None:
    schema = StudySpec.model_json_schema()["$defs"]["Search"]["properties"]["method"]
    assert schema["enum"] == list(METHODS)
    assert (schema["type"], schema["default"]) == ("string", "margin-surrogate")
    for name in METHODS:
        assert parse_spec(SMALL + f"search: {{method: {name}}}\n").search.method == name


@pytest.mark.parametrize(
    "more",
    [
        "",
        "objectives: [a, churn, 'churn:b', {metric: score, suite: b, direction: minimize}]\n",
        "constraints: [{metric: score, suite: each, min: 0.5, confidence: null}]\n"
        "publish: {to: store}\nnotes: |\n  two\n  lines: yes\n",
        "search: {space: task, base: x, bounds: [0, 1], racing: {}, groups: {layers: 2}, "
        "options: {population: 4}, method: cma-es}\nbudget: {trials: 3, wall_minutes: 1.5}\n",
    ],
)
def test_a_spec_written_as_yaml_reads_back_equal(more: str) -> None:
    spec = parse_spec(SMALL + more)
    text = spec_yaml(spec)
    assert parse_spec(text) == spec
    # what is stored has every default written out
    assert spec_yaml(parse_spec(spec.model_dump_json())) == text
