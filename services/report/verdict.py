"""What changes if this candidate replaces the reference, in three sentences."""

from __future__ import annotations

from services import noise
from services.report import paired, safety, words
from services.report.blocks import Block, Card, Cards, Number, Section, Text, Tone
from services.report.material import Material, mean_score
from services.studies.propose import BASELINES
from services.studies.read import CandidateView
from services.studies.tell import ALL, Value, constrained, missed_by


def section(material: Material) -> Section:
    """Better or worse, what breaks, how sure."""
    if material.keeps:
        return Section(name="verdict", title="Verdict", blocks=_keep(material))
    gain = headline(material)
    tone: Tone = "unsure"
    if gain.settled:
        tone = "good" if better(gain) else "bad"
    worse = any(not better(change) for _, change in apart(material)) or safety.worsens(material)
    if tone == "good" and worse:
        tone = "unsure"
    sentences = [_gain(material, gain), _broken(material), _sure(material), safety.said(material)]
    texts = [Text(text=text) for text in sentences[1:] if text]
    texts += [Text(text=text, tone="unsure") for text in _doubts(material)]
    return Section(
        name="verdict",
        title="Verdict",
        blocks=[Text(text=sentences[0], tone=tone), *texts, _cards(material, gain, tone)],
    )


def _doubts(material: Material) -> list[str]:
    """What is wrong with the suites themselves: items seen before, by a parent or by the search."""
    seen: dict[str, list[str]] = {}
    for one in material.inherited:
        seen.setdefault(one.leakage.suite, []).append(one.parent)
    found = [
        f"of its parents, {', '.join(dict.fromkeys(parents))} may have seen {suite}: its score "
        "there may be memory"
        for suite, parents in seen.items()
    ]
    found += [one.what for one in material.findings if one.kind == "twins"]
    return [words.sentence(text) for text in found]


def _keep(material: Material) -> list[Block]:
    """Nothing would change; which candidate is the nearest to look at."""
    study = material.study
    chosen = "The study's choice is" if material.chosen else "This is"
    texts = [f"{chosen} {study.reference}, which is deployed already: nothing changes."]
    found = [c for c in material.open_found if c.feasible and c.trial.role not in BASELINES]
    if found:
        best = max(found, key=mean_score).trial.number
        texts.append(
            f"Of the candidates found, trial {best} has the best score on the "
            f"{material.open_split} split; its report: remelt report {study.id} --candidate {best}."
        )
    return [Text(text=texts[0], tone="unsure"), *(Text(text=text) for text in texts[1:])]


def headline(material: Material, against: CandidateView | None = None) -> Number:
    """The change of the mean score over the suites with right and wrong answers; where a study has
    none, of the mean nats per token. Paired, on the report's split; against the reference if
    nothing else is named."""
    names = [suite.name for suite in material.study.scored]
    names = names or [suite.name for suite in material.study.suites]
    return paired.mean_difference([of_suite(material, name, against) for name in names])


def of_suite(material: Material, name: str, against: CandidateView | None = None) -> Number:
    """The change of one suite's score, paired, on the report's split."""
    old, new = material.of(against or material.reference), material.of(material.candidate)
    return paired.difference(old[name], new[name], material.clusters[name])


def better(gain: Number) -> bool:
    """The change is one for the better: shares should rise, nats should fall."""
    return ((gain.value or 0) > 0) == (gain.unit == "points")


def _gain(material: Material, gain: Number) -> str:
    study = material.study
    what = "mean score" if study.scored else "mean of nats per token"
    count = len(study.scored or study.suites)
    over = f"the {what} over {words.many(count, 'suite')}" if count > 1 else f"the {what}"
    basis = f"paired, {words.many(gain.n or 0, 'item')} of the {material.split} split"
    figure = f"{words.figure(gain)} ({_around(gain)}{basis})"
    who = f"{material.name[:1].upper()}{material.name[1:]}"
    if gain.settled:
        way = "better" if better(gain) else "worse"
        text = f"{who} is {way} than {study.reference}: {over} changes by {figure}"
    else:
        text = (
            f"{who} is not distinguishable from {study.reference} in {over}: the change of "
            f"{figure} may be chance"
        )
    return f"{text}{_apart(material)}."


def _around(number: Number) -> str:
    around = words.interval(number, " to ")
    return f"95 % {around}; " if around else ""


def apart(material: Material) -> list[tuple[str, Number]]:
    """What the mean does not say: suites that surely get worse, and text suites that surely
    change, each with its change."""
    found = []
    for suite in material.study.suites if len(material.study.suites) > 1 else ():
        change = of_suite(material, suite.name)
        text = suite.form == "text" and bool(material.study.scored)
        if change.settled and (text or not better(change)):
            found.append((suite.name, change))
    return found


def _apart(material: Material) -> str:
    parts = [
        f"{name} gets {'better' if better(change) else 'worse'} by {words.figure(change)} "
        f"(95 % {words.interval(change, ' to ')})"
        for name, change in apart(material)
    ]
    return f"; {', '.join(parts)}" if parts else ""


def _broken(material: Material) -> str:
    flips = material.flips.get(ALL)
    if flips is None:
        return ""
    c, broken = flips.counts, flips.broken
    text = (
        f"It breaks {words.count(c.negative)} of the {words.count(c.right_before)} answers that "
        f"are right today ({words.figure(broken)}, 95 % {words.interval(broken, '–')}), "
        f"mends {words.count(c.positive)} of the {words.count(c.wrong_before)} that are wrong, and "
        f"changes {words.figure(flips.churn)} of all answers"
    )
    if floor := floor_churn(material):
        k, n, how = floor
        share = words.figure(paired.share(k, n))
        text += f"; computing {material.study.reference} {how} changes {share}"
    return f"{text}."


def floor_churn(material: Material) -> tuple[int, int, str] | None:
    """(changed, items, how) of the noise floor that changes most; None before it was measured."""
    floors = [
        f
        for f in noise.of_study(material.database, material.study, material.split)
        if f.changed is not None
    ]
    variants = {f.variant: [g for g in floors if g.variant == f.variant] for f in floors}
    totals = [(*noise.total(fs)[:2], fs[0].how) for fs in variants.values()]
    found = max(totals, key=lambda t: t[1] / t[0], default=None)
    return None if found is None else (found[1], found[0], found[2])


def _sure(material: Material) -> str:
    """What the figures rest on: the test, the limits of the study, who chose when."""
    parts = []
    if flips := material.flips.get(ALL):
        c, p = flips.counts, flips.p
        verdict = "more than chance" if p < 0.05 else "no more than chance may do"
        parts.append(
            f"{words.count(c.positive)} mended against {words.count(c.negative)} broken is "
            f"{verdict} (exact McNemar {words.p_value(p)})"
        )
    parts.append(_single(material))
    parts.append(_limits(material))
    parts.append(_basis(material))
    return words.sentence("; ".join(part for part in parts if part))


def _single(material: Material) -> str:
    """Whether the best other checkpoint would do as well."""
    single = material.single
    if single is None or single.trial.number == material.number:
        return ""
    gain = headline(material, single)
    name = f"{single.trial.label}, the best other checkpoint"
    if not gain.settled:
        return f"from {name}, it cannot be told apart ({words.cell(gain)})"
    return f"it is {'better' if better(gain) else 'worse'} than {name} ({words.cell(gain)})"


def _limits(material: Material) -> str:
    missed = missed_constraints(material)
    if not material.study.spec.constraints:
        return ""
    if missed:
        return f"on the {material.split} split it misses what was asked for: {'; '.join(missed)}"
    count = len(material.study.spec.constraints)
    every = "constraint" if count == 1 else f"{count} constraints"
    return f"it keeps the study's {every} on the {material.split} split"


def missed_constraints(material: Material) -> list[str]:
    """Every constraint that the candidate does not keep on the report's split, in words."""
    if material.candidate.feasible:  # as it was judged when it was told
        return []
    found = []
    for constraint in material.study.spec.constraints:
        for suite in constrained(material.study, constraint):
            metric = material.candidate.metrics.get(suite, {}).get(constraint.measure)
            if metric is None or metric.value is None:
                continue
            value = Value(metric.value, metric.low, metric.high, metric.n)
            if (by := missed_by(constraint, value)) > 0:
                where = f" (on {suite})" if constraint.suite == "each" else ""
                found.append(f"{words.constraint(constraint)}{where}, by {by:.3f}")
    return found


def _basis(material: Material) -> str:
    """Whether the items that judge it had a part in choosing it."""
    if material.split == "test" and material.chosen:
        return "it was chosen before the test split was opened"
    if material.split == "test":
        return (
            "it is not the study's own choice, so whoever takes it because of this page has chosen "
            "by the test split and should expect a little less"
        )
    if material.split == "validation":
        return (
            "these are figures of the validation split, which the choice is made by, so expect a "
            "little less"
        )
    return "these are figures of the split that was searched on, so expect less"


def _cards(material: Material, gain: Number, tone: Tone) -> Cards:
    what = "mean score" if material.study.scored else "nats per token"
    cards = [
        Card(
            title=f"Change of the {what}",
            figure=words.figure(gain),
            beside=_beside(gain, material.split),
            tone=tone,
        )
    ]
    cards += [
        Card(
            title=f"{name} gets worse",
            figure=words.figure(change),
            beside=_beside(change, material.split),
            tone="bad",
        )
        for name, change in apart(material)
        if not better(change)
    ]
    for name, title in (
        ("negative_flip_rate", "Negative flips"),
        ("positive_flip_rate", "Positive flips"),
        ("churn", "Churn"),
    ):
        metric = material.candidate.metrics.get("", {}).get(name)
        if metric is None:
            continue
        number = Number(value=metric.value, low=metric.low, high=metric.high, n=metric.n)
        around = words.interval(number, "–")
        cards.append(
            Card(
                title=f"{title}, of all items",
                figure=words.figure(number),
                beside=f"95 % {around} · {material.split}, n = {words.count(metric.n)}",
            )
        )
    single = material.single
    if single is not None and single.trial.number != material.number:
        other = headline(material, single)
        cards.insert(
            1,
            Card(
                title=f"Change against {single.trial.label}, the best other checkpoint",
                figure=words.figure(other),
                beside=_beside(other, material.split),
            ),
        )
    return Cards(cards=cards)


def _beside(change: Number, split: str) -> str:
    """Interval, split and n of a change, as a card has them."""
    around = _around(change).replace("; ", " · ")
    return f"{around}{split}, n = {words.count(change.n or 0)}"
