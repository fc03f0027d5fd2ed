"""Searches with gradients inside a study: which descents it makes, and how their candidates enter.

What a descent does is worked out once, from the spec and the baselines on the search split, and
stored; no other split is read here or there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.types.json import Jsonb

from optim.descent import DESCENTS, Job, Task
from optim.descent.spread import preferences
from optim.recipe import Recipe
from optim.space import Space
from services import outbox
from services.db import Connection, row, rows
from services.spec import Objective
from services.studies.propose import Candidate, baselines, merit
from services.studies.record import Study, Trial
from services.studies.space import space_of

#: metrics that ask for the reference's answers: their aim is to say what it says
LIKE_REFERENCE = ("negative_flip_rate", "churn", "inconsistency", "backward_trust")
#: one aim: tasks that add up
Aim = tuple[Task, ...]


def descends(study: Study) -> bool:
    """Whether the study's method is one with gradients, or begins with some descents."""
    return study.spec.search.method in DESCENTS or study.spec.search.warm_start > 0


def warming(
    connection: Connection, study: Study, trials: Sequence[Trial], *, closing: bool
) -> bool:
    """Whether the searcher has to wait for descents that it is to start from; starts them as soon
    as the baselines stand."""
    if study.spec.search.warm_start == 0:
        return False
    slots = {trial.slot: trial for trial in trials}
    stand = all(one.slot in slots and slots[one.slot].closed for one in baselines(study))
    if not stand:
        return not closing
    waits = under_way(connection, study, trials, closing=closing)
    return waits or not all(trial.closed for trial in trials if trial.role == "warm")


def enter(connection: Connection, study: Study) -> list[Candidate]:
    """Candidates of finished descents that are not in the study yet."""
    if not descends(study):
        return []
    found = []
    for one in rows(connection, "descents.finished", study=study.id):
        slot = f"d{one['number']:03d}"
        found.append(
            Candidate(
                role="warm" if study.spec.search.warm_start else "search",
                slot=slot,
                label=f"descent {one['number']}",
                weights=tuple(one["weights"]),
                recipe=Recipe.from_dict(one["recipe"]),
            )
        )
        cost = one["cost"]
        text = (
            f"descent {one['number']} ended after {cost['step']} steps, loss {cost['loss']:.4f}: "
            f"{cost['passes']} item evaluations"
        )
        rows(connection, "studies.event", study=study.id, text=text)
    return found


def under_way(
    connection: Connection, study: Study, trials: Sequence[Trial], *, closing: bool
) -> bool:
    """Whether descents are still to come; starts them when the baselines stand. `closing` starts
    none, and gives up those that nobody works on."""
    if not descends(study):
        return False
    known = rows(connection, "descents.of_study", study=study.id)
    if closing:
        rows(connection, "descents.cancel", study=study.id, states=["queued"])
        return any(one["state"] == "running" for one in known)
    if not known:
        made = []
        for number, (preference, job) in enumerate(jobs(connection, study, trials)):
            one = row(
                connection,
                "descents.insert",
                study=study.id,
                number=number,
                preference=list(preference),
                job=Jsonb(job.to_dict()),
            )
            assert one is not None
            made.append(int(one["id"]))
        outbox.add(connection, "descend", made)
        text = f"{len(made)} descent{'s' if len(made) != 1 else ''} with gradients begun"
        rows(connection, "studies.event", study=study.id, text=text)
        rows(connection, "studies.touch", study=study.id)
        return True
    return any(one["state"] in ("queued", "running") for one in known)


def jobs(
    connection: Connection, study: Study, trials: Sequence[Trial]
) -> list[tuple[tuple[float, ...], Job]]:
    """(preference among the aims, job) of every descent: at most one a trial of the budget."""
    search = study.spec.search
    warm = search.warm_start > 0
    method = DESCENTS["gradient" if warm else search.method]
    options = method.settings({"directions": search.warm_start} if warm else search.options)
    if search.method == "dam":
        aims = _imitations(connection, study, trials)
    else:
        aims = _aims(study, options.get("loss", "supervised"))
    most = options["directions"] if warm else study.spec.budget.trials
    count = min(options["directions"], most)
    space = space_of(study)
    common = {
        "parents": study.pool.digests, "dtype": study.pool.dtype, "seed": search.seed,
        "steps": options["steps"], "batch": options["batch"], "rate": options["rate"],
    }  # fmt: skip
    if search.method == "dam":
        own = {name: options[name] for name in ("temperature", "similarity", "mse", "l1", "l2")}
        # coefficients are free in DAM, and begin at 1/N
        start = (1.0 / space.n,) * space.n
        more = {**common, **own, "grain": "columns", "start": start}
    else:
        bounds = {"low": tuple(space.low.tolist()), "high": tuple(space.high.tolist())}
        start = tuple(_start(study, trials, space, options["start"]))
        more = {**common, **bounds, "grain": options["grain"], "start": start}
    # DAM's loss is a sum over experts, not a mean: its similarity term is weighed against that
    scale = len(aims) if search.method == "dam" else 1
    return [
        (shares, Job(tasks=_weighed(aims, [scale * share for share in shares]), **more))
        for shares in preferences(len(aims), count)
    ]


def _start(study: Study, trials: Sequence[Trial], space: Space, where: str) -> list[float]:
    if where == "uniform":
        return space.centre.tolist()
    told = [t for t in trials if t.objectives is not None and t.role != "search"]
    best = min(told, key=lambda t: (max(t.violation or 0.0, 0.0), -merit(study, t), t.number))
    return space.project(best.weights).tolist()


def _weighed(aims: Sequence[Aim], preference: Sequence[float]) -> tuple[Task, ...]:
    """All tasks, each with its aim's share; equal ones are one."""
    found: dict[tuple[str, str, int | None], float] = {}
    for aim, share in zip(aims, preference, strict=True):
        for task in aim:
            key = (task.suite, task.loss, task.teacher)
            found[key] = found.get(key, 0.0) + share * task.weight
    return tuple(
        Task(suite=suite, loss=loss, teacher=teacher, weight=weight)  # type: ignore[arg-type]
        for (suite, loss, teacher), weight in found.items()
        if weight > 0
    )


def _aims(study: Study, loss: str) -> list[Aim]:
    """One aim per objective, without doubles: what is lowered to move it."""
    found = dict.fromkeys(_aim(study, axis, loss) for axis in study.spec.axes)
    return list(found)


def _aim(study: Study, axis: Objective, loss: Any) -> Aim:
    suites = [s.name for s in study.scored] if axis.suite is None else [axis.suite]
    if axis.metric in LIKE_REFERENCE:
        reference = study.pool.names.index(study.reference)
        return tuple(
            Task(suite=name, loss="imitate", teacher=reference, weight=1 / len(suites))
            for name in suites
        )
    return tuple(Task(suite=name, loss=loss, weight=1 / len(suites)) for name in suites)


def _imitations(connection: Connection, study: Study, trials: Sequence[Trial]) -> list[Aim]:
    """One aim per suite: to say what the checkpoint says that is best on it (DAM's expert)."""
    singles = {t.number: t for t in trials if t.role in ("reference", "single")}
    scores: dict[str, dict[int, float]] = {suite.name: {} for suite in study.suites}
    for metric in rows(connection, "studies.metrics", study=study.id, split="search"):
        if metric["name"] == "score" and metric["suite"] and metric["number"] in singles:
            sign = 1.0 if study.form(metric["suite"]) == "text" else -1.0
            scores[metric["suite"]][metric["number"]] = sign * metric["value"]
    names = study.pool.names
    aims: list[Aim] = []
    for suite in study.suites:
        best = min(scores[suite.name].items(), key=lambda found: (found[1], found[0]))[0]
        teacher = names.index(singles[best].label)
        aims.append((Task(suite=suite.name, loss="imitate", teacher=teacher),))
    return aims
