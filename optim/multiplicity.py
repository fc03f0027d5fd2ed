"""Multiplicity: how differently models answer that are about equally good.

The candidates of a study within ε of the best are an empirical Rashomon set: all could have been
deployed. How far they disagree says how much of an answer is the choice among them (Watson-Daniels
et al. 2024, 2402.07745). Right answers are one answer, as in `optim.compatibility`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.answers import ranked_answers
from optim.pairwise import Pairwise

#: values that differ by less are equal: sums in another order
ROUNDING = 1e-12


def near_best(values: np.ndarray, epsilon: float) -> np.ndarray:
    """bool [M]: within ε (≤) of the smallest of float [M], all minimised; never empty for M > 0.

    NaN is no value and never near. Raises ValueError for an ε below 0 or not finite.
    """
    if not 0 <= epsilon < np.inf:
        raise ValueError(f"epsilon: {epsilon} is not a finite number of at least 0")
    known = np.asarray(values, dtype=np.float64)
    if not np.isfinite(known).any():
        return np.zeros(known.shape, bool)
    with np.errstate(invalid="ignore"):
        return np.asarray(known <= np.nanmin(known) + epsilon + ROUNDING)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How far a set of models disagrees with one model; None without members or items."""

    #: share of items on which some member answers otherwise
    ambiguity: float | None
    #: largest share of items on which one member answers otherwise
    discrepancy: float | None
    #: index of that member, the first of several
    farthest: int | None


def disagreement(changed: np.ndarray) -> Disagreement:
    """Ambiguity and discrepancy (Marx et al. 2020) from bool [M, N]: `answers.differs`.

    discrepancy ≤ ambiguity ≤ M · discrepancy. A member that is the model itself adds nothing.
    """
    if changed.ndim != 2:
        raise ValueError(f"changed: {changed.shape} is not [M, N]")
    if not changed.size:
        return Disagreement(ambiguity=None, discrepancy=None, farthest=None)
    each = changed.mean(axis=1)
    farthest = int(each.argmax())
    return Disagreement(
        ambiguity=float(changed.any(axis=0).mean()),
        discrepancy=float(each[farthest]),
        farthest=farthest,
    )


def pair_churn(right: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """float64 [N]: share of the M(M − 1)/2 pairs of members that answer an item differently.

    Its mean is the expected churn of two members drawn at random (churn: Milani Fard et al. 2016).
    right, answer: [M, N], as `answers.ranked_answers` takes them. Raises ValueError for fewer than
    two members, which have no pairs.
    """
    members = len(right)
    if members < 2:
        raise ValueError(f"answers: {members} members have no pairs")
    codes = ranked_answers(right, answer)
    alike = np.zeros(codes.shape[1])
    for code in range(int(codes.max(initial=0)) + 1):
        alike += (codes == code).sum(axis=0).astype(np.float64) ** 2
    return np.asarray((members**2 - alike) / (members * (members - 1)))


def mean_churn(pairs: Pairwise) -> np.ndarray:
    """float64 [M]: each member's mean churn to the others; the smallest is the most typical one's.

    NaN for one member, or without items. The mean of all is the expected churn.
    """
    members = len(pairs.both_right)
    if members < 2:
        return np.full(members, np.nan)
    # the diagonal is 0
    return np.asarray(pairs.rate("churn").sum(axis=1) / (members - 1))


def viable_range(gold: np.ndarray) -> np.ndarray:
    """float64 [N]: largest minus smallest probability of the gold option among float [M, N].

    Watson-Daniels et al. 2023 (viable prediction range). Zeros for one member.
    """
    if gold.ndim != 2 or not len(gold):
        raise ValueError(f"probabilities: {gold.shape} is not [M, N] with M > 0")
    return np.asarray(gold.max(axis=0) - gold.min(axis=0), dtype=np.float64)


def churn_bound(error: float, epsilon: float) -> float:
    """What churn between a model with this error rate and one at most ε worse cannot exceed.

    churn(r, c) ≤ err_r + err_c ≤ 2·err_r + ε: only where one of both is wrong can they differ
    (Watson-Daniels et al. 2024). ε in shares of items, on 0/1 loss. At most 1.
    """
    return min(1.0, 2 * error + epsilon)
