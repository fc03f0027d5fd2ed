"""Two to six candidates of a study side by side: `?study=1&trials=3,7,12`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from services.errors import BadInput
from services.studies.columns import Columns
from services.studies.pairs import FEWEST, MOST, pairs
from services.studies.read import CandidateView, OpenSplit
from services.studies.tell import Value
from ui import badges, chart, guard, reading, tables, words
from ui.measures import measures, objectives
from ui.plots.compare import pairs_figure, parallel_figure
from ui.reading import Snapshot
from ui.study import splits

CHOSEN = "compared"


def main() -> None:
    """Draw the page."""
    study = guard.number_in_url("study")
    if study is None:
        badges.hint("**No study is named.** Open a candidate, then *Compare*.")
        st.page_link(badges.STUDIES, label="Studies")
        return
    with guard.explained():
        shown = reading.snapshot(study)
        badges.crumbs(
            (badges.STUDIES, "Studies", {}),
            (badges.STUDY, f"#{study} {words.plain(shown.study.name)}", {"study": study}),
        )
        st.subheader("Compare candidates", anchor=False)
        split = splits.best_open(shown)
        every = reading.trials(shown, split)
        told = every.take(every.told)
        chosen = _choose(told)
        if len(chosen) < FEWEST:
            st.info(f"Choose {FEWEST} to {MOST} candidates that have results on {split}.")
            return
        _draw(shown, [c for n in chosen if (c := told.view_of(n)) is not None], split)


def numbers_in(text: str) -> list[int]:
    """The numbers of `3,7,12`, each once and at most `MOST`; raises BadInput for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise BadInput(f"{text[:80]!r} are no numbers of trials", mend="For example ?trials=1,2,3")
    return list(dict.fromkeys(map(int, parts)))[:MOST]


def _choose(told: Columns) -> list[int]:
    """The candidates, in the page's address."""
    about = zip(told.number.tolist(), told.role, told.label, strict=True)
    names = {number: _name(number, role, label) for number, role, label in about}
    asked = numbers_in(st.query_params.get("trials", ""))
    if missing := [n for n in asked if n not in names]:
        st.caption(f"Without results here: trial {', '.join(map(str, missing))}")
    found = st.multiselect(
        "Candidates",
        list(names),
        [n for n in asked if n in names],
        format_func=lambda number: names[number],
        max_selections=MOST,
        key=CHOSEN,
    )
    st.query_params["trials"] = ",".join(map(str, found))
    return found


def _name(number: int, role: str, label: str) -> str:
    return f"trial {number}" if role == "search" else f"trial {number} {label}"


def _draw(shown: Snapshot, found: Sequence[CandidateView], split: OpenSplit) -> None:
    names = {t.number: _name(t.number, t.role, t.label) for t in (c.trial for c in found)}
    if len(names) > 1:
        _differences(shown, names, split)
    st.markdown(f"##### Metrics · {split} split")
    frame = metrics_frame(shown, found, names)
    first = (frame["suite"] == "all") | (frame["metric"] == "score")
    _table(frame[first], "Metrics of the compared candidates with intervals")
    st.caption(
        words.plain(
            f"Each with its 95 % interval; flips and churn are against {shown.study.reference}."
        )
    )
    if not first.all():
        with st.expander("Every metric, suite by suite"):
            _table(frame[~first], "Metrics of the compared candidates, suite by suite")
    _links(shown, found)
    chart.draw(
        parallel_figure(objectives(shown.study), found, names),
        key="objectives",
        alt="Objectives of the compared candidates side by side",
    )
    if shown.study.scored:
        _changes(shown, names, split)
    else:
        st.caption("Text suites have no answers that could change.")


def _table(frame: pd.DataFrame, alt: str) -> None:
    st.dataframe(frame, hide_index=True, width="stretch", height="content", alt=alt)


def _differences(shown: Snapshot, names: Mapping[int, str], split: OpenSplit) -> None:
    """How much each scores more or less than the first, paired: the intervals above do not say."""
    first, *others = names
    study = shown.study
    columns: dict[str, list[str]] = {}
    for number in others:
        found = reading.comparison(study.id, first, number, split, shown.mark, study)
        judged = sorted(found.judgements, key=lambda j: bool(j.suite))
        columns["suite"] = [j.suite or "all, macro average" for j in judged]
        columns["items"] = [words.count(j.n) for j in judged]
        columns[names[number]] = [
            difference(j.difference, text=bool(j.suite) and study.form(j.suite) == "text")
            for j in judged
        ]
    st.markdown(f"##### Differences from {words.plain(names[first])} · {split} split")
    _table(pd.DataFrame(columns), "Paired differences of the compared candidates")
    st.caption(
        "On the same items, with 95 % intervals: *better* or *worse* where all of it lies on one "
        "side of 0, which the intervals of two scores by themselves cannot tell."
    )


def difference(found: Value, *, text: bool) -> str:
    """A difference of scores with its interval, and what it amounts to; of text suites in nats,
    where less is better."""
    if found.value is None:
        return "–"
    scale, digits, unit = (1, 3, "nats/token") if text else (100, 1, "points")
    value = f"{scale * found.value:+.{digits}f} {unit}"
    if found.low is None or found.high is None:
        return value
    ends = f"({scale * found.low:+.{digits}f} to {scale * found.high:+.{digits}f})"
    settled = found.low > 0 or found.high < 0
    way = "better" if (found.value > 0) != text else "worse"
    return f"{value} {ends} {way if settled else 'may be chance'}"


def _changes(shown: Snapshot, names: Mapping[int, str], split: OpenSplit) -> None:
    between = pairs(reading.database(), shown.study, list(names), split)
    st.markdown("##### What changes between them")
    for column, kind in zip(st.columns(2), ("churn", "negative"), strict=True):
        with column:
            figure = pairs_figure(between, names, kind)
            chart.draw(figure, key=kind, alt=f"Pairwise {kind} in percent")
    n = next(iter(between.counts.values())).n if between.counts else 0
    st.caption(
        f"Of n = {words.count(n)} items of the {split} split: churn are answers that differ; "
        "negative flips are items that the row's candidate gets right and the column's wrong."
    )


def metrics_frame(
    shown: Snapshot, found: Sequence[CandidateView], names: Mapping[int, str]
) -> pd.DataFrame:
    """One row a metric, one column a candidate: value and interval."""
    rows: list[dict[str, Any]] = []
    for measure in measures(shown.study):
        cells = [measure.of(c) for c in found]
        if not any(cells):
            continue
        row: dict[str, Any] = {
            "suite": measure.suite or "all",
            "metric": "score" if measure.metric == "score" else measure.title.split(",")[0],
            "items": max(metric.n for metric in cells if metric is not None),
        }
        # the unit stands once in a cell
        own, unit = ("%", "") if measure.unit == "%" else ("", f" {measure.unit}")
        for candidate, metric in zip(found, cells, strict=True):
            value = words.amount(None if metric is None else metric.value, own)
            bounds = words.interval(metric, own)
            row[names[candidate.trial.number]] = f"{value} ({bounds}){unit}"
        rows.append(row)
    return pd.DataFrame(rows)


def _links(shown: Snapshot, found: Sequence[CandidateView]) -> None:
    with st.container(horizontal=True):
        for candidate in found:
            trial = candidate.trial
            name = words.plain(_name(trial.number, trial.role, trial.label))
            st.page_link(
                badges.CANDIDATE,
                label=f"{name} · {tables.ROLES[trial.role]}",
                icon=":material/open_in_new:",
                query_params={"study": str(shown.study.id), "trial": str(trial.number)},
            )


if __name__ == "__main__":
    main()
