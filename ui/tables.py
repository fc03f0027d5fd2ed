"""Candidates as tables: one row a trial, one column a measure. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from services.studies.read import CandidateView, Metric
from services.studies.record import Study
from ui import words
from ui.measures import RESTATED, Measure, measures, objectives

ROLES = {
    "reference": "reference",
    "single": "checkpoint",
    "uniform": "uniform soup",
    "greedy": "greedy soup",
    "warm": "found by gradients",
    "search": "found",
    "probe": "evaluated after the choice",
}


def shown_measures(study: Study) -> list[Measure]:
    """The columns of the trial table: overall measures, every suite's score, and objectives."""
    asked = {m.key for m in objectives(study)}
    return [
        m
        for m in measures(study)
        if (m.suite == "" and m.metric not in RESTATED) or m.metric == "score" or m.key in asked
    ]


def trial_frame(
    study: Study,
    found: Sequence[CandidateView],
    chosen: int | None = None,
    shares: Mapping[int, float] | None = None,
) -> pd.DataFrame:
    """One row a trial, best rank first; shares in percent, half-widths of 95 % intervals in '±'.

    `shares`: by trial, how sure its place on the front is.
    """
    shown, shares = shown_measures(study), shares or {}
    rows = []
    for candidate in sorted(found, key=_order):
        trial = candidate.trial
        race = trial.race if trial.state == "stopped" else None
        row: dict[str, object] = {
            "open": f"trial {trial.number}",
            "number": trial.number,
            "what": ROLES[trial.role] + (" · chosen" if trial.number == chosen else ""),
            "name": trial.label,
            "state": words.stopped(race) if race else trial.state,
            "rank": trial.rank,
            "on front": 100 * shares[trial.number] if trial.number in shares else None,
            "feasible": candidate.feasible if trial.objectives is not None else None,
        }
        for measure in shown:
            metric = measure.of(candidate)
            row[measure.key] = _scaled(None if metric is None else metric.value, measure)
            row[f"± {measure.key}"] = _scaled(_half_width(metric), measure)
        row["weights"] = words.trial_weights(study, trial.weights, most=3)
        rows.append(row)
    frame = pd.DataFrame(rows)
    if not frame.empty:
        frame["rank"] = frame["rank"].astype("Int64")
    return frame


def _order(candidate: CandidateView) -> tuple[float, int]:
    trial = candidate.trial
    return (float("inf") if trial.rank is None else trial.rank, trial.number)


def _half_width(metric: Metric | None) -> float | None:
    if metric is None or metric.low is None or metric.high is None:
        return None
    return (metric.high - metric.low) / 2


def _scaled(value: float | None, measure: Measure) -> float | None:
    return None if value is None else value * (100 if measure.unit == "%" else 1)


def seen_frame(study: Study, race: Mapping[str, Any]) -> pd.DataFrame:
    """What was seen of a stopped candidate: an estimate of each objective and its bounds."""
    rows = []
    for axis, part in zip(study.spec.axes, race["objectives"], strict=True):
        text = axis.metric == "score" and study.form(str(axis.suite)) == "text"
        unit = "nats" if text else "%"
        bounds = Metric(value=None, low=part["low"], high=part["high"], n=0)
        rows.append(
            {
                "objective": axis.label,
                "estimate": words.amount(part["estimate"], unit),
                "95 % bounds": words.interval(bounds, unit),
            }
        )
    return pd.DataFrame(rows)


def metric_frame(
    study: Study, candidate: CandidateView, reference: CandidateView | None
) -> pd.DataFrame:
    """Every metric of one candidate: value, interval, n, and the reference's value."""
    rows = []
    for measure in measures(study):
        metric = measure.of(candidate)
        if metric is None:
            continue
        old = None if reference is None else measure.value(reference)
        rows.append(
            {
                "suite": measure.suite or "all",
                "metric": "score" if measure.metric == "score" else measure.title.split(",")[0],
                "value": words.amount(metric.value, measure.unit),
                "95 % interval": words.interval(metric, measure.unit),
                "items": metric.n,
                "reference": words.amount(old, measure.unit)
                if measure.metric in ("score", "macro")
                else words.DASH,
            }
        )
    return pd.DataFrame(rows)
