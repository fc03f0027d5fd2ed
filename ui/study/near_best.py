"""What the choice decides: how differently candidates answer that are about as good as the best."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from services.studies.figures import Against, Figures
from services.studies.multiplicity import MOST_MEMBERS, Multiplicity
from services.studies.read import OpenSplit
from services.studies.tell import ALL
from services.studies.unstable import UnstableItem
from ui import flip_list, reading, words
from ui.reading import Snapshot

#: answers, candidates times items, that are compared unasked: more take over half a second
AT_ONCE = 200_000
PER_PAGE = 10
#: answers that an item's row has room for
MOST_ANSWERS = 4
#: trials that are named
NAMED = 12


def draw(shown: Snapshot) -> None:
    """The set, its figures suite by suite, and the items that its members answer differently;
    nothing before there is a feasible candidate with results."""
    study = shown.study
    split: OpenSplit = "search" if study.chosen_trial_id is None else "validation"
    trials = reading.trials(shown, split)
    able = int((trials.told & trials.feasible).sum())
    if not study.scored or not able or not (trials.told & (trials.role == "reference")).any():
        return
    st.markdown(f"##### Candidates about as good as the best · {split} split")
    epsilon = st.number_input(
        "At most so much worse than the best (ε)",
        min_value=0.0, max_value=1.0, value=study.spec.judging.epsilon, step=0.005,
        format="%.4f", width=290, key=f"epsilon-{study.id}",
        help=f"in {_by(study.spec.judging.by)}; at first what the spec says (judging.epsilon)",
    )  # fmt: skip
    items = sum(s.search_items if split == "search" else s.validation_items for s in study.scored)
    asked = f"near-best-{study.id}"
    if min(able, MOST_MEMBERS) * items > AT_ONCE and not st.session_state.get(asked):
        st.caption(
            "Which answers depend on the choice among near-equal candidates; with so many "
            "candidates it takes some seconds."
        )
        if not st.button("Compare their answers", icon=":material/compare_arrows:"):
            return
        st.session_state[asked] = True
    found = reading.near_best(shown, split, float(epsilon))
    _set(shown, found)
    if len(found.members) > 1:
        _figures(shown, found.figures)
        _unstable(found, f"unstable-{study.id}")
    if found.optimism is not None:
        st.caption(words.plain(found.optimism.line))


def _by(objective: str | None) -> str:
    return "the mean of the objectives" if objective is None else words.plain(objective)


def _set(shown: Snapshot, found: Multiplicity) -> None:
    by, count = _by(shown.study.spec.judging.by), len(found.members)
    if count == 1:
        st.markdown(
            f"No other candidate is within ε = {found.epsilon:g} of the best, trial {found.best}, "
            f"in {by}: nothing was left to choose."
        )
        return
    named = ", ".join(map(str, found.members[:NAMED]))
    more = f" and {count - NAMED + found.beyond} more" if count > NAMED else ""
    text = (
        f"**{count + found.beyond} of {found.candidates}** feasible candidates are within "
        f"ε = {found.epsilon:g} of the best, trial {found.best}, in {by}: trials {named}{more}. "
        "Any of them could have been chosen; where they answer differently, the choice among them "
        "decides."
    )
    if found.typical is not None:
        text += f" Trial {found.typical} answers most like the others."
    st.markdown(text)


def _figures(shown: Snapshot, figures: Sequence[Figures]) -> None:
    reference = words.plain(shown.study.reference)
    chosen = "choice" if shown.study.chosen_trial_id is not None else "best"
    known = figures if len(figures) > 2 else figures[:1]
    st.dataframe(
        [
            {
                "suite": "all" if f.suite == ALL else f.suite,
                "items": f.n,
                "two differ": words.sure(f.expected_churn),
                "any differs · ref": words.sure(f.reference.ambiguity),
                "farthest · ref": _farthest(f.reference),
                "any differs · choice": words.sure(f.chosen.ambiguity),
                "farthest · choice": _farthest(f.chosen),
                "no clear majority": words.sure(f.abstention),
                "right elsewhere": words.sure(f.answered_accuracy),
            }
            for f in known
        ],
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "two differ": st.column_config.TextColumn(
                help="items that two of them, drawn at random, answer differently"
            ),
            "any differs · ref": st.column_config.TextColumn(
                f"any differs from {reference}",
                help="items that some of them answers otherwise than the reference (ambiguity)",
            ),
            "farthest · ref": st.column_config.TextColumn(
                f"farthest from {reference}",
                help="items that the one farthest off answers otherwise (discrepancy)",
            ),
            "any differs · choice": st.column_config.TextColumn(
                f"any differs from the {chosen}", help="items whose answer the choice decides"
            ),
            "farthest · choice": st.column_config.TextColumn(f"farthest from the {chosen}"),
            "no clear majority": st.column_config.TextColumn(
                help="items on which a vote of all of them is too near to a tie: selective "
                "prediction abstains (judging.alpha)"
            ),
            "right elsewhere": st.column_config.TextColumn(
                help="of the other items the vote has so many right"
            ),
        },
        alt="What near-best candidates answer differently, by suite",
    )
    st.caption("Shares of items with their 95 % intervals. Point at a head to read what it counts.")


def _farthest(against: Against) -> str:
    return f"{words.sure(against.discrepancy)}, trial {against.farthest}"


def _unstable(found: Multiplicity, key: str) -> None:
    items = found.unstable
    if not items:
        st.success("They answer every item alike.")
        return
    pages = -(-len(items) // PER_PAGE)
    st.markdown(
        f"**The {len(items)} least certain** of {words.count(found.unstable_count)} items that "
        "they answer differently"
    )
    page = st.pagination(pages, key=key) if pages > 1 else 1
    st.html(unstable_html(items[(page - 1) * PER_PAGE : page * PER_PAGE]))


def unstable_html(items: Sequence[UnstableItem]) -> str:
    """A table of items on which members disagree; every text is escaped."""
    return flip_list.table(("", "Prompt", "Gold", "Answers"), [_row(item) for item in items])


def _row(item: UnstableItem) -> Sequence[str]:
    about = f"{words.markup(item.suite)} · {words.markup(item.item)}"
    answers = "".join(
        f'<div class="margin">{count} {"say" if count > 1 else "says"}</div>'
        + flip_list.written(text)
        for text, count in item.answers[:MOST_ANSWERS]
    )
    if (left := len(item.answers) - MOST_ANSWERS) > 0:
        answers += f'<div class="margin">and {left} other answers</div>'
    share = f'<div class="margin">{words.percent(item.minority, 0)} against the majority</div>'
    return (
        f'<div class="item">{about}</div>{share}',
        flip_list.written(item.prompt),
        flip_list.written(item.gold),
        answers,
    )
