"""Printing candidates: the front, the baselines and the reference side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import click

from optim.rates import REFUSAL_RATES
from services import noise
from services.cli.output import interval, print_table
from services.db import Database, Row
from services.studies import certainty, health, read
from services.studies.propose import BASELINES, merit
from services.studies.read import CandidateView, OpenSplit
from services.studies.record import Study
from services.studies.space import labels_of, mean_of, rows_of

#: weights smaller than this are left out of tables (never out of recipes)
SHOWN_WEIGHT = 0.005
#: the largest weights that a table names
SHOWN_WEIGHTS = 5
#: candidates that a table shows at least, beside the baselines
SHOWN_CANDIDATES = 8


def front_data(database: Database, number: int) -> dict[str, Any]:
    """The candidates of the latest open split as JSON-ready data."""
    study = read.get_study(database, number)
    found = latest(database, study)
    split = found[0].split if found else "search"
    shares = _shares(database, study, split)
    return {
        "checkpoints": study.pool.names,
        "groups": labels_of(study),
        "objectives": [
            {"name": axis.label, "direction": study.direction(i)}
            for i, axis in enumerate(study.spec.axes)
        ],
        "split": split,
        "candidates": [{**c.to_dict(), "on_the_front": shares.get(c.trial.number)} for c in found],
        "optimism": _optimism(database, study, split),
        "health": [finding.to_dict() for finding in health.findings(database, study)],
        "racing": read.racing_saved(database, number),
        "noise_floor": [asdict(floor) for floor in noise.of_study(database, study, split)],
    }


def _shares(database: Database, study: Study, split: str) -> dict[int, float]:
    """How sure each candidate's place on the front is; the test split is not resampled."""
    return (
        {} if split == "test" else certainty.on_the_front(database, study, cast(OpenSplit, split))
    )


def _optimism(database: Database, study: Study, split: str) -> dict[str, Any] | None:
    """By how much the best of the candidates is flattered."""
    found = certainty.optimism(database, study, cast(OpenSplit, split))
    return None if found is None else asdict(found)


def latest(database: Database, study: Study) -> list[CandidateView]:
    """Candidates on validation once all of them are told, on search until then."""
    validated = read.candidates(database, study, "validation")
    if validated and study.phase not in ("search", "validation"):
        return validated
    return read.candidates(database, study, "search")


def print_front(database: Database, number: int) -> None:
    """State, then the front and the baselines on the latest open split."""
    summary = read.study_summary(database, number)
    study = read.get_study(database, number)
    counts = f"{summary['complete']} complete, "
    if study.spec.search.racing is not None:
        counts += f"{summary['stopped']} stopped, "
    counts += f"{summary['running']} running, "
    counts += f"{summary['queued']} queued, {summary['failed']} failed"
    click.echo(f"study {number} ({study.name}): {study.state}, phase {study.phase}; {counts}")
    click.echo(f"search: {', '.join(summary['used'])}")
    if study.failure:
        click.echo(f"failure: {study.failure}")
    if study.spec.search.racing is not None:
        click.echo(saved(read.racing_saved(database, number)))
    if summary["descents"]:
        _print_descents(study, summary["descents"])
    found = latest(database, study)
    if not any(c.trial.told for c in found):
        click.echo("no results yet")
        return
    split = found[0].split
    for finding in health.findings(database, study):
        click.echo(finding.line)
    if (flattered := certainty.optimism(database, study, cast(OpenSplit, split))) is not None:
        click.echo(flattered.line)
    print_candidates(database, number, found, title=f"front and baselines on the {split} split")


def saved(racing: dict[str, Any]) -> str:
    """What racing saved, in one line."""
    used, whole = racing["used"], racing["items"] * racing["candidates"]
    share = "" if racing["saved"] is None else f", {100 * racing['saved']:.0f} % saved"
    stopped = f"{racing['stopped']} of {racing['candidates']} candidates stopped early"
    return f"racing: {stopped}; {used} of {whole} items scored{share}"


def _print_descents(study: Study, descents: Sequence[Row]) -> None:
    """How far each descent is, and what it has cost in item evaluations."""
    lines = [
        (
            d["number"],
            " ".join(f"{share:.2f}" for share in d["preference"]),
            d["state"],
            d["step"],
            f"{d['cost']['loss']:.4f}" if d["cost"].get("loss") is not None else "–",
            d["cost"].get("passes", "–"),
            d["error"],
        )
        for d in descents
    ]
    columns = ["descent", "preference", "state", "steps", "loss", "item evaluations", "error"]
    print_table(columns, lines, title=f"descents ({study.spec.search.method})")


def print_candidates(
    database: Database, number: int, found: Sequence[CandidateView], *, title: str
) -> None:
    """A table: the front's candidates by merit, then greedy soup, baselines and the reference."""
    study = read.get_study(database, number)
    chosen = read.study_summary(database, number)["chosen"]
    shown = _shown(study, [c for c in found if c.trial.objectives is not None])
    several = len(study.scored) > 1
    columns = ["trial", "what", *(s.name for s in study.suites)]
    columns += [*(["macro"] if several else []), "neg. flips", "churn"]
    columns += [name.replace("_", " ") for name in _refusals(study)]
    columns += ["front", "ok", "weights"]
    shares = _shares(database, study, shown[0].split)
    print_table(columns, [_line(study, c, chosen, several, shares) for c in shown], title=title)
    click.echo(
        f"* chosen. Scores with 95 % intervals on {shown[0].split} items; "
        f"flips and churn against {study.reference}."
        + (" Front: in how many of 1\u202f000 resamples of the items." if shares else "")
    )
    if floor := noise.line(database, study, shown[0].split):
        click.echo(floor)


def _refusals(study: Study) -> tuple[str, ...]:
    """The rates of refusal suites, if there is one."""
    return REFUSAL_RATES if any(suite.form == "refusal" for suite in study.suites) else ()


def _shown(study: Study, told: Sequence[CandidateView]) -> list[CandidateView]:
    """The whole front, the best of the others up to `SHOWN_CANDIDATES`, then every baseline."""
    by_merit = sorted(told, key=lambda c: -merit(study, c.trial))
    found = [c for c in by_merit if c.trial.role not in BASELINES]
    front = [c for c in found if c.trial.rank == 1]
    others = [c for c in found if c.trial.rank != 1][: max(0, SHOWN_CANDIDATES - len(front))]
    return front + others + [c for c in by_merit if c.trial.role in BASELINES]


def _line(
    study: Study,
    candidate: CandidateView,
    chosen: int | None,
    several: bool,
    shares: Mapping[int, float],
) -> list[str]:
    trial, metrics = candidate.trial, candidate.metrics

    def cell(suite: str, name: str) -> str:
        metric = metrics.get(suite, {}).get(name)
        return "–" if metric is None else interval(metric.value, metric.low, metric.high)

    mark = "*" if trial.number == chosen else ""
    what = {"reference": f"{trial.label} (reference)", "search": "found"}.get(
        trial.role, trial.label
    )
    scores = [cell(suite.name, "score") for suite in study.suites]
    overall = [cell("", "macro")] if several else []
    flips = [cell("", "negative_flip_rate"), cell("", "churn")]
    flips += [cell("", name) for name in _refusals(study)]
    front = ["yes"] if trial.rank == 1 else []
    front += [f"{100 * shares[trial.number]:.0f} %"] if trial.number in shares else []
    feasible = "yes" if candidate.feasible else "no"
    return [
        f"{trial.number}{mark}",
        what,
        *scores,
        *overall,
        *flips,
        "\n".join(front),
        feasible,
        weights_text(study, trial.weights),
    ]


def weights_text(study: Study, weights: Sequence[float]) -> str:
    """`trec .42, deployed .31 +3 more`, largest first; of groups, their mean."""
    row, groups = mean_of(study, weights), len(rows_of(study, weights))
    if len(set(row)) == 1 and groups == 1:
        return f"1/{len(row)} each"
    named = zip(study.pool.names, row, strict=True)
    pairs = sorted(named, key=lambda pair: -abs(pair[1]))
    large = [f"{name} {w:.2f}" for name, w in pairs if abs(w) >= SHOWN_WEIGHT]
    more = f" +{len(large) - SHOWN_WEIGHTS} more" if len(large) > SHOWN_WEIGHTS else ""
    mean = f" (mean of {groups} groups)" if groups > 1 else ""
    return ", ".join(large[:SHOWN_WEIGHTS]) + more + mean
