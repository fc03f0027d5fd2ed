"""What a set of near-equal models answers differently, suite by suite and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optim import intervals
from optim.agreement import gold_probability, option_probabilities
from optim.answers import differs
from optim.capacity import rashomon_capacity
from optim.multiplicity import churn_bound, disagreement, mean_churn, pair_churn, viable_range
from optim.pairwise import pairwise
from optim.predictions import Predictions
from optim.selective import selective
from services.studies.clusters import side_by_side
from services.studies.judge import gold_of
from services.studies.read import OpenSplit
from services.studies.tell import Value, share_of
from services.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Against:
    """How far the set disagrees with one model."""

    trial: int
    #: share of items on which some member answers otherwise
    ambiguity: Value
    #: share of items on which the member that is farthest off answers otherwise
    discrepancy: Value
    farthest: int
    #: 2·error + ε, ε by how much any member errs more: no member's churn is beyond it
    bound: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The set on one suite, or on all together (`suite` '')."""

    suite: str
    n: int
    #: share of items that two members, drawn at random, answer differently; None for one member
    expected_churn: Value
    reference: Against
    chosen: Against
    #: mean and largest over the items, of `optim.multiplicity.viable_range`; None without options
    viable_range: float | None
    widest_range: float | None
    #: mean and largest over the items, of `optim.capacity`, 2^C; None without options
    capacity: float | None
    largest_capacity: float | None
    #: share of items without an answer by selective prediction, and accuracy over the others
    abstention: Value
    answered_accuracy: Value
    #: accuracy of the chosen candidate, to compare with
    chosen_accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """What M models answered on the N items of one suite; the last two: reference and chosen."""

    suite: Suite
    #: bool and uint64 [M, N]
    right: np.ndarray
    answer: np.ndarray
    clusters: np.ndarray | None
    #: generated answers by `predictions.answer_hash`; {} where options are chosen
    texts: dict[int, str]
    #: of members alone, float64 [N] each; None without options
    ranges: np.ndarray | None
    capacities: np.ndarray | None


def table_of(
    suite: Suite,
    split: OpenSplit,
    models: Sequence[Mapping[str, Predictions]],
    clusters: np.ndarray | None,
) -> Table:
    """The table of one suite: its members' answers, then the reference's and the chosen one's."""
    found = [model[suite.name] for model in models]
    gold, ranges, capacities = gold_of(suite, split), None, None
    options = [p.options for p in found[:-2]]
    if gold is not None and all(o is not None for o in options):
        stacked = np.stack([o for o in options if o is not None])
        ranges = viable_range(gold_probability(stacked, gold))
        capacities = rashomon_capacity(option_probabilities(stacked))
    return Table(
        suite=suite,
        right=np.stack([p.correct for p in found if p.correct is not None]),
        answer=np.stack([p.answer for p in found if p.answer is not None]),
        clusters=clusters,
        texts=_texts(found),
        ranges=ranges,
        capacities=capacities,
    )


def _texts(models: Sequence[Predictions]) -> dict[int, str]:
    found: dict[int, str] = {}
    for model in models:
        if model.texts is not None and model.answer is not None:
            found |= zip(model.answer.tolist(), model.texts, strict=True)
    return found


def figures_of(
    tables: Sequence[Table], name: str, about: tuple[int, int, tuple[int, ...]], alpha: float
) -> Figures:
    """The figures of some suites together; `about`: numbers of reference, chosen and members."""
    right, answer = (
        np.concatenate([getattr(t, part) for t in tables], axis=1) for part in ("right", "answer")
    )
    clusters = side_by_side([(t.right.shape[1], t.clusters) for t in tables])
    own_right, own_answer = right[:-2], answer[:-2]
    voted = selective(own_right, own_answer, alpha=alpha)
    answered = ~voted.abstains
    ranges, capacities = (
        _joined([getattr(t, p) for t in tables]) for p in ("ranges", "capacities")
    )
    return Figures(
        suite=name,
        n=right.shape[1],
        expected_churn=_expected_churn(own_right, own_answer, clusters),
        reference=_against(right, answer, -2, about[0], about[2], clusters),
        chosen=_against(right, answer, -1, about[1], about[2], clusters),
        viable_range=None if ranges is None else float(ranges.mean()),
        widest_range=None if ranges is None else float(ranges.max()),
        capacity=None if capacities is None else float(capacities.mean()),
        largest_capacity=None if capacities is None else float(capacities.max()),
        abstention=share_of(voted.abstains, clusters),
        answered_accuracy=share_of(
            voted.right[answered], None if clusters is None else clusters[answered]
        ),
        chosen_accuracy=float(right[-1].mean()),
    )


def _against(
    right: np.ndarray,
    answer: np.ndarray,
    row: int,
    trial: int,
    members: Sequence[int],
    clusters: np.ndarray | None,
) -> Against:
    changed = differs(right[:-2], answer[:-2], right[row], answer[row])
    found = disagreement(changed)
    assert found.farthest is not None
    errors = 1 - right.mean(axis=1)
    return Against(
        trial=trial,
        ambiguity=share_of(np.asarray(changed.any(axis=0)), clusters),
        discrepancy=share_of(changed[found.farthest], clusters),
        farthest=members[found.farthest],
        bound=churn_bound(float(errors[row]), max(0.0, float((errors[:-2] - errors[row]).max()))),
    )


def _expected_churn(right: np.ndarray, answer: np.ndarray, clusters: np.ndarray | None) -> Value:
    """The mean churn of two members; undefined for one."""
    if len(right) < 2:
        return Value(None, None, None, 0)
    each = pair_churn(right, answer)
    if not each.any():  # the bootstrap knows nothing of items that did not differ
        return share_of(each > 0, clusters)
    low, high = intervals.ratio_interval(each, clusters=clusters)
    if low is None or high is None:
        return Value(float(each.mean()), None, None, len(each))
    return Value(float(each.mean()), max(0.0, low), min(1.0, high), len(each))


def mean_churns(tables: Sequence[Table]) -> list[float]:
    """Each member's mean churn to the others, over all suites; [] for one member."""
    pairs = [pairwise(t.right[:-2], t.answer[:-2]) for t in tables]
    found = mean_churn(sum(pairs[1:], start=pairs[0]))
    return [] if np.isnan(found).any() else found.tolist()


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The items of the suites that have options; None where none has."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
