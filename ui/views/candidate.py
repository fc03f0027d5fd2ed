"""One candidate: its weights, its metrics, and every answer that it would change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import streamlit as st

from optim.recipe import Recipe
from services import artefacts
from services.db import Row
from services.mergekit import inexpressible
from services.studies import export, read
from services.studies.columns import Columns
from services.studies.read import CandidateView, OpenSplit
from services.studies.space import rows_of
from ui import badges, chart, flip_list, guard, live, reading, sign_in, tables, words
from ui.flip_list import KINDS, PER_PAGE
from ui.plots.weights import bars_figure, groups_figure
from ui.reading import Snapshot
from ui.study import cards, costs, parents, splits


def main() -> None:
    """Draw the page."""
    study, number = guard.number_in_url("study"), guard.number_in_url("trial")
    if study is None or number is None:
        badges.hint("**No candidate is named.** Open one from the page of its study.")
        st.page_link(badges.STUDIES, label="Studies")
        return
    with guard.explained():
        shown = reading.snapshot(study)
        detail = read.trial_detail(reading.database(), shown.study, number)
        _head(shown, detail)
        parents.seen_suites(shown, number)
        split = splits.choose(shown, key="on", first=_first_split(shown, detail))
        found = splits.trials(shown, split)
        candidate = found.view_of(number)
        left, right = st.columns([2, 3], gap="large")
        with left:
            _weights(shown, detail)
            _artefact(shown, detail)
        with right:
            _metrics(shown, candidate, found, split)
        _flips(shown, candidate, split)
        parents.worth(shown, detail, split)
        left, right = st.columns(2, gap="large")
        with left:
            _recipe(shown, detail)
        with right:
            _record(detail)
            costs.candidate(shown, number)


def _first_split(shown: Snapshot, detail: Row) -> str:
    """Validation where this trial was judged on it: the search split flatters what it chose."""
    done = {e["split"] for e in detail["evaluations"] if e["state"] == "complete"}
    best = splits.best_open(shown)
    return best if best in done else "search"


def _head(shown: Snapshot, detail: Row) -> None:
    study = shown.study
    badges.crumbs(
        (badges.STUDIES, "Studies", {}),
        (badges.STUDY, f"#{study.id} {words.plain(study.name)}", {"study": study.id}),
    )
    role = tables.ROLES[detail["role"]]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        name = words.plain(detail["label"])
        st.subheader(f"Trial {detail['number']} · {name}", anchor=False, width="content")
        st.badge(role, color="gray")
        if detail["number"] == shown.summary["chosen"]:
            st.badge("chosen", icon=":material/check:", color="green")
        st.space("stretch")
        if detail["role"] != "probe" and any(
            e["state"] == "complete" for e in detail["evaluations"]
        ):
            st.page_link(
                badges.REPORT,
                label="Report",
                icon=":material/description:",
                query_params={"study": str(study.id), "trial": str(detail["number"])},
                width="content",
            )
        if st.button("Compare", icon=":material/compare_arrows:", help="with other candidates"):
            # beside the chosen candidate, or the reference, which is trial 0
            chosen = shown.summary["chosen"]
            beside = 0 if chosen in (None, detail["number"]) else chosen
            badges.go(badges.COMPARE, study=study.id, trials=f"{detail['number']},{beside}")
    if detail["role"] == "probe":
        st.caption("It takes no part in the study: `remelt study attribute` and `explore` read it.")


def _metrics(shown: Snapshot, candidate: CandidateView | None, found: Columns, split: str) -> None:
    if candidate is None or candidate.trial.objectives is None:
        race = None if candidate is None else candidate.trial.race
        if race is not None and "by" in race:
            _stopped(shown, race)
            return
        state = "not evaluated" if candidate is None else candidate.trial.state
        st.info(f"No metrics on the {split} split: {state}.")
        if candidate is not None and candidate.trial.error:
            st.error(words.plain(candidate.trial.error))
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"##### Metrics · {split} split", width="content")
        if candidate.trial.rank == 1:
            st.badge("on the front", color="blue")
        if not candidate.feasible:
            st.badge("breaks a constraint", color="orange", icon=":material/warning:")
    st.dataframe(
        tables.counted(
            tables.metric_frame(shown.study, candidate, cards.reference_of(found)), "items"
        ),
        hide_index=True,
        width="stretch",
        height=360,
        alt="Metrics with intervals",
    )
    cards.noise(shown, split)


def _stopped(shown: Snapshot, race: Mapping[str, Any]) -> None:
    """Why a race ended it, and what was seen: never shown as if it were a result."""
    st.info(words.plain(words.sentence(words.stopped(race)) + "."), icon=":material/front_hand:")
    st.dataframe(
        tables.seen_frame(shown.study, race),
        hide_index=True,
        width="stretch",
        alt="What was seen of a stopped candidate",
    )
    whole = {suite.name: suite.search_items for suite in shown.study.suites}
    seen = ", ".join(f"{name} {n} of {whole[name]}" for name, n in race["seen"].items())
    st.caption(
        words.plain(
            f"Items seen: {seen}. Estimates look worse than the candidate is, since it was "
            "stopped because of them; the bounds hold all the same."
        )
    )


def _flips(shown: Snapshot, candidate: CandidateView | None, split: str) -> None:
    study = shown.study
    st.markdown(f"##### Changed answers against {words.plain(study.reference)} · {split} split")
    if split == "test":
        st.info("Items of the sealed test split are not listed; choose search or validation.")
        return
    if candidate is None or candidate.trial.objectives is None:
        st.caption("known once the candidate has been evaluated")
        return
    trial = candidate.trial
    found = reading.flips(study.id, trial.number, cast(OpenSplit, split), shown.mark, study)
    if not found:
        st.success("No answer changes.")
        return
    counts = {kind: sum(f.kind == kind for f in found) for kind in KINDS}
    left, middle, right = st.columns([3, 3, 2], vertical_alignment="bottom")
    kinds = left.pills(
        "Kind",
        [kind for kind in KINDS if counts[kind]],
        selection_mode="multi",
        default=["negative"] if counts["negative"] else None,
        format_func=lambda kind: f"{KINDS[kind][0]} ({counts[kind]})",
    )
    suites = middle.pills(
        "Suite", sorted({f.suite for f in found}), selection_mode="multi", default=None
    )
    text = right.text_input("Text", placeholder="in prompt, answers or id")
    matching = flip_list.matching(found, suites=suites, kinds=kinds, text=text)
    if not matching:
        st.info("No changed answer matches.")
        return
    pages = -(-len(matching) // PER_PAGE)
    page = st.pagination(pages, key="flip-page") if pages > 1 else 1
    part = matching[(page - 1) * PER_PAGE : page * PER_PAGE]
    st.caption(f"{len(matching)} of {len(found)} changed answers; the most certain errors first")
    st.html(flip_list.flips_html(part, study.reference))


def _weights(shown: Snapshot, detail: Row) -> None:
    rows = rows_of(shown.study, detail["weights"])
    if len(rows) > 1:
        figure = groups_figure(shown.study, rows)
    else:
        figure = bars_figure(shown.study, next(iter(rows.values())))
    chart.draw(figure, key="weights", alt="Weights of the checkpoints")


def _recipe(shown: Snapshot, detail: Row) -> None:
    """As Remelt's own YAML, and as mergekit's where that has the words."""
    number, recipe = detail["number"], Recipe.from_dict(detail["recipe_data"])
    st.markdown("##### Recipe")
    kinds = {"recipe": "Remelt", "mergekit": "mergekit"}
    if what := inexpressible(recipe):
        st.caption(f"It has {what}, which mergekit cannot do: for `remelt merge`.")
        del kinds["mergekit"]
    for tab, kind in zip(st.tabs([f"{n} YAML" for n in kinds.values()]), kinds, strict=True):
        text = export.recipe_text(reading.database(), shown.study, kind, number)
        with tab:
            st.code(text, language="yaml")
            st.download_button(
                "Download recipe",
                text,
                file_name=f"study-{shown.study.id}-trial-{number}.{kind}.yaml",
                mime="application/yaml",
                icon=":material/download:",
                key=f"download-{kind}",
            )


def _artefact(shown: Snapshot, detail: Row) -> None:
    study, number = shown.study, detail["number"]
    st.markdown("##### Published checkpoint")
    artefact = detail["artefacts"][-1] if detail["artefacts"] else None
    state = None if artefact is None else artefact["state"]
    evaluated = any(e["state"] == "complete" for e in detail["evaluations"])
    if artefact is not None:
        badges.state(artefact["state"])
        if artefact["error"]:
            st.error(words.plain(artefact["error"]))
    else:
        st.caption(
            "Publishing casts this candidate as a Hugging Face checkpoint, checks it against the "
            "weights that were evaluated, and puts it in the store."
        )
    if state == "published" and artefact is not None:
        st.code(f"remelt pull {study.id}/{number} DIR", language="bash")
        st.caption(
            words.plain(f"{artefact['store']} · digest {artefact['digest']} · ")
            + f"{(artefact['bytes'] or 0) / 1e6:.1f} MB · {words.when(artefact['published_at'])}"
        )
    elif state in (None, "failed") and sign_in.user().may("submitter", owner=study.owner):
        label = "Publish" if state is None else "Publish again"
        if st.button(label, icon=":material/upload:", disabled=not evaluated):
            _publish(study.id, number)
    if evaluated:
        st.caption("Or cast it into a folder, without publishing:")
        st.code(f"remelt cast {study.id} {number} DIR", language="bash")
    live.follow(
        _artefact_mark(shown, number),
        lambda: _artefact_mark(shown, number),
        active=state in ("queued", "publishing"),
    )


def _artefact_mark(shown: Snapshot, number: int) -> tuple[object, ...]:
    found = read.trial_detail(reading.database(), shown.study, number)["artefacts"]
    return tuple((a["state"], a["attempt"]) for a in found)


def _publish(study: int, number: int) -> None:
    with guard.explained():
        artefacts.request(reading.database(), study, number, by=sign_in.user())
        st.rerun()


def _record(detail: Row) -> None:
    """Who evaluated it, how often, how long, and the digest of the weights that were measured."""
    st.markdown("##### Evaluations")
    st.dataframe(
        tables.counted(
            [
                {
                    "split": e["split"],
                    "state": e["state"],
                    "attempts": e["attempt"],
                    "seconds": e["cost"].get("seconds"),
                    "tokens": e["cost"].get("tokens"),
                    "memory MB": _megabytes(e["cost"], "peak_memory_bytes"),
                    "skipped blocks": e["cost"].get("skipped_blocks"),
                    "kept MB": _megabytes(
                        e["cost"], "activation_memory_bytes", "activation_file_bytes"
                    ),
                    "worker": e["worker"],
                    "weights digest": e["weights_digest"],
                    "error": e["error"],
                }
                for e in detail["evaluations"]
            ],
            "tokens",
        ),
        hide_index=True,
        width="stretch",
        column_config={
            "seconds": st.column_config.NumberColumn(format="%.1f"),
            "memory MB": st.column_config.NumberColumn(
                format="%.0f", help="most that the engine has held since it started"
            ),
            "skipped blocks": st.column_config.NumberColumn(
                help="lower blocks that the candidates have in common: they are run once"
            ),
            "kept MB": st.column_config.NumberColumn(
                format="%.1f", help="what leaves those blocks, in memory and on disk"
            ),
        },
        alt="Evaluations of this trial",
    )
    st.caption(words.plain(f"recipe digest {detail['recipe_digest']}"))


def _megabytes(cost: dict[str, float], *names: str) -> float | None:
    """The sum of a cost's sizes; None where an engine did not report one."""
    found = [cost[name] for name in names if name in cost]
    return sum(found) / 1e6 if len(found) == len(names) else None


if __name__ == "__main__":
    main()
