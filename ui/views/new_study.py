"""A new study from YAML: an example to start from, errors at their line, and what it costs."""

from __future__ import annotations

import streamlit as st

from services.errors import RemeltError, SpecRefused
from services.spec import StudySpec, parse_spec, spec_yaml
from services.studies import read, views
from services.studies.preflight import Preflight, preflight
from services.studies.submit import submit
from ui import badges, guard, pool_words, reading, sign_in, spec_form, specs, tables, words

CLONED = "cloned-from"
TOKENS = {
    "measured": "Tokens by item as in this pool's latest evaluations of these suites.",
    "estimated": "Tokens are a rough estimate, bytes of the items ÷ 4, where this pool has not "
    "been evaluated on a suite; a shared beginning may be run only once.",
}


def main() -> None:
    """Draw the page."""
    st.title("New study", anchor=False)
    with guard.explained():
        pools, suites = views.pools(reading.database()), views.suites(reading.database())
        if not pools or not suites:
            _not_ready(bool(pools), bool(suites))
            return
        source = _cloned()
        who = sign_in.user()
        left, right = st.columns([3, 2], gap="large")
        with left:
            if source is not None:
                st.caption(f"A clone of study #{source}: change what is to differ.")
            # no default of the widget: the fields set it too
            spec_form.draw(
                st.session_state.setdefault(spec_form.TEXT, specs.example(pools, suites)),
                pools,
                suites,
            )
            text = st.text_area(
                "Spec (YAML)",
                height=470,
                key=spec_form.TEXT,
                persist_state="session",
                help="Checked when you leave the field or press Ctrl+Enter. All keys: "
                "`remelt study schema`",
            )
            with st.expander("Search methods and their options", icon=":material/tune:"):
                st.markdown(specs.methods())
            pressed = False
            if who.may("submitter"):
                pressed = st.button("Submit study", type="primary", icon=":material/rocket_launch:")
            else:
                st.caption(f"You are a {who.role}: you may look at what it would cost, not submit.")
        with right:
            spec = _checked(text)
        if pressed and spec is not None:
            made = submit(reading.database(), spec, by=who)
            badges.go(badges.STUDY, study=made.study)


def _cloned() -> int | None:
    """The study whose spec the page opens with (`?clone=1`): written into the editor once."""
    source = guard.number_in_url("clone")
    if source is not None and st.session_state.get(CLONED) != source:
        spec = read.get_study(reading.database(), source).spec
        st.session_state[spec_form.TEXT] = spec_yaml(spec)
        st.session_state[CLONED] = source
    return source


def _not_ready(pools: bool, suites: bool) -> None:
    if not pools:
        badges.hint(
            "**First register a pool**: checkpoints of one architecture, and which of them is "
            "deployed today.",
            "remelt pool add NAME --reference DEPLOYED DIR DIR …",
            page=(badges.POOLS, "On the page Pools, or:"),
        )
    if not suites:
        badges.hint(
            "**First register a suite**: a JSON Lines file of questions with answers.",
            "remelt suite add NAME FILE.jsonl",
            page=(badges.SUITES, "On the page Suites, or:"),
        )


def _checked(text: str) -> StudySpec | None:
    """The spec with its preflight, or None after showing what is wrong and where."""
    try:
        spec = parse_spec(text)
        found = preflight(reading.database(), spec)
    except SpecRefused as error:
        _show_refusal(error, text)
        return None
    except RemeltError as error:
        guard.explain(error)
        return None
    _show_preflight(spec, found)
    return spec


def _show_refusal(error: SpecRefused, text: str) -> None:
    field = specs.field_of(error.where)
    line = specs.line_of(text, field) if field else specs.yaml_line(error.where)
    place = f"**Line {line}** " if line else ""
    name = f"`{field}`: " if field and "`" not in field else ""
    mend = f"  \n{words.plain(error.mend)}" if error.mend else ""
    message = f"{place}{name}{words.plain(error.what)}{mend}"
    st.error(message, icon=":material/error:")
    lines = text.splitlines()
    if line and line <= len(lines):
        st.code(lines[line - 1].strip() or " ", language="yaml")


def _show_preflight(spec: StudySpec, found: Preflight) -> None:
    st.success("The spec is valid.", icon=":material/check:")
    st.markdown("##### Preflight")
    st.caption("A dry run: nothing is stored before you submit. Items of every suite by split:")
    st.dataframe(
        tables.counted(
            {
                "suite": [s[0] for s in found.suites],
                "form": [s[1] for s in found.suites],
                "search": [s[2] for s in found.suites],
                "validation": [s[3] for s in found.suites],
                "test": [s[4] for s in found.suites],
            },
            "search",
            "validation",
            "test",
        ),
        hide_index=True,
        width="stretch",
        height="content",
        alt="Items of every suite by split",
    )
    groups = f" in {found.groups} groups of tensors" if found.groups > 1 else ""
    st.markdown(
        f"- pool **{words.plain(spec.pool)}**: {found.checkpoints} checkpoints of "
        f"{words.large(found.parameters)} parameters, reference "
        f"**{words.plain(found.reference)}**\n"
        f"{pool_words.lines(found.report)}\n"
        f"- {found.free} free weights{groups} in the {spec.search.space} space\n"
        f"- {words.count(found.items_per_candidate)} item evaluations per candidate on the search "
        f"split\n"
        f"- search: {found.baselines} baselines, up to {found.greedy} greedy soups and "
        f"at most {words.count(found.candidates)} candidates = at most "
        f"**{words.large(found.items_search)}** item evaluations\n"
        f"- finals: at most {words.large(found.items_finals)} more on validation and test\n"
        f"- about **{words.large(found.tokens_search)}** tokens in the search, "
        f"{words.large(found.tokens_per_candidate)} per candidate"
    )
    st.caption(TOKENS[found.tokens_how])
    smallest = min((s for s in found.suites if s[1] != "text"), key=lambda s: s[2], default=None)
    if smallest is not None and smallest[2] < 100:
        st.warning(
            f"{words.plain(smallest[0])} has only {smallest[2]} search items: a 95 % interval is "
            f"about ±{100 * 1.96 * (0.25 / smallest[2]) ** 0.5:.0f} points wide.",
            icon=":material/warning:",
        )


if __name__ == "__main__":
    main()
