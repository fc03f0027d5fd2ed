"""The whole question: pool, suites, reference, search, objectives, constraints, budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from services.spec.measures import Constraint, Name, Objective, Strict
from services.spec.search import Search

#: of `optim.generative.TEXT_SCORES`
TextScore = Literal["exact_match", "f1", "rouge_l"]


class Budget(Strict):
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


class Judging(Strict):
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


class Publish(Strict):
    """What happens to the chosen candidate."""

    to: str = Field(
        default="store",
        description="'store': the store of the server's settings",
        pattern="^store$",
    )


class StudySpec(Strict):
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
