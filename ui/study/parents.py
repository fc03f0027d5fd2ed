"""What a candidate has from its parents: what each of them is worth to it, and signs that one of
them has seen a suite.
"""

from __future__ import annotations

import streamlit as st

from services import leakage
from services.db import Row
from services.errors import BadInput
from services.studies import attribution, control, probes
from services.studies.attribution import Attribution
from services.studies.coalitions import Plan
from services.studies.probes import Standing
from services.studies.read import OpenSplit
from services.studies.record import Study
from ui import chart, guard, live, reading, sign_in, words
from ui.measures import objectives
from ui.plots.worth import worth_figure
from ui.reading import Mark, Snapshot

#: merges without results that are named
NAMED = 3


def seen_suites(shown: Snapshot, number: int) -> None:
    """Suites that a parent seems to have seen, the worst parent of each; a merge inherits it."""
    candidate = reading.trials(shown, "search").view_of(number)
    if candidate is None:
        return
    said = set()
    for one in leakage.of_candidate(reading.database(), shown.study, candidate.trial):
        suite = one.leakage.suite
        if suite in said:
            continue
        said.add(suite)
        st.warning(
            f"**{words.plain(one.parent)} (weight {one.weight:.2f}) may have seen "
            f"{words.plain(suite)}**: {words.plain(one.leakage.what)}. A merge inherits that: its "
            "scores there may be better than it is.",
            icon=":material/visibility:",
        )


def worth(shown: Snapshot, detail: Row, split: str) -> None:
    """Leave-one-out and Shapley values of the parents from what was evaluated, and the button that
    asks for the rest; nothing before the study's choice."""
    study, number = shown.study, int(detail["number"])
    if study.phase not in ("publish", "done") or detail["role"] == "probe":
        return
    on: OpenSplit = "search" if split == "search" else "validation"
    st.markdown(f"##### What each parent is worth · {on} split")
    try:
        found = reading.worth_of_parents(study.id, number, on, shown.mark, study)
    except BadInput as error:  # it has no parents to tell apart
        st.caption(words.plain(f"{error.what}."))
        return
    if len(found.plan.players) < 2:
        st.caption("It has one parent.")
        return
    standing = _standing(study, found.plan)
    live.follow(
        _mark(standing),
        lambda: _mark(_standing(study, found.plan)),
        active=standing.open > 0,
        pulse=(lambda: _progress(study, _standing(study, found.plan))) if standing.open else None,
    )
    if standing.open and standing.held:
        _paused(study)
    _ask(shown, found.plan, standing)
    _bars(study, found)


def _standing(study: Study, plan: Plan) -> Standing:
    return probes.standing(reading.database(), study, plan.merges, plan.split)


def _mark(standing: Standing) -> Mark:
    """What the page must be drawn again for: the last result, one that failed, pausing."""
    return (standing.open > 0, len(standing.failed), standing.held)


def _progress(study: Study, standing: Standing) -> None:
    text = f"{standing.told} of {standing.total} merges evaluated, {standing.open} to come"
    if standing.held:
        text += " · paused"
    elif reading.nobody_works():
        text += " · no worker has been seen for a minute: start one, `remelt worker`"
    st.progress(standing.told / max(standing.total, 1), text=text)


def _paused(study: Study) -> None:
    """Why nothing moves, and the button that lets it."""
    st.caption(
        words.plain(f"The probes of this study are paused (remelt study pause {study.id}): ")
        + "nothing is handed out until they are resumed."
    )
    who = sign_in.user()
    if who.may("submitter", owner=study.owner) and st.button(
        "Resume the probes", icon=":material/play_arrow:"
    ):
        with guard.explained():
            control.resume(reading.database(), study.id, by=who)
            st.rerun()


def _ask(shown: Snapshot, plan: Plan, standing: Standing) -> None:
    study = shown.study
    for number, what, why in standing.failed[:NAMED]:
        st.caption(words.plain(f"Trial {number} ({what}) has no results: {why}"))
    if not standing.missing:
        return
    who, n = sign_in.user(), standing.missing
    st.caption(
        f"{standing.told} of the {standing.total} merges of some of its parents that this rests on "
        "have been evaluated. The others cost as much as one candidate each, and change nothing of "
        "the study."
    )
    if who.may("submitter", owner=study.owner):
        evaluations = "1 evaluation" if n == 1 else f"{n} evaluations"
        if st.button(f"Evaluate the merges it needs ({evaluations})", icon=":material/science:"):
            with guard.explained():
                attribution.submit(reading.database(), study, plan, by=who)
                st.rerun()
    else:
        st.caption("Its owner and admins may have them evaluated.")


def _bars(study: Study, found: Attribution) -> None:
    plan, drawn, axes = found.plan, 0, objectives(study)
    for start in range(0, len(axes), 2):
        for column, axis, measure in zip(
            st.columns(2, gap="medium"), found.axes[start:], axes[start:], strict=False
        ):
            figure = worth_figure(plan.players, axis, measure)
            if figure is not None:
                drawn += 1
                with column:
                    chart.draw(figure, key=f"worth-{axis.name}", alt=_alt(measure.title))
    if drawn:
        st.caption(_meaning(found))


def _alt(name: str) -> str:
    return f"What each parent is worth in {name}: leave-one-out and Shapley values"


def _meaning(found: Attribution) -> str:
    plan, orders = found.plan, found.plan.design.permutations
    absent = (
        "the shares of the others are renormalised"
        if plan.base is None
        else f"{plan.base} takes the weight of absent ones"
    )
    over = "items" if orders is None else f"items and {orders} orders of joining"
    return words.plain(
        f"Left out: what the candidate would lose without this parent; {absent}. Shapley value: "
        "what the parent adds on average, whoever is there already; of two that can stand in for "
        "each other neither is missed, and both have a value. Shapley values add up to the "
        f"candidate less no parent at all, which is worth what the {plan.empty} is. 95 % intervals "
        f"over {over}, n = {words.count(found.n)} items."
    )
