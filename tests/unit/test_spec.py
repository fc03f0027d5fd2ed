"""The study spec: friendly short forms, and messages that name field, value and mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from optim.generative import TEXT_SCORES
from services.errors import SpecRefused
from services.spec import (
    METHODS,
    METRICS,
    Objective,
    StudySpec,
    TextScore,
    load_spec,
    parse_spec,
    spec_from_dict,
    spec_yaml,
)

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
        (
            SMALL + "constraints: [{metric: churn}]\n",
            "give exactly one of max, min and at_most_worse",
        ),
        (SMALL + "constraints: [{suite: a, max: 1}]\n", "metric is missing: only at_most_worse"),
        (SMALL + "constraints: [{suite: a, at_most_worse: 0, min: 1}]\n", "give exactly one of"),
        (SMALL + "constraints: [{suite: a, at_most_worse: -0.1}]\n", "at_most_worse: .*or equal"),
        (
            SMALL + "constraints: [{metric: churn, at_most_worse: 0.1}]\n",
            "at_most_worse is for score, macro, over_refusal, unsafe_compliance: churn compares",
        ),
        (
            SMALL + "objectives: [win_loss_ratio]\n",
            "reported, not .* without negative flips.*write",
        ),
        (
            SMALL + "objectives: [{metric: positive_flip_impact, suite: a}]\n",
            "objectives.0: positive_flip_impact is reported.*write positive_flip_rate",
        ),
        (
            SMALL + "constraints: [{metric: negative_flip_impact, max: 0.1}]\n",
            "constraints.0: .*undefined for a candidate without errors.*write negative_flip_rate",
        ),
        (
            SMALL + "objectives: ['relative_negative_flip_rate:a']\n",
            "relative_negative_flip_rate is reported.*write negative_flip_rate",
        ),
        (SMALL + "constraints: [{metric: churn, suite: z, max: 1}]\n", "constraints.0.suite: 'z'"),
        (SMALL + "judging: {epsilom: 1}\n", "judging.epsilom: unknown key"),
        (SMALL + "judging: {epsilon: -1}\n", "judging.epsilon: .*given: -1"),
        (SMALL + "judging: {by: churn}\n", r"judging.by: 'churn' is not among .*\['a', 'b'\]"),
        (SMALL + "judging: {text_score: bleu}\n", "judging.text_score: .*'exact_match', 'f1'"),
        (SMALL + "judging: {tolerance: 1}\n", "judging.tolerance"),
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


def test_not_worse_than_the_reference_is_one_short_line() -> None:
    text = "constraints: [{suite: a, at_most_worse: 0.02}, {at_most_worse: 0}]\n"
    one, all_ = parse_spec(SMALL + text).constraints
    assert (one.metric, one.suite, one.limit, one.upper) == ("score", "a", 0.02, True)
    assert (one.measure, one.words) == ("worse_score", "at most 0.02 worse than the reference")
    assert (all_.metric, all_.suite, all_.measure) == ("macro", None, "worse_macro")
    # what is stored is read again
    spec = parse_spec(SMALL + text)
    assert spec_from_dict(spec.model_dump(mode="json")) == spec


def test_every_metric_is_an_objective_in_its_direction() -> None:
    spec = parse_spec(SMALL + "objectives: [backward_trust, 'backward_error:a', over_refusal]\n")
    assert [axis.metric for axis in spec.axes] == [
        "backward_trust", "backward_error", "over_refusal",
    ]  # fmt: skip
    assert METRICS["backward_trust"] == "maximize"
    assert METRICS["backward_error"] == METRICS["unsafe_compliance"] == "minimize"


@pytest.mark.parametrize("file", ["studies.md", "safety.md"])
def test_specs_in_the_documents_are_specs(file: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / file).read_text()
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    whole = [parse_spec(block) for block in blocks if "suites:" in block]
    parts = [parse_spec(f"{SMALL.replace('a, b', 'xstest')}{b}") for b in blocks if b[0] == "c"]
    assert whole
    assert bool(parts) == (file == "safety.md")


def test_judging() -> None:
    assert set(get_args(TextScore)) == set(TEXT_SCORES)
    judging = parse_spec(SMALL).judging
    assert (judging.epsilon, judging.by, judging.text_score, judging.tolerance) == (
        0.01, None, "f1", 0,
    )  # fmt: skip
    spec = parse_spec(SMALL + "objectives: [a, 'churn:b']\njudging: {by: 'churn:b', epsilon: 0}\n")
    assert (spec.judging.by, spec.judging.epsilon) == ("churn:b", 0)
    # specs that were stored before there was such a section
    stored = {k: v for k, v in spec.model_dump(mode="json").items() if k != "judging"}
    assert StudySpec.model_validate(stored).judging == judging


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
