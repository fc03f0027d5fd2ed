"""What the choice decides: how differently candidates answer that are about as good as the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import streamlit as st

from services.studies.columns import Columns
from services.studies.figures import Against, Figures
from services.studies.multiplicity import MOST_MEMBERS, Multiplicity
from services.studies.propose import BASELINES
from services.studies.read import OpenSplit
from services.studies.tell import ALL, Value
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
#: what stands at its head, what it counts, and its cell, as HTML
Column = tuple[str, str, Callable[[Figures], str]]
STYLE = """
<style>
.near-best { overflow-x: auto; }
.near-best table { width: 100%; border-collapse: collapse; font-size: 0.875rem;
  font-variant-numeric: tabular-nums; }
.near-best th { text-align: left; vertical-align: bottom; font-weight: 600; padding: 6px 10px;
  line-height: 1.3; border-bottom: 1px solid rgba(128, 128, 128, 0.5); }
.near-best td { padding: 6px 10px; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.near-best small { display: block; opacity: 0.7; font-size: 0.75rem; }
</style>
"""


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
        _figures(shown, found)
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
    trials = reading.trials(shown, cast(OpenSplit, found.split))
    named = ", ".join(_name(trials, number) for number in found.members[:NAMED])
    more = f" and {count - NAMED + found.beyond} more" if count > NAMED else ""
    many, of = words.count(count + found.beyond), words.count(found.candidates)
    text = (
        f"**{many} of {of}** feasible candidates are within "
        f"ε = {found.epsilon:g} of the best, trial {found.best}, in {by}: trials {named}{more}. "
        "Any of them could have been chosen; where they answer differently, the choice among them "
        "decides."
    )
    if found.typical is not None and count > 2:  # of two, each is as much like the other
        text += f" Trial {found.typical} answers most like the others."
    st.markdown(text)


def _name(trials: Columns, number: int) -> str:
    """Its number; of a baseline what it is, too."""
    (place,) = np.flatnonzero(trials.number == number)
    if trials.role[place] not in BASELINES:
        return str(number)
    return f"{number} ({words.plain(trials.label[place])})"


def _figures(shown: Snapshot, found: Multiplicity) -> None:
    known = found.figures if len(found.figures) > 2 else found.figures[:1]
    chosen = "choice" if shown.study.chosen_trial_id is not None else "best"
    columns = _columns(known, shown.study.reference, chosen, found)
    st.html(figures_html(known, columns))
    told = "Shares of items with their 95 % intervals"
    if any(head == "capacity" for head, _, _ in columns):
        told += "; ranges and capacities are means, the largest below"
    st.caption(f"{told}.")
    with st.expander("What the columns count"):
        st.markdown("\n".join(f"- **{words.plain(head)}**: {what}" for head, what, _ in columns))


def _columns(
    known: Sequence[Figures], reference: str, chosen: str, found: Multiplicity
) -> list[Column]:
    """The columns that say something of this set."""
    columns: list[Column] = [
        ("two differ", "two of them, drawn at random, answer the item differently (churn)",
         lambda f: _share(f.expected_churn)),
        (f"any differs from {reference}", "some of them answers otherwise than the reference "
         "(ambiguity)", lambda f: _share(f.reference.ambiguity)),
        (f"farthest from {reference}", "the one that is farthest off answers otherwise "
         "(discrepancy)", lambda f: _farthest(f.reference)),
        (f"any differs from the {chosen}", "some of them answers otherwise: the choice decides "
         "the answer (ambiguity)", lambda f: _share(f.chosen.ambiguity)),
        (f"farthest from the {chosen}", "the one that is farthest off answers otherwise "
         "(discrepancy)", lambda f: _farthest(f.chosen)),
    ]  # fmt: skip
    if len(found.members) >= found.fewest_members:
        columns += [
            ("no clear majority", "a vote of all of them is too near to a tie: selective "
             "prediction abstains (judging.alpha)", lambda f: _share(f.abstention)),
            ("right elsewhere", "of the other items the vote has so many right",
             lambda f: _share(f.answered_accuracy)),
        ]  # fmt: skip
    if any(f.capacity is not None for f in known):
        columns += [
            ("range of gold", "by how much the probability that they give to the right option "
             "differs, from the least to the most (viable prediction range)",
             lambda f: _mean(f.viable_range, f.widest_range)),
            ("capacity", "how many answers they are torn between: 1 where all say the same, at "
             "most the number of options (Rashomon capacity)",
             lambda f: _mean(f.capacity, f.largest_capacity)),
        ]  # fmt: skip
    return columns


def figures_html(known: Sequence[Figures], columns: Sequence[Column]) -> str:
    """Figures suite by suite: a row each, intervals below their shares so that all fits."""
    heads = "".join(f'<th title="{what}">{words.markup(head)}</th>' for head, what, _ in columns)
    rows = "".join(
        f"<tr><td>{'all' if f.suite == ALL else words.markup(f.suite)}"
        f"<small>n = {words.count(f.n)}</small></td>"
        + "".join(f"<td>{cell(f)}</td>" for _, _, cell in columns)
        + "</tr>"
        for f in known
    )
    head = f"<tr><th>suite</th>{heads}</tr>"
    return f'{STYLE}<div class="near-best"><table>{head}{rows}</table></div>'


def _share(value: Value) -> str:
    around = words.interval(value, "%")
    return words.percent(value.value) + (f"<small>{around}</small>" if around != words.DASH else "")


def _farthest(against: Against) -> str:
    return f"{_share(against.discrepancy)}<small>trial {against.farthest}</small>"


def _mean(mean: float | None, largest: float | None) -> str:
    if mean is None or largest is None:
        return words.DASH
    return f"{mean:.2f}<small>{largest:.2f}</small>"


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
    if item.viable_range is not None and item.capacity is not None:
        spread = f"range of gold {item.viable_range:.2f}, capacity {item.capacity:.2f}"
        share += f'<div class="margin">{spread}</div>'
    return (
        f'<div class="item">{about}</div>{share}',
        flip_list.written(item.prompt),
        flip_list.written(item.gold),
        answers,
    )
