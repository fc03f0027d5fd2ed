"""The scatter of the study page with its axes, filters, selection and pickers, and what stands
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from services.studies.columns import Columns
from services.studies.looking import best_with_few_flips, flips_of, knee_of
from ui import badges, chart, reading, words
from ui.measures import Measure, defaults, measures
from ui.plots.front import front_figure, revision
from ui.reading import Snapshot
from ui.study import cards, choice, plots, splits, table


def draw(shown: Snapshot) -> tuple[Columns, str]:
    """Controls and plots; returns what the rest of the page shows too: the trials that pass the
    filters, and the split."""
    study = shown.study
    known = {m.key: m for m in measures(study)}
    first_x, first_y = defaults(study)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        split = splits.choose(shown)
        y = _axis("Y axis", "y", known, first_y)
        x = _axis("X axis", "x", known, first_x)
        zoom = st.toggle("around the front", value=True, key="zoom")
        bars = st.toggle("95 % intervals", value=True, key="bars")
        every = splits.trials(shown, split)
        passes, made = choice.filters(study, every)
        st.space("stretch")
        splits.test_report(shown)
    trials = every if passes.all() else every.take(passes)
    # always there, as is the other below: a plot that moves is drawn anew and loses its zoom
    with st.container():
        if len(trials) < len(every):
            st.caption(
                f":material/filter_alt: The filter shows {words.count(len(trials))} of "
                f"{words.count(len(every))} trials, in every plot and in the table."
            )
    if not every.told.any():
        return trials, split
    drawn = chart.selection(_key(shown), revision(x, y, trials.split, zoom=zoom))
    selected = trials.take(choice.inside(trials, x, y, drawn))
    left, right = st.columns([7, 3], gap="medium")
    with left:
        plot = st.container()
        picks = _picks(shown, trials)
    with plot:
        _scatter(shown, trials, split, x, y, zoom=zoom, bars=bars, picks=picks, selected=selected)
    with right:
        best = splits.best_open(shown)
        cards.draw(shown, every if split == "test" else reading.trials(shown, best))
    if len(selected):
        _selected(shown, selected)
    plots.draw(shown, trials, y, selected.number.tolist(), (split, made))
    return trials, split


def _axis(label: str, key: str, known: dict[str, Measure], first: str) -> Measure:
    options = list(known)
    chosen = st.selectbox(
        label,
        options,
        index=options.index(first),
        format_func=lambda k: known[k].title,
        key=key,
        bind="query-params",
        width=180,
    )
    return known[chosen or first]


def _key(shown: Snapshot) -> str:
    return f"front-{shown.study.id}"


def _scatter(
    shown: Snapshot,
    trials: Columns,
    split: str,
    x: Measure,
    y: Measure,
    *,
    zoom: bool,
    bars: bool,
    picks: Mapping[str, int],
    selected: Columns,
) -> None:
    with st.container():  # where it says that it takes a while
        shares = splits.on_the_front(shown, split)
    figure = front_figure(
        shown.study, trials, x, y, chosen=shown.summary["chosen"], bars=bars, zoom=zoom,
        picks=picks, shares=shares, selected=selected.number.tolist(),
    )  # fmt: skip
    clicked = chart.draw(
        figure, key=_key(shown), alt=f"{y.title} against {x.title} of every candidate", selects=True
    )
    left_out = figure.layout.meta or {"outside": 0, "hidden": 0}
    more = ""
    if left_out["outside"]:
        more += f" {words.count(left_out['outside'])} lie outside: switch off *around the front*."
    if left_out["hidden"]:
        more += f" {words.count(left_out['hidden'])} lie under others: select or filter to see all."
    st.caption(
        "Click a point to open the candidate; drag to zoom, double-click to reset. To select "
        f"several, take the box or the lasso above the plot.{more}"
    )
    if clicked is not None:
        open_candidate(shown, clicked)


def _picks(shown: Snapshot, trials: Columns) -> dict[str, int]:
    """Candidates worth a look, ringed in the plot: by name in the plot's `RINGS`, their numbers."""
    found: dict[str, int] = {}
    flips = flips_of(trials)
    with st.container(border=True, horizontal=True, gap="small", vertical_alignment="bottom"):
        if (number := knee_of(shown.study, trials)) is not None:
            found["knee"] = number
            _pick(shown, trials, "Knee of the front", number, "the least sum of the objectives, "
                  "each scaled from the front's best to its worst value")  # fmt: skip
        if not np.isnan(flips).all():
            most = st.number_input(
                "At most this many negative flips", width=215,
                min_value=0, value=_few(trials, flips), step=1, key=f"few-flips-{shown.study.id}",
                help="items that the reference gets right and the candidate wrong, over all "
                "suites of the shown split; the best mean of the objectives among those that "
                "meet the constraints",
            )  # fmt: skip
            best = best_with_few_flips(shown.study, trials, int(most))
            if best is None:
                st.caption("None has so few: raise the number.", width="content")
            else:
                found["few flips"] = best
                _pick(shown, trials, "Best of these", best, "")
        elif not found:
            st.caption("Nothing to pick from yet: candidates need results first.")
    return found


def _few(trials: Columns, flips: np.ndarray) -> int:
    """A number to begin with: a quarter of what the front's candidates have at most, and no less
    than the fewest of those that meet the constraints, so that there is a best one."""
    known = ~np.isnan(flips)
    front, feasible = flips[trials.front & known], flips[trials.feasible & known]
    return int(max(front.max() // 4, feasible.min())) if len(front) else 0


def _pick(shown: Snapshot, trials: Columns, name: str, number: int, why: str) -> None:
    candidate = trials.view_of(number)
    assert candidate is not None
    y = {m.key: m for m in measures(shown.study)}[defaults(shown.study)[1]]
    flips = int(flips_of(trials)[np.flatnonzero(trials.number == number)[0]]) if (
        ("", "negative_flip_rate") in trials.metrics) else None  # fmt: skip
    told = f"{words.plain(y.title)} {words.amount(y.value(candidate), y.unit)}"
    told += f", {flips} negative flips" if flips is not None else ""
    with st.container(width="content", gap=None):
        st.caption(f"**{name}**  \n{told}", width="content", help=why or None)
        st.page_link(
            badges.CANDIDATE,
            label=f"trial {number}",
            icon=":material/open_in_new:",
            query_params={"study": str(shown.study.id), "trial": str(number)},
            width="content",
        )


def _selected(shown: Snapshot, selected: Columns) -> None:
    """The selected candidates as a table."""
    several = "candidate" if len(selected) == 1 else "candidates"
    st.markdown(f"##### Selected: {words.count(len(selected))} {several}")
    table.grid(shown, selected, {}, key="selected", alt="Selected trials with their metrics",
               height=min(38 + 35 * len(selected), 260))  # fmt: skip


def open_candidate(shown: Snapshot, number: int) -> None:
    """Go to the candidate's page."""
    badges.go(badges.CANDIDATE, study=shown.study.id, trial=number)
