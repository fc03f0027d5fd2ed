"""What a study measures: its objectives and constraints, and which metrics can be asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optim.rates import RATES, REFUSAL_RATES, Metric

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


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _askable(metric: Any) -> None:
    if isinstance(metric, str) and metric in REPORTED:
        why, instead = REPORTED[metric]
        raise ValueError(f"{metric} is reported, not searched for: {why}; write {instead}")


class Objective(Strict):
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


class Constraint(Strict):
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
