"""The race of one candidate: what is bet against, what was seen of it, and when to stop.

No database and no engine: `services.studies.archive` says whom it is tested against, and the engine
tells it what is scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optim import racing
from optim.predictions import MARGIN_MAX, Predictions
from optim.rates import SHARES, Metric
from services.predictions import Seen
from services.studies.claims import (
    NONE,
    Answers,
    Claim,
    Clusters,
    Items,
    Kept,
    constraints,
    members,
    of_count,
    of_flips,
    text_missed,
)
from services.studies.record import Study
from services.studies.tell import missed_by
from services.suites import Suite

#: no candidate is stopped when more than this share of its items is scored: little would be saved,
#: and a whole result lost
LATEST = 0.75


class Race:
    """Bets while a candidate is scored (`workers.engine.results.Race`)."""

    def __init__(
        self,
        study: Study,
        *,
        reference: Answers,
        archive: Mapping[int, Answers],
        seed: int,
        clusters: Clusters = NONE,
    ) -> None:
        assert study.spec.search.racing is not None
        alpha, margin = study.spec.search.racing.alpha, study.spec.search.racing.margin
        self.study, self.seed = study, seed
        self._reference, self._clusters = reference, clusters
        self.items = Items.of(study, reference, clusters)
        self.members = members(study, self.items, archive, margin)
        self.kept = constraints(study, self.items)
        #: of each of the two reasons to stop
        self._alpha = alpha / 2 if self.members and self.kept else alpha
        self._claims: list[Claim] = [c for m in self.members for c in m.claims]
        self._claims += [k.claim for k in self.kept if k.claim is not None]
        weighed = [claim.weights for claim in self._claims]
        weighed += [self.items.weights(*axis) for axis in self._axes()]
        self.suites = frozenset(
            name
            for name, part in self.items.parts.items()
            if any(weights[part].any() for weights in weighed)
        )
        self._whole = sum(suite.search_items for suite in study.suites)
        count = len(self.items)
        self._seen = np.zeros(count, dtype=bool)
        self._now, self._after = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.uint64)
        self._margin = np.zeros(count, dtype=np.float32)
        self._texts: dict[str, Predictions] = {}
        self._finished: set[str] = set()
        #: flat places of the items of each block, in the order in which they come
        self._blocks: list[np.ndarray] = []
        self._bets: racing.Bets | None = None
        #: who stopped it: {"trial": number} or {"constraint": label}
        self.by: dict[str, Any] | None = None

    def in_order(self, suites: Sequence[Suite]) -> list[Suite]:
        """The suites as they are to be scored: texts that decide something first, so that they are
        known when blocks come; what decides nothing last."""
        needed = {name for m in self.members for name in m.texts}
        needed |= {k.suite for k in self.kept if k.claim is None}
        return sorted(suites, key=lambda s: (s.name not in needed, s.name not in self.suites))

    def order(self, drawn: Sequence[tuple[str, np.ndarray]]) -> None:
        """The blocks to come."""
        self._blocks = [self.items.parts[name].start + places for name, places in drawn]
        floors = np.array([_by_block(c.floors, self._blocks) for c in self._claims])
        mine = np.array([_by_block(c.weights, self._blocks) > 0 for c in self._claims])
        self._bets = racing.Bets(np.array([c.limit for c in self._claims]), floors, mine)

    def block(self, number: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """One is scored; False: stop here."""
        assert self._bets is not None
        assert number == self._bets.seen
        at = self._blocks[number]
        self._seen[at] = True
        self._now[at], self._after[at] = arrays["correct"], arrays["answer"]
        if "margin" in arrays:
            self._margin[at] = arrays["margin"]
        self._bets.feed(np.array([[self._total(claim, at)] for claim in self._claims]))
        return self._goes_on()

    def suite(self, name: str, found: Predictions) -> bool:
        """One suite is scored to its end; False: stop here."""
        self._finished.add(name)
        if found.form != "text":
            part = self.items.parts[name]
            self._seen[part] = True
            self._now[part] = np.asarray(found.correct)
            self._after[part] = np.asarray(found.answer)
            return True
        self._texts[name] = found
        return self._goes_on()

    def _goes_on(self) -> bool:
        if self.scored <= LATEST * self._whole:
            self.by = self._stopped_by()
        return self.by is None

    def _total(self, claim: Claim, at: np.ndarray) -> float:
        values = self._values(claim.metric, at)
        return float(claim.weights[at] @ (claim.sign * values - claim.base[at]))

    def _values(self, metric: Metric, at: np.ndarray | slice) -> np.ndarray:
        items = self.items
        return racing.item_values(
            metric, items.was[at], items.before[at], self._now[at], self._after[at]
        )

    def _stopped_by(self) -> dict[str, Any] | None:
        wealth = self._log_wealth()
        start = 0
        needed = math.log(max(len(self.members), 1) / self._alpha)
        for member in self.members:
            mine = wealth[start : start + len(member.claims)]
            start += len(member.claims)
            if np.all(mine >= needed) and self._behind_on_texts(member.texts):
                return {"trial": member.number}
        needed = math.log(max(len(self.kept), 1) / self._alpha)
        for kept in self.kept:
            if kept.claim is not None:
                start += 1
                missed = wealth[start - 1] >= needed
            else:
                found = self._texts.get(kept.suite)
                missed = found is not None and self._text_missed(kept, found) > 0
            if missed:
                return {"constraint": kept.label}
        return None

    def _log_wealth(self) -> np.ndarray:
        if self._bets is None:
            return np.zeros(len(self._claims))
        return self._bets.log_wealth

    def _text_missed(self, kept: Kept, found: Predictions) -> float:
        clusters = self._clusters.get(kept.suite)
        return text_missed(kept, found, self._reference[kept.suite], clusters)

    def _behind_on_texts(self, texts: Mapping[str, tuple[float, float]]) -> bool:
        """Known to be worse on every one of these."""
        return all(
            name in self._texts and sign * (self._texts[name].score() - score) > 0
            for name, (score, sign) in texts.items()
        )

    @property
    def scored(self) -> int:
        """Items that were scored so far."""
        return int(self._seen.sum()) + sum(map(len, self._texts.values()))

    def unfinished(self) -> list[tuple[str, Seen]]:
        """What was scored of the suites that have begun and did not end, by name."""
        found = []
        for name, part in self.items.parts.items():
            seen = self._seen[part]
            if name in self._finished or not seen.any():
                continue
            form = self.study.form(name)
            margin = np.clip(self._margin[part], -MARGIN_MAX, MARGIN_MAX).astype(np.float16)
            predictions = Predictions(
                form=form,
                items=self._reference[name].items,
                correct=self._now[part],
                answer=self._after[part],
                margin=margin if form == "choice" else None,
            )
            found.append((name, Seen(seen=seen, predictions=predictions)))
        return found

    def report(self) -> dict[str, Any]:
        """What is stored of a race, JSON-ready."""
        found: dict[str, Any] = {
            "archive": [member.number for member in self.members],
            "constraints": [kept.label for kept in self.kept],
            "seed": self.seed,
            "by": self.by,
            "log_wealth": [_finite(w) for w in self._log_wealth()],
        }
        if self.by is None:
            return {name: value for name, value in found.items() if name != "by"}
        seen = {name: int(self._seen[part].sum()) for name, part in self.items.parts.items()}
        seen |= {name: len(texts) for name, texts in self._texts.items()}
        return found | {
            "seen": {suite.name: seen.get(suite.name, 0) for suite in self.study.suites},
            "objectives": [self._objective(*axis) for axis in self._axes()],
            "violation": self._violation(),
        }

    def _axes(self) -> list[tuple[Metric, str | None]]:
        return [(axis.metric, axis.suite) for axis in self.study.spec.axes]

    def _objective(self, metric: Metric, suite: str | None) -> dict[str, float | None]:
        """Estimate of a metric from what was seen, and a betting confidence sequence's bounds."""
        if suite is not None and self.study.form(suite) == "text":
            if suite in self._texts:
                known = self._texts[suite].score()
                return {"estimate": known, "low": known, "high": known}
            return {"estimate": self._reference[suite].score(), "low": None, "high": None}
        items, weights = self.items, self.items.weights(metric, suite)
        if not weights.any():
            best = SHARES[metric].vacuous
            return {"estimate": best, "low": best, "high": best}
        own, most = self._own(metric), racing.most_possible(metric, items.was)
        # stopped by a text before any block came: nothing of it is known
        blocks = [at for at in self._blocks or [np.arange(len(items))] if weights[at].any()]
        count = sum(bool(self._seen[at].all()) for at in blocks)
        change = weights * (self._values(metric, slice(None)) - own)
        low, high = racing.total_interval(
            _by_block(change, blocks[:count]),
            _by_block(-weights * own, blocks),
            _by_block(weights * (most - own), blocks),
        )
        base = float(weights @ own)
        estimate = min(max(self._estimate(metric, weights), base + low), base + high)
        return {"estimate": estimate, "low": base + low, "high": base + high}

    def _estimate(self, metric: Metric, weights: np.ndarray) -> float:
        """A metric as if every suite went on as it began: the reference's, changed by so much."""
        own = self._own(metric)
        change, total = self._values(metric, slice(None)) - own, float(weights @ own)
        for part in self.items.parts.values():
            seen = self._seen[part] & (weights[part] > 0)
            if seen.any():
                total += float(weights[part].sum() * change[part][seen].mean())
        return min(max(total, 0.0), 1.0)

    def _own(self, metric: Metric) -> np.ndarray:
        """The reference's values."""
        return self.items.own(metric)

    def _violation(self) -> float:
        """Sum over the constraints of how far each seems to be missed."""
        total = 0.0
        for kept in self.kept:
            total += max(0.0, self._missed(kept))
        # the one that stopped it is missed, whatever the estimate says
        stopped = self.by is not None and "constraint" in self.by
        return max(total, 1 / max(len(self.items), 1)) if stopped else total

    def _missed(self, kept: Kept) -> float:
        if kept.claim is None:
            found = self._texts.get(kept.suite)
            return 0.0 if found is None else self._text_missed(kept, found)
        claim, weights = kept.claim, kept.claim.weights
        value = self._estimate(kept.constraint.metric, weights)
        if kept.constraint.metric == "macro":
            return claim.sign * value - float(weights @ claim.base) - claim.limit
        n = int((weights > 0).sum())
        if kept.constraint.at_most_worse is not None:
            lost = self._estimate("negative_flip_rate", weights)
            won = self._estimate("positive_flip_rate", weights)
            return missed_by(kept.constraint, of_flips(lost * n, won * n, n, kept.typical))
        return missed_by(kept.constraint, of_count(round(value * n), n, kept.typical))


def _by_block(values: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [C]: sums over the items of each block."""
    return np.array([float(values[at].sum()) for at in blocks])


def _finite(value: float) -> float | None:
    """JSON has no infinity: None is a claim that is refuted for certain."""
    return round(float(value), 3) if math.isfinite(value) else None
