"""The health of a suite: what is wrong with its items, what somebody gets who never reads them, and
what a study's answers say of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from optim.suite_answers import Leaning
from services import suite_health
from services.db import Row
from services.studies import views
from services.studies.suite_answers import SuiteAnswers
from services.suite_health import DISCORDANT, SuiteHealth
from services.suites import SPLITS
from ui import badges, flip_list, reading, words

#: items that are looked at unasked: more may take over a second
AT_ONCE = 10_000
GUESSERS = {
    "position": "the commonest position", "option": "the commonest answer",
    "longest": "the longest option", "shortest": "the shortest option",
    "bayes": "words of the options (naive Bayes)",
}  # fmt: skip
#: ids that are named
NAMED = 12


def draw(suite: Row) -> None:
    """The report of one suite, of those in `views.suites`; with a study chosen, what was answered
    too."""
    name, study = str(suite["name"]), None
    st.markdown(f"##### Health of {words.plain(name)}")
    asked = {s["id"]: s for s in views.studies_of_suite(reading.database(), name)}
    if asked:
        study = st.selectbox(
            "With the answers of study",
            list(asked),
            index=None,
            format_func=lambda number: f"#{number} {asked[number]['name']}",
            placeholder="none: the items alone",
            key=f"health-study-{name}",
            width=320,
        )
    if not _wanted(suite):
        return
    health = reading.health_of_suite(name, suite["digest"], study)
    badges.findings(health.findings)
    if not health.findings:
        st.caption(":material/check: Nothing is wrong with its items.")
    left, right = st.columns(2, gap="large")
    with left:
        _guessers(health)
    with right:
        _spread(health)
        if health.form != "text":
            _detectable(f"if models differ in {100 * DISCORDANT:.0f} %", health.detectable)
    if study is not None:
        _answers(name, int(study))


def _wanted(suite: Row) -> bool:
    """Whether to look: at once, unless it takes long and nobody has asked."""
    if suite["items"] <= AT_ONCE or suite_health.known(suite["name"], suite["digest"]):
        return True
    st.caption("Twins across splits, guessable answers, too few items: it takes some seconds.")
    return st.button("Look for what is wrong", icon=":material/health_and_safety:")


def _guessers(health: SuiteHealth) -> None:
    if health.chance is None or not health.guessers:
        return
    rows: list[dict[str, str]] = [
        {
            "without reading the question": "at random",
            "right": words.percent(health.chance),
            "95 %": words.DASH,
            "items": words.DASH,
        }
    ]
    for one in health.guessers:
        low, high = one.interval
        what = GUESSERS[one.kind] + (f": {one.what}" if one.what else "")
        rows.append(
            {
                "without reading the question": what,
                "right": words.percent(one.share),
                "95 %": f"{100 * low:.1f}–{100 * high:.1f}\u00a0%",
                "items": words.count(one.n),
            }
        )
    st.dataframe(rows, hide_index=True, width="stretch", height="content",
                 alt="What guessers get right")  # fmt: skip
    st.caption("Learnt on search, judged on validation. A score means what it is above these.")


def _spread(health: SuiteHealth) -> None:
    spread = health.spread
    if spread is None:
        return
    even = "" if spread.p is None else f" (even by chance: p = {spread.p:.2g})"
    counts = ", ".join(words.count(n) for n in spread.counts)
    st.caption(words.plain(f"Golds by position, from the first on: {counts}{even}."))


def _detectable(why: str, detectable: Mapping[str, float | None]) -> None:
    least = ", ".join(
        f"{split} {'none' if (d := detectable[split]) is None else f'{100 * d:.1f} points'}"
        for split in SPLITS
    )
    st.caption(
        words.plain(f"Smallest difference of two models that shows, {why} of the items: {least}."),
        help="with power 80 % at 95 % confidence, of their accuracies on the same items",
    )


def _answers(name: str, study: int) -> None:
    shown = reading.snapshot(study)
    found = reading.answers_of_suite(name, study, reading.coarse(shown), shown.study)
    if not found:
        st.caption("That study has no right and wrong answers on it yet.")
    for one in found:
        st.markdown(f"**What {one.models} models of study #{study} answered · {one.split} split**")
        left, right = st.columns(2, gap="large")
        with left:
            _ids("All have right, so they tell nothing apart", one.saturated, one.n)
            _ids("All have wrong", one.hopeless, one.n)
        with right:
            if one.discordant is not None:
                _detectable(f"as two models differ in {words.percent(one.discordant)}",
                            one.detectable)  # fmt: skip
            for label, leaning in one.leanings.items():
                st.caption(words.plain(f"Positions chosen by {label}: {_leaning(leaning)}."))
        _review(one)


def _ids(what: str, ids: Sequence[str], n: int) -> None:
    named = f": {', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''}" if ids else ""
    st.caption(words.plain(f"{what}: {len(ids)} of {n} items{named}"))


def _leaning(found: Leaning) -> str:
    p = "" if found.p is None else f" (alike by chance: p = {found.p:.2g})"
    return f"{', '.join(map(str, found.chosen))}; golds {', '.join(map(str, found.gold))}{p}"


def _review(one: SuiteAnswers) -> None:
    if not one.review:
        return
    strong = ", ".join(words.plain(name) for name in one.strong)
    st.markdown(f"Golds to look at: the best checkpoints ({strong}) miss them alike")
    rows = [
        (
            f'<div class="item">{words.markup(r.item)}</div>',
            flip_list.written(r.prompt),
            flip_list.written(r.gold),
            flip_list.written(r.answer)
            + f'<div class="margin">{r.agree} of {r.of}, sure {r.sure:.2f}</div>',
        )
        for r in one.review
    ]
    st.html(flip_list.table(("", "Prompt", "Gold", "They say"), rows))
