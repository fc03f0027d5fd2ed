"""The study spec: what a user writes (YAML or JSON) to ask a question of a pool.

Pure validation of the text; whether pools and suites exist is checked at submission. Unknown keys
are errors, and every message names the field, the value and the mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from optim.descent import DESCENTS, DescentMethod
from optim.rates import RATES, REFUSAL_RATES, Metric
from optim.search import METHODS as SEARCHERS
from optim.search import Searcher
from optim.search.options import read_options
from services.errors import SpecRefused

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Direction = Literal["maximize", "minimize"]
#: metrics a study can ask for, and which way is better (score of a text suite: minimize)
METRICS: dict[str, Direction] = {
    "score": "maximize",
    "macro": "maximize",
    **{name: rate.better for name, rate in RATES.items()},
}
#: metrics that can be bounded by how much worse than the reference they are
WORSE = ("score", "macro", *REFUSAL_RATES)
_NO_ERRORS = "it is undefined for a candidate without errors, the best there is"
#: metrics that are reported only: why they cannot be asked for, and what to write instead
REPORTED = {
    "relative_negative_flip_rate": (_NO_ERRORS, "negative_flip_rate"),
    "negative_flip_impact": (_NO_ERRORS, "negative_flip_rate"),
    "positive_flip_impact": (
        "it also rises when right answers are lost, being a share of what the candidate gets right",
        "positive_flip_rate",
    ),
    "win_loss_ratio": (
        "it is undefined for a candidate without negative flips, the best there is",
        "negative_flip_rate and positive_flip_rate",
    ),
    "good_churn": ("it has another name here", "positive_flip_rate"),
    "bad_churn": ("it has another name here", "negative_flip_rate"),
}
#: of `optim.generative.TEXT_SCORES`
TextScore = Literal["exact_match", "f1", "rouge_l"]
#: of spaces whose bounds can be set
BOUNDS = {"affine": (-0.5, 1.5), "task": (0.0, 1.0)}
#: what `search.method` may name: searchers, and searches that go down a gradient
METHODS: dict[str, type[Searcher] | DescentMethod] = {**SEARCHERS, **DESCENTS}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _askable(metric: Any) -> None:
    if isinstance(metric, str) and metric in REPORTED:
        why, instead = REPORTED[metric]
        raise ValueError(f"{metric} is reported, not searched for: {why}; write {instead}")


class Objective(_Strict):
    """One axis of the front."""

    metric: Metric = Field(description="what is measured")
    suite: Name | None = Field(
        default=None, description="one suite; left out: all suites of the study together"
    )
    direction: Direction | None = Field(
        default=None, description="left out: the way in which the metric is better"
    )

    @property
    def label(self) -> str:
        """Short name for tables and axes."""
        if self.metric == "score":
            return str(self.suite)
        return f"{self.metric}:{self.suite}" if self.suite else self.metric

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """`macro`, `negative_flip_rate`, `churn:trec` and plain suite names are short forms."""
        if not isinstance(data, str):
            if isinstance(data, dict):
                _askable(data.get("metric"))
            return data
        metric, _, suite = data.partition(":")
        _askable(metric)
        if metric in METRICS:
            return {"metric": metric, "suite": suite or None}
        return {"metric": "score", "suite": data}

    @model_validator(mode="after")
    def _fits(self) -> Objective:
        if self.metric == "score" and self.suite is None:
            raise ValueError("score needs a suite; for the mean over all suites write macro")
        if self.metric == "macro" and self.suite is not None:
            raise ValueError("macro is over all suites; for one suite write its name")
        return self


class Constraint(_Strict):
    """A bound that a candidate must keep, with confidence, to be feasible."""

    metric: Metric = Field(
        default="score",
        description="what is measured; may be left out beside at_most_worse: the suite's score, or "
        "macro where suite is left out too",
    )
    suite: Name | None = Field(
        default=None,
        description="a suite's name, or 'each' for every suite of the study; "
        "left out: all suites together",
    )
    max: float | None = Field(default=None, description="upper bound")
    min: float | None = Field(default=None, description="lower bound")
    at_most_worse: float | None = Field(
        default=None,
        ge=0,
        description="by how much it may be worse than the reference on the same items: shares of "
        f"items, or nats per token of a text suite; of {', '.join(WORSE)}",
    )
    confidence: float | None = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="the one-sided confidence bound must keep the limit; null: the estimate alone",
    )

    @model_validator(mode="before")
    @classmethod
    def _metric_left_out(cls, data: Any) -> Any:
        """`{suite: safety, at_most_worse: 0.02}` is about the suite's score."""
        if not isinstance(data, dict):
            return data
        _askable(data.get("metric"))
        if "metric" in data:
            return data
        if data.get("at_most_worse") is None:
            raise ValueError("metric is missing: only at_most_worse can do without")
        return {**data, "metric": "macro" if data.get("suite") is None else "score"}

    @model_validator(mode="after")
    def _one_bound(self) -> Constraint:
        if [self.max, self.min, self.at_most_worse].count(None) != 2:
            raise ValueError("give exactly one of max, min and at_most_worse")
        if self.at_most_worse is not None and self.metric not in WORSE:
            raise ValueError(
                f"at_most_worse is for {', '.join(WORSE)}: {self.metric} compares with the "
                "reference already; write max or min"
            )
        if self.metric == "macro" and self.suite is not None:
            raise ValueError("macro is over all suites; leave suite out")
        if self.metric == "score" and self.suite is None:
            raise ValueError("score needs a suite, or 'each'")
        return self

    @property
    def measure(self) -> str:
        """Name of the stored metric that the limit is about."""
        return self.metric if self.at_most_worse is None else f"worse_{self.metric}"

    @property
    def limit(self) -> float:
        """The one bound that is given."""
        return next(b for b in (self.max, self.min, self.at_most_worse) if b is not None)

    @property
    def upper(self) -> bool:
        """The limit is one from above."""
        return self.min is None

    @property
    def words(self) -> str:
        """The limit for people: `<= 0.05`, `>= 0.7`, `at most 0.02 worse than the reference`."""
        if self.at_most_worse is not None:
            return f"at most {self.limit:g} worse than the reference"
        return f"{'<=' if self.upper else '>='} {self.limit:g}"


class Groups(_Strict):
    """Which tensors of the model have weights of their own."""

    layers: int | None = Field(
        default=None, ge=1, le=1024, description="so many equal stretches of layers; null: one"
    )
    kinds: bool = Field(
        default=False, description="attention and mlp apart, in every stretch of layers"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """`model` (none) and `kinds` are short forms."""
        if isinstance(data, str):
            if data not in ("model", "kinds"):
                raise ValueError("write model, kinds, {layers: 4} or {layers: 4, kinds: true}")
            return {"kinds": data == "kinds"}
        return data


class Racing(_Strict):
    """Stopping candidates early that are certainly no good."""

    alpha: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="probability, per candidate, of stopping one that should not be",
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="shares by which a candidate may be behind and is not stopped for it; null: "
        "one standard error of the difference between two models",
    )


def _known_method(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"unknown method; choose one of {', '.join(METHODS)}")
    return method


Method = Annotated[
    str,
    AfterValidator(_known_method),
    WithJsonSchema({"type": "string", "enum": list(METHODS)}),
]


class Search(_Strict):
    """How candidates are proposed."""

    method: Method = Field(
        default="margin-surrogate",
        description="the searcher (remelt study methods lists them); margin-surrogate needs the "
        "fewest evaluations",
    )
    space: Literal["simplex", "affine", "task"] = Field(
        default="affine",
        description="weights sum to 1; simplex: none negative; affine: within bounds; "
        "task: those of all checkpoints but the base within bounds, the base takes the rest",
    )
    base: Name | None = Field(
        default=None,
        description="task space: the checkpoint that the others' differences are added to; "
        "left out: the reference",
    )
    bounds: tuple[float, float] | None = Field(
        default=None,
        description="smallest and largest weight, of the affine space (left out: -0.5 and 1.5) "
        "or the task space (0 and 1)",
    )
    groups: Groups = Field(
        default_factory=Groups,
        description="tensors with weights of their own: model (none), kinds, {layers: 4} or "
        "{layers: 4, kinds: true}; all other tensors (embeddings, head) share one more row",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="same seed, same suggestions")
    parallelism: int = Field(
        default=8, ge=1, le=1024, description="candidates handed out at a time"
    )
    reuse: bool = Field(
        default=False,
        description="the searcher also knows what earlier studies on the same pool, suites and "
        "reference found; the same spec then no longer makes the same suggestions",
    )
    warm_start: int = Field(
        default=0,
        ge=0,
        le=100,
        description="descents with gradients that come before the searcher, which starts from what "
        "they find; they come on top of the budget",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the method (see docs/searchers.md)"
    )
    racing: Racing | None = Field(
        default=None, description="stop bad candidates early; null: score every one whole"
    )

    @field_validator("bounds")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError("the first bound must be below the second")
        return bounds

    @model_validator(mode="after")
    def _options_known(self) -> Search:
        method = METHODS[self.method]
        read_options(self.method, method.options, self.options)
        if self.warm_start and self.method in DESCENTS:
            raise ValueError(f"warm_start is for other methods: {self.method} is made of descents")
        return self

    @model_validator(mode="after")
    def _base_of_tasks(self) -> Search:
        if self.base is not None and self.space != "task":
            raise ValueError("base belongs to the task space: leave it out, or write space: task")
        return self

    @property
    def box(self) -> tuple[float, float]:
        """Smallest and largest weight of the space; in the task space of all but the base."""
        if self.space == "simplex":
            return (0.0, 1.0)
        return self.bounds or BOUNDS[self.space]


class Budget(_Strict):
    """When the search stops: at whichever limit comes first."""

    trials: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="candidates the searcher proposes; baselines come on top",
    )
    item_evaluations: int | None = Field(
        default=None,
        ge=1,
        description="items scored on the search split, baselines included; null: no limit",
    )
    wall_minutes: float | None = Field(
        default=None, gt=0, description="no new candidate after this time; null: no limit"
    )
    finalists: int = Field(
        default=10, ge=1, le=200, description="candidates re-scored on validation and test"
    )


class Judging(_Strict):
    """How candidates are compared with one another; changes no search and no choice."""

    epsilon: float = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="near-best set: candidates at most so much worse than the best, in the unit of "
        "what is judged",
    )
    by: str | None = Field(
        default=None,
        description="the objective, as listed above, by which candidates are near the best; null: "
        "the mean of all, which is what chooses",
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="selective prediction abstains where the near-best set is nearer to a tie",
    )
    text_score: TextScore = Field(
        default="f1", description="score of generated answers whose gains and losses are counted"
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="by how much a generated answer's score must change to count",
    )


class Publish(_Strict):
    """What happens to the chosen candidate."""

    to: str = Field(
        default="store",
        description="'store': the store of the server's settings",
        pattern="^store$",
    )


class StudySpec(_Strict):
    """A study: pool + suites + reference + search + objectives + constraints + budget."""

    name: Name = Field(description="for people; studies are told apart by their number")
    pool: Name = Field(description="a registered pool")
    reference: Name | None = Field(
        default=None, description="the checkpoint deployed today; left out: the pool's reference"
    )
    suites: tuple[Name, ...] = Field(min_length=1, description="registered suites")
    objectives: tuple[Objective, ...] = Field(
        default=(), description="axes of the front; left out: the score of every suite"
    )
    constraints: tuple[Constraint, ...] = Field(default=(), description="bounds to keep")
    search: Search = Field(default_factory=Search, description="how candidates are proposed")
    budget: Budget = Field(default_factory=Budget, description="when the search stops")
    judging: Judging = Field(
        default_factory=Judging, description="how candidates are compared with one another"
    )
    publish: Publish | None = Field(
        default=None, description="publish the chosen candidate when the study ends"
    )
    notes: str = Field(default="", max_length=20_000, description="free text, for people")

    @model_validator(mode="after")
    def _suites_known(self) -> StudySpec:
        if len(set(self.suites)) != len(self.suites):
            raise ValueError(f"suites: a suite stands twice in {list(self.suites)}")
        both: dict[str, Sequence[Objective | Constraint]] = {
            "objectives": self.objectives,
            "constraints": self.constraints,
        }
        for field, parts in both.items():
            for index, part in enumerate(parts):
                each = field == "constraints" and part.suite == "each"
                if part.suite is not None and not each and part.suite not in self.suites:
                    raise ValueError(
                        f"{field}.{index}.suite: {part.suite!r} is not among the study's suites "
                        f"{list(self.suites)}"
                    )
        if len(set(self.axes)) != len(self.axes):
            raise ValueError("objectives: one stands twice")
        return self

    @model_validator(mode="after")
    def _judged_by_an_objective(self) -> StudySpec:
        labels = [axis.label for axis in self.axes]
        if self.judging.by is not None and self.judging.by not in labels:
            raise ValueError(
                f"judging.by: {self.judging.by!r} is not among the objectives {labels}"
            )
        return self

    @property
    def axes(self) -> tuple[Objective, ...]:
        """The objectives, with the default filled in."""
        return self.objectives or tuple(
            Objective(metric="score", suite=suite) for suite in self.suites
        )


def parse_spec(text: str, *, where: str = "spec") -> StudySpec:
    """Read a spec from YAML (JSON is YAML); raises SpecRefused naming the field and the mend."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if hasattr(error, "problem_mark") else ""
        raise SpecRefused("is not valid YAML", where=f"{where}{line}", mend=str(error)) from error
    if not isinstance(data, dict):
        raise SpecRefused(
            f"holds {type(data).__name__}, not a mapping",
            where=where,
            mend="Start with `name:`, `pool:` and `suites:`",
        )
    return spec_from_dict(data, where=where)


def spec_from_dict(data: dict[str, Any], *, where: str = "spec") -> StudySpec:
    """Validate parsed data; raises SpecRefused for the first broken field."""
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SpecRefused(
                "unknown key",
                where=f"{where}: {field}",
                mend="Remove it or check its spelling (remelt study schema lists all keys)",
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch" and field != "publish.to":
            message = "not a name: use a-z, 0-9, dot, dash, underscore; first a letter or digit"
        value = f" (given: {first['input']!r:.80})" if field and "input" in first else ""
        raise SpecRefused(f"{message}{value}", where=f"{where}: {field}".rstrip(": ")) from error


def load_spec(path: Path) -> StudySpec:
    """Read a spec file; raises SpecRefused."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecRefused("cannot be read", where=str(path), mend=str(error)) from error
    return parse_spec(text, where=str(path))


def spec_yaml(spec: StudySpec) -> str:
    """A spec as YAML that reads back equal; what is a default is left out."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    if spec.objectives:
        data["objectives"] = [_short(axis) for axis in spec.objectives]
    if spec.constraints:
        data["constraints"] = [written(part) for part in spec.constraints]
    return yaml.dump(data, Dumper=_SpecDumper, sort_keys=False, allow_unicode=True, width=100)


def _short(axis: Objective) -> str | dict[str, Any]:
    """`macro`, `churn:trec` or a suite's name, where that says all."""
    if Objective.model_validate(axis.label) == axis:
        return axis.label
    return written(axis)


def written(part: Objective | Constraint) -> dict[str, Any]:
    """An objective or constraint as it would be written; the metric is always named."""
    return {"metric": part.metric, **part.model_dump(mode="json", exclude_defaults=True)}


class _SpecDumper(yaml.SafeDumper):
    """Lists of plain values on one line, everything else in blocks."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        """A list; in flow style when it holds no mappings."""
        plain = all(not isinstance(one, dict | list) for one in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)
