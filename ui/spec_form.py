"""Fields for the parts of a study spec that are easier to choose than to write; they write YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
import yaml

from optim.rates import RATES
from services.db import Row
from services.errors import RemeltError
from services.spec import (
    BOUNDS,
    METHODS,
    Budget,
    Constraint,
    Racing,
    Search,
    StudySpec,
    parse_spec,
    written,
)
from services.studies import views
from ui import reading, specs

#: key of the text area that the fields write into
TEXT = "spec"
REFERENCE = "the reference"
POOLS_OWN = "the pool's"
#: the text that the fields were last filled from
DRAWN = "fields-of"
#: objectives over all suites
OVERALL = ("macro", *RATES)
SPACES = {
    "affine": "within bounds",
    "simplex": "none negative",
    "task": "around a base",
}


def draw(text: str, pools: Sequence[Row], suites: Sequence[Row]) -> None:
    """The fields, filled from the spec as far as it is valid; what is registered to choose from."""
    spec = _parsed(text)
    members = _members(spec)
    if st.session_state.get(DRAWN) != text:
        # the text was edited: the fields say what it says now
        st.session_state[DRAWN] = text
        st.session_state.update({f"f-{k}": v for k, v in _values(spec, pools, suites).items()})
    with (
        st.expander("Fill in a form instead", icon=":material/edit_note:"),
        st.form("fields", border=False),
    ):
        st.caption("These fields write the YAML below, which is what is submitted.")
        _question(spec, members, pools, suites)
        _method()
        _space(members)
        _groups()
        _budget()
        st.toggle(
            "Start from earlier results",
            key="f-reuse",
            help="the searcher also knows what earlier studies on the same pool, suites and "
            "reference found; the same spec then no longer makes the same suggestions",
        )
        st.form_submit_button("Write into the spec", on_click=_write)


def _values(spec: StudySpec | None, pools: Sequence[Row], suites: Sequence[Row]) -> dict[str, Any]:
    """What every field shows for a spec; defaults for one that is not valid."""
    search, budget = (spec.search, spec.budget) if spec else (Search(), Budget())
    members, known = _members(spec), [s["name"] for s in suites]
    pool = spec.pool if spec and spec.pool in [p["name"] for p in pools] else pools[-1]["name"]
    low, high = search.bounds or (None, None)
    return {
        "name": spec.name if spec else "",
        "pool": pool,
        "reference": spec.reference if spec and spec.reference in members else POOLS_OWN,
        "suites": [s for s in spec.suites if s in known] if spec else known,
        "objectives": [axis.label for axis in spec.axes] if spec else [],
        "limit": _limit(spec),
        "method": search.method,
        "racing": search.racing is not None,
        "warm": search.warm_start,
        "space": search.space,
        "base": search.base if search.base in members else REFERENCE,
        "low": low,
        "high": high,
        "layers": search.groups.layers,
        "kinds": search.groups.kinds,
        "trials": budget.trials,
        "items": budget.item_evaluations,
        "minutes": budget.wall_minutes,
        "reuse": search.reuse,
    }


def _parsed(text: str) -> StudySpec | None:
    try:
        return parse_spec(text)
    except RemeltError:
        return None


def _members(spec: StudySpec | None) -> list[str]:
    try:
        return [] if spec is None else views.pool(reading.database(), spec.pool).names
    except RemeltError:
        return []


def _question(
    spec: StudySpec | None, members: Sequence[str], pools: Sequence[Row], suites: Sequence[Row]
) -> None:
    """What is asked of which pool: the spec's own keys."""
    name, pool, reference = st.columns([4, 3, 3])
    name.text_input("Name", key="f-name")
    pool.selectbox("Pool", [p["name"] for p in reversed(pools)], key="f-pool")
    reference.selectbox(
        "Reference",
        [POOLS_OWN, *members],
        key="f-reference",
        help="the checkpoint that is deployed today",
    )
    known = [s["name"] for s in suites]
    st.multiselect("Suites", known, key="f-suites")
    own = [axis.label for axis in spec.axes] if spec else []
    ways = [*OVERALL, *known, *(f"{metric}:{suite}" for metric in RATES for suite in known)]
    objectives, limit = st.columns([7, 3], vertical_alignment="bottom")
    objectives.multiselect(
        "Objectives",
        list(dict.fromkeys([*ways, *own])),
        key="f-objectives",
        help="a suite's name is its score; macro is the mean score",
    )
    limit.number_input(
        "Negative flips ≤ %",
        min_value=0.0,
        max_value=100.0,
        value=None,
        key="f-limit",
        placeholder="no limit",
        help="on every suite, as a constraint: a candidate that breaks it is greyed and never "
        "chosen",
    )


def _limit(spec: StudySpec | None) -> float | None:
    found = (c.max for c in spec.constraints if _limits_flips(c)) if spec else iter(())
    limit = next(found, None)
    return None if limit is None else round(100 * limit, 6)


def _limits_flips(constraint: Constraint) -> bool:
    return (constraint.metric, constraint.suite) == ("negative_flip_rate", "each") and (
        constraint.max is not None
    )


def _asked(field: Mapping[str, Any], before: StudySpec | None) -> dict[str, Any]:
    """The spec's own keys as the fields say; those that say the same as before are left alone."""
    limit = field["limit"]
    kept = [c for c in before.constraints if not _limits_flips(c)] if before else []
    constraints = [written(c) for c in kept]
    if limit is not None:
        constraints.append(
            {"metric": "negative_flip_rate", "suite": "each", "max": round(limit / 100, 8)}
        )
    asked = {
        "name": field["name"].strip() or None,
        "pool": field["pool"],
        "reference": None if field["reference"] == POOLS_OWN else field["reference"],
        "suites": list(field["suites"]) or None,
        "objectives": list(field["objectives"]) or None,
        "constraints": constraints or None,
    }
    if before is None:
        return asked
    same = {
        "name": before.name,
        "pool": before.pool,
        "reference": before.reference,
        "suites": list(before.suites),
        "objectives": [axis.label for axis in before.axes],
    }
    if limit == _limit(before):
        asked.pop("constraints")
    return {key: value for key, value in asked.items() if key not in same or same[key] != value}


def _method() -> None:
    method, racing, warm = st.columns([4, 2, 2], vertical_alignment="bottom")
    method.selectbox(
        "Method",
        list(METHODS),
        format_func=lambda name: f"{name}: {METHODS[name].summary}",
        key="f-method",
    )
    racing.toggle(
        "Racing",
        key="f-racing",
        help="stops bad candidates early: one that a member of the front certainly beats is not "
        "scored to the end",
    )
    warm.number_input(
        "Descents first",
        min_value=0,
        key="f-warm",
        help="warm start: so many searches with gradients, from whose candidates the method starts",
    )


def _space(members: Sequence[str]) -> None:
    space, base, low, high = st.columns([4, 3, 2, 2])
    space.selectbox(
        "Space", list(SPACES), format_func=lambda name: f"{name}: {SPACES[name]}", key="f-space"
    )
    base.selectbox(
        "Base",
        [REFERENCE, *members],
        key="f-base",
        help="of the task space: the checkpoint that differences are added to",
    )
    about = "left out: " + ", ".join(f"{a:g} to {b:g} ({name})" for name, (a, b) in BOUNDS.items())
    low.number_input("Min. weight", value=None, step=0.1, key="f-low", help=about)
    high.number_input("Max. weight", value=None, step=0.1, key="f-high", help=about)


def _groups() -> None:
    layers, kinds = st.columns(2, vertical_alignment="bottom")
    layers.number_input(
        "Stretches of layers",
        min_value=1,
        value=None,
        key="f-layers",
        placeholder="the whole model",
        help="each with weights of its own; embeddings and head share one more row",
    )
    kinds.toggle("Attention and mlp apart", key="f-kinds")


def _budget() -> None:
    trials, items, minutes = st.columns(3)
    trials.number_input("Candidates", min_value=1, key="f-trials")
    items.number_input(
        "Item evaluations",
        min_value=1,
        value=None,
        key="f-items",
        placeholder="no limit",
        help="on the search split, baselines included; the first limit ends the search",
    )
    minutes.number_input(
        "Minutes",
        min_value=0.1,
        value=None,
        key="f-minutes",
        placeholder="no limit",
    )


def _write() -> None:
    """Put what the fields say into the text; what is a default is left out of it."""
    state = {str(key): value for key, value in st.session_state.items()}
    field = {key[2:]: value for key, value in state.items() if key.startswith("f-")}
    task = field["space"] == "task"
    bounds = [field["low"], field["high"]]
    layers = {"layers": field["layers"]} if field["layers"] else {}
    groups: dict[str, Any] = layers | ({"kinds": True} if field["kinds"] else {})
    before = _parsed(st.session_state[TEXT])
    was = before.search if before else Search()
    racing = (was.racing or Racing()).model_dump(exclude_defaults=True)
    search = {
        "method": field["method"],
        # options of another method would be errors
        **({} if field["method"] == was.method else {"options": None}),
        "racing": racing if field["racing"] else None,
        "warm_start": field["warm"] or None,
        "space": field["space"],
        "base": field["base"] if task and field["base"] != REFERENCE else None,
        "bounds": bounds if None not in bounds and field["space"] != "simplex" else None,
        "groups": groups or None,
        "reuse": field["reuse"] or None,
    }
    budget = {
        "trials": field["trials"],
        "item_evaluations": field["items"],
        "wall_minutes": field["minutes"],
    }
    try:
        text = specs.with_values(st.session_state[TEXT], "", _asked(field, before))
        text = specs.with_values(text, "search", search)
        st.session_state[TEXT] = specs.with_values(text, "budget", budget)
    except yaml.YAMLError:
        st.toast("The spec is not valid YAML: mend it first", icon=":material/error:")
