"""Candidates as tables: one row a trial, one column a measure. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from services.studies.columns import Columns
from services.studies.read import CandidateView, Metric
from services.studies.record import Study
from services.words import ROLES as ROLES
from ui import words
from ui.measures import RESTATED, Measure, measures, objectives


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
    columns: Columns,
    chosen: int | None = None,
    shares: Mapping[int, float] | None = None,
    most: int | None = None,
) -> pd.DataFrame:
    """One row a trial, best rank first, of larger studies the first `most`; shares in percent,
    half-widths of 95 % intervals in '±'.

    `shares`: by trial, how sure its place on the front is.
    """
    some = columns.take(np.lexsort((columns.number, columns.rank))[:most])
    number, shares = some.number, shares or {}
    frame: dict[str, Any] = {
        "open": [f"trial {n}" for n in number],
        "number": number,
        "what": [
            ROLES[role] + (" · chosen" if n == chosen else "")
            for role, n in zip(some.role, number, strict=True)
        ],
        "name": some.label,
        "state": [
            words.stopped(race) if state == "stopped" and race else state
            for state, race in zip(some.state, some.race, strict=True)
        ],
        "rank": pd.array(some.rank, dtype="Float64").astype("Int64"),
        "on front": [100 * shares[n] if n in shares else np.nan for n in number.tolist()],
        "feasible": [
            bool(ok) if told else None for ok, told in zip(some.feasible, some.told, strict=True)
        ],
    }
    for measure in shown_measures(study):
        numbers = measure.numbers(some)
        missing = np.full(len(some), np.nan)
        value = missing if numbers is None else numbers.value
        half = missing if numbers is None else (numbers.high - numbers.low) / 2
        scale = 100 if measure.unit == "%" else 1
        frame[measure.key], frame[f"± {measure.key}"] = scale * value, scale * half
    frame["weights"] = [words.trial_weights(study, w, most=3) for w in some.weights.tolist()]
    if not shares:
        del frame["on front"]
    return pd.DataFrame(frame)


def counted(table: Any, *columns: str) -> Styler:
    """A table whose counts are written like all others; they still sort as numbers, which a column
    of text would not, and do not depend on the browser's language, as Streamlit's own do."""
    forms = dict.fromkeys(columns, words.count)
    return pd.DataFrame(table).style.format(forms, na_rep="")  # type: ignore[arg-type]


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
