"""Fields for the parts of a study spec that are easier to choose than to write; they write YAML."""

from __future__ import annotations

from typing import Any

import streamlit as st
import yaml

from services.errors import RemeltError
from services.spec import BOUNDS, METHODS, Budget, Groups, Racing, Search, StudySpec, parse_spec
from services.studies import views
from ui import reading, specs

#: key of the text area that the fields write into
TEXT = "spec"
REFERENCE = "the reference"
SPACES = {
    "affine": "within bounds",
    "simplex": "none negative",
    "task": "around a base",
}


def draw(text: str) -> None:
    """The fields, filled from the spec as far as it is valid."""
    spec = _parsed(text)
    search, budget = (spec.search, spec.budget) if spec else (Search(), Budget())
    with st.expander("Method, space, groups, budget"), st.form("fields", border=False):
        _method(search)
        _space(search, _members(spec))
        _groups(search.groups)
        _budget(budget)
        st.toggle(
            "Start from earlier results",
            search.reuse,
            key="f-reuse",
            help="the searcher also knows what earlier studies on the same pool, suites and "
            "reference found; the same spec then no longer makes the same suggestions",
        )
        st.form_submit_button("Write into the spec", on_click=_write)


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


def _method(search: Search) -> None:
    method, racing, warm = st.columns([4, 2, 2], vertical_alignment="bottom")
    names = list(METHODS)
    method.selectbox(
        "Method",
        names,
        names.index(search.method),
        format_func=lambda name: f"{name}: {METHODS[name].summary}",
        key="f-method",
    )
    racing.toggle(
        "Stop bad candidates early",
        search.racing is not None,
        key="f-racing",
        help="racing: one that a member of the front certainly beats is not scored to the end",
    )
    warm.number_input(
        "Descents first",
        min_value=0,
        value=search.warm_start,
        key="f-warm",
        help="warm start: so many searches with gradients, from whose candidates the method starts",
    )


def _space(search: Search, members: list[str]) -> None:
    space, base, low, high = st.columns([4, 3, 2, 2])
    space.selectbox(
        "Space",
        list(SPACES),
        list(SPACES).index(search.space),
        format_func=lambda name: f"{name}: {SPACES[name]}",
        key="f-space",
    )
    bases = [REFERENCE, *members]
    base.selectbox(
        "Base",
        bases,
        bases.index(search.base) if search.base in bases else 0,
        key="f-base",
        help="of the task space: the checkpoint that differences are added to",
    )
    bounds = search.bounds or (None, None)
    about = "left out: " + ", ".join(f"{a:g} to {b:g} ({name})" for name, (a, b) in BOUNDS.items())
    low.number_input("Smallest weight", value=bounds[0], step=0.1, key="f-low", help=about)
    high.number_input("Largest weight", value=bounds[1], step=0.1, key="f-high", help=about)


def _groups(groups: Groups) -> None:
    layers, kinds = st.columns(2, vertical_alignment="bottom")
    layers.number_input(
        "Stretches of layers",
        min_value=1,
        value=groups.layers,
        key="f-layers",
        placeholder="the whole model",
        help="each with weights of its own; embeddings and head share one more row",
    )
    kinds.toggle("Attention and mlp apart", groups.kinds, key="f-kinds")


def _budget(budget: Budget) -> None:
    trials, items, minutes = st.columns(3)
    trials.number_input("Candidates", min_value=1, value=budget.trials, key="f-trials")
    items.number_input(
        "Item evaluations",
        min_value=1,
        value=budget.item_evaluations,
        key="f-items",
        placeholder="no limit",
        help="on the search split, baselines included; the first limit ends the search",
    )
    minutes.number_input(
        "Minutes",
        min_value=0.1,
        value=budget.wall_minutes,
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
        text = specs.with_values(st.session_state[TEXT], "search", search)
        st.session_state[TEXT] = specs.with_values(text, "budget", budget)
    except yaml.YAMLError:
        st.toast("The spec is not valid YAML: mend it first", icon=":material/error:")
