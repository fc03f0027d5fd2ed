"""The answer in a few cards: the chosen (or so far best) candidate against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import streamlit as st

from services.findings import Finding
from services.studies.columns import Columns
from services.studies.read import CandidateView
from services.studies.views import merits_of
from ui import badges, reading, words
from ui.measures import Measure, defaults, measures, objectives
from ui.reading import Snapshot
from ui.study import splits

MOST_CARDS = 4


def title(shown: Snapshot, columns: Columns) -> None:
    """Which candidate is the answer, its weights, and the way to it; or that there are no results.
    That none is feasible is for `unmet`."""
    study = shown.study
    candidate = leading(shown, columns)
    if candidate is None:
        if not columns.told.any():
            _nothing(shown)
        return
    number = candidate.trial.number
    chosen = number == shown.summary["chosen"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"**{'Chosen' if chosen else 'Best so far'}: {_what(candidate)}** · "
            f"{words.plain(words.trial_weights(study, candidate.trial.weights))}",
            width="content",
        )
        st.page_link(
            badges.CANDIDATE,
            label="open",
            icon=":material/open_in_new:",
            query_params={"study": str(study.id), "trial": str(number)},
            width="content",
        )


def draw(shown: Snapshot, columns: Columns) -> None:
    """The answer's main numbers, with change, interval, n and split beside them."""
    reference = reference_of(columns)
    candidate = leading(shown, columns)
    if candidate is None or reference is None:
        return
    for measure in _important(shown):
        with st.container(border=True, gap="xxsmall"):
            _card(measure, candidate, reference, shown)


def leading(shown: Snapshot, columns: Columns) -> CandidateView | None:
    """The chosen candidate; before there is one, the feasible one of highest merit."""
    told = columns.take(columns.told)
    chosen = told.view_of(shown.summary["chosen"])
    if chosen is not None:
        return chosen
    feasible = told.take(told.feasible)
    if not len(feasible):
        return None
    return feasible.view(int(np.argmax(merits_of(shown.study, feasible))))


def reference_of(columns: Columns) -> CandidateView | None:
    """The reference, once it has results."""
    places = np.flatnonzero(columns.told & (columns.role == "reference"))
    return columns.view(int(places[0])) if len(places) else None


def _important(shown: Snapshot) -> list[Measure]:
    """What the default plot shows, then the objectives, then churn; each once."""
    known = {m.key: m for m in measures(shown.study)}
    own = [m.key for m in objectives(shown.study)]
    keys = dict.fromkeys((*reversed(defaults(shown.study)), *own, "churn"))
    return [known[key] for key in keys if key in known][:MOST_CARDS]


def _what(candidate: CandidateView) -> str:
    trial = candidate.trial
    name = "" if trial.role == "search" else f" ({words.plain(trial.label)})"
    return f"trial {trial.number}{name}"


def _card(
    measure: Measure, candidate: CandidateView, reference: CandidateView, shown: Snapshot
) -> None:
    metric, old = measure.of(candidate), measure.of(reference)
    if metric is None:
        return
    delta, beside = None, None
    if measure.metric in ("score", "macro") and old is not None and old.value is not None:
        change = (metric.value or 0) - old.value
        scale, unit = (100, "points") if measure.unit == "%" else (1, measure.unit)
        delta = f"{scale * change:+.{1 if scale == 100 else 3}f} {unit}"
        beside = f"against {shown.study.reference}"
    elif metric.value is not None:
        delta = f"{words.count(round(metric.value * metric.n))} items"
    st.metric(
        # a suite is called what it is called
        words.plain(measure.title if measure.metric == "score" else words.sentence(measure.title)),
        words.amount(metric.value, measure.unit),
        delta=delta,
        delta_color=_colour(measure) if beside else "off",
        delta_arrow="auto" if beside else "off",
        delta_description=beside,
        help=words.plain(measure.meaning),
    )
    n = words.count(metric.n)
    st.caption(f"95 % {words.interval(metric, measure.unit)} · n = {n} · {candidate.split}")
    if measure.key == "negative_flip_rate":
        noise(shown, candidate.split)


def noise(shown: Snapshot, split: str) -> None:
    """The floor below which flips mean nothing, where it was measured."""
    if floor := reading.noise_floor(shown, split):
        st.caption(words.plain(floor), help="measured by `remelt noise`")


def _colour(measure: Measure) -> Literal["normal", "inverse"]:
    return "normal" if measure.better == "maximize" else "inverse"


def unmet(shown: Snapshot, columns: Columns, found: Sequence[Finding]) -> None:
    """That nothing is feasible, unless a finding says so, with the constraint and the distance."""
    if not columns.told.any() or leading(shown, columns) is not None:
        return
    if any(finding.kind == "constraint" for finding in found):
        return
    split, mend = splits.best_open(shown), "Relax them, or search longer."
    st.warning(
        f"No candidate meets the constraints on {split}{' so far' if shown.live else ''}. {mend}",
        icon=":material/warning:",
    )


def _nothing(shown: Snapshot) -> None:
    if shown.live:
        st.info(
            "No results yet: the reference and the other baselines are evaluated first. "
            "This page draws itself again as soon as there is something to see.",
            icon=":material/hourglass_top:",
        )
    else:
        st.info("This study ended without results.")
