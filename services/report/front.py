"""What could be had: the front, how sure each place on it is, and how the search came there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.report import words
from services.report.blocks import (
    Block,
    Cell,
    Curve,
    Kind,
    Number,
    Plot,
    Plots,
    Point,
    Scatter,
    Section,
    Table,
    Text,
    Unit,
)
from services.report.material import Material, metric_of
from services.report.pool import number
from services.spec import METRICS
from services.studies import views
from services.studies.columns import columns_of
from services.studies.read import CandidateView
from services.studies.record import Study

#: rows of the table at most
MOST_ROWS = 12
#: whiskers of more points would hide them
MOST_WHISKERS = 16
#: candidates that a plot shows: those of the best ranks, and all that are named
MOST_POINTS = 400
#: (metric, suite) of a scatter's axis
Axis = tuple[str, str]


def section(material: Material) -> Section:
    """Plots, and a table of the candidates on the front."""
    blocks: list[Block] = [_where(material)]
    plots: list[Plot] = [*_scatters(material), *_curve(material)]
    if plots:
        blocks.append(Plots(plots=plots))
    blocks.append(_table(material))
    return Section(name="front", title="The front", blocks=blocks)


def _where(material: Material) -> Text:
    split = material.open_split
    if split == "validation":
        text = "Finalists and baselines on the validation split, from which the choice is made."
    else:
        text = "Every candidate on the search split: its best values are optimistic."
    if len(_shown(material)) < len(material.open_found):
        text += f" The plots show the {MOST_POINTS} of the best ranks, and all that have names."
    return Text(text=text)


def axes_of(study: Study) -> tuple[Axis, Axis] | None:
    """(x, y): the first two objectives, costs to the right; with one, negative flips against it."""
    own: list[Axis] = [(axis.metric, axis.suite or "") for axis in study.spec.axes]
    if len(own) == 1:
        flips: Axis = ("negative_flip_rate", "")
        own = [*own, flips] if study.scored and own[0] != flips else own
    if len(own) < 2:
        return None
    first, second = own[:2]
    # what is minimised stands at the bottom
    costs = [METRICS[metric] == "minimize" for metric, _ in (first, second)]
    return (first, second) if costs[0] and not costs[1] else (second, first)


def _scatters(material: Material) -> list[Scatter]:
    """Everything, and what lies around the front."""
    axes = axes_of(material.study)
    if axes is None:
        return []
    points = _points(material, axes)
    if not points:
        return []
    near = _near(points)
    everything = [point for point, _ in points]
    if len(near) < 3 or len(near) == len(points):
        return [_scatter(material, "front", "All candidates", everything, axes)]
    return [
        _scatter(material, "front", "All candidates", [_bare(p) for p in everything], axes),
        _scatter(material, "around-front", "Around the front", near, axes),
    ]


def _bare(point: Point) -> Point:
    return replace(point, x_range=None, y_range=None)


def _scatter(
    material: Material, name: str, title: str, points: Sequence[Point], axes: tuple[Axis, Axis]
) -> Scatter:
    x, y = axes
    study, split = material.study, material.open_split
    what = f"{words.metric(*y)} against {words.metric(*x)}"
    if any(p.x_range for p in points):
        # whiskers of all would hide the points
        named = ("chosen", "reference")
        many = len(points) > MOST_WHISKERS
        points = [_bare(p) if many and p.kind not in named else p for p in points]
        title += ", with 95 % intervals" + (" of two" if many else "")
    return Scatter(
        name=name,
        title=f"{title} ({split})",
        x=_axis_title(study, x),
        y=_axis_title(study, y),
        x_unit=_unit(study, x),
        y_unit=_unit(study, y),
        points=points,
        alt=f"{what} of {len(points)} candidates, {split} split",
    )


def _unit(study: Study, axis: Axis) -> Unit:
    return "nats" if axis[0] == "score" and study.form(axis[1]) == "text" else "share"


def _axis_title(study: Study, axis: Axis) -> str:
    return f"{words.metric(*axis)}, {'%' if _unit(study, axis) == 'share' else 'nats per token'}"


def _points(material: Material, axes: tuple[Axis, Axis]) -> list[tuple[Point, CandidateView]]:
    found = []
    for candidate in _shown(material):
        x, y = (metric_of(candidate, *axis) for axis in axes)
        if x is None or y is None or x.value is None or y.value is None:
            continue
        kind = kind_of(material, candidate)
        point = Point(
            x=x.value,
            y=y.value,
            kind=kind,
            label=_label(candidate, kind),
            x_range=None if x.low is None or x.high is None else (x.low, x.high),
            y_range=None if y.low is None or y.high is None else (y.low, y.high),
        )
        found.append((point, candidate))
    return found


def _shown(material: Material) -> list[CandidateView]:
    ranked = sorted(material.open_found, key=lambda c: (c.trial.rank or 0, c.trial.number))
    best = {c.trial.number for c in ranked[:MOST_POINTS]}
    named = ("chosen", "reference", "parent", "soup")
    return [
        c for c in material.open_found if c.trial.number in best or kind_of(material, c) in named
    ]


def kind_of(material: Material, candidate: CandidateView) -> Kind:
    """How a candidate is drawn."""
    trial = candidate.trial
    if trial.number == material.number:
        return "chosen"
    roles: dict[str, Kind] = {
        "reference": "reference", "single": "parent", "uniform": "soup", "greedy": "soup",
    }  # fmt: skip
    if trial.role in roles:
        return roles[trial.role]
    if not candidate.feasible:
        return "infeasible"
    return "front" if trial.rank == 1 else "other"


def _label(candidate: CandidateView, kind: Kind) -> str:
    trial = candidate.trial
    if kind == "chosen":
        return f"trial {trial.number}"
    return trial.label if kind in ("reference", "parent", "soup") else ""


def _near(points: Sequence[tuple[Point, CandidateView]]) -> list[Point]:
    """What is not far outside the box of the front, the reference and this candidate."""
    core = [p for p, c in points if p.kind in ("chosen", "reference", "front") or c.trial.rank == 1]
    if not core:
        return []
    ends_x, ends_y = [p.x for p in core], [p.y for p in core]
    room_x = 0.35 * (max(ends_x) - min(ends_x)) or 0.01
    room_y = 0.35 * (max(ends_y) - min(ends_y)) or 0.01
    return [
        p
        for p, _ in points
        if min(ends_x) - room_x <= p.x <= max(ends_x) + room_x
        and min(ends_y) - room_y <= p.y <= max(ends_y) + room_y
    ]


def _curve(material: Material) -> list[Curve]:
    """How the front grew with the evaluations."""
    curve = views.progress(material.study, columns_of(material.search))
    several = material.study.axes > 1
    values = [(float(p.evaluations), p.hypervolume if several else p.best) for p in curve]
    known = [(x, y) for x, y in values if y is not None]
    if len(known) < 3:
        return []
    what = "Hypervolume" if several else "Best feasible candidate"
    return [
        Curve(
            name="hypervolume" if several else "best",
            title=f"{what} against evaluations (search)",
            x="evaluations, baselines included",
            y="hypervolume" if several else "objective, higher is better",
            points=known,
            alt=f"from {known[0][1]:.4g} after {known[0][0]:.0f} evaluations to {known[-1][1]:.4g} "
            f"after {known[-1][0]:.0f}",
        )
    ]


def _table(material: Material) -> Table:
    """The front's candidates, this one, and the reference; the surest first."""
    study, shares = material.study, material.shares
    own = [(axis.metric, axis.suite or "") for axis in study.spec.axes]
    shown = [
        c
        for c in material.open_found
        if c.trial.rank == 1 or c.trial.number == material.number or c.trial.role == "reference"
    ]
    first = {material.number: 0, material.reference.trial.number: 1}
    shown.sort(
        key=lambda c: (first.get(c.trial.number, 2), -shares.get(c.trial.number, 0.0)),
    )
    rows: list[list[Cell]] = [
        [
            f"trial {c.trial.number}",
            words.ROLES[c.trial.role] if c.trial.role == "search" else c.trial.label,
            *(number(metric_of(c, *axis), text=_unit(study, axis) == "nats") for axis in own),
            "yes" if c.trial.rank == 1 else "no",
            words.figure(_share(shares.get(c.trial.number))),
            "yes" if c.feasible else "no",
        ]
        for c in shown[:MOST_ROWS]
    ]
    left = len(shown) - MOST_ROWS
    more = f" {left} more on the front are not listed." if left > 0 else ""
    items = sum(
        s.validation_items if material.open_split == "validation" else s.search_items
        for s in (study.scored or study.suites)
    )
    return Table(
        columns=["candidate", "what", *(words.metric(*axis) for axis in own), "on the front",
                 "stays there", "keeps constraints"],
        rows=rows,
        note=f"{material.open_split.capitalize()} split, {words.count(items)} items. Stays there: "
        f"in how many of 1\u202f000 resampled sets of items it is on the front.{more}",
        marked=[i for i, c in enumerate(shown[:MOST_ROWS]) if c.trial.number == material.number],
    )  # fmt: skip


def _share(value: float | None) -> Number:
    return Number(value=value)
