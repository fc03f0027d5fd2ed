"""The health of a suite by its items alone: what is printed when it is registered, and asked later.

Computed when it is read, and kept by digest in this process: content never changes, a suite of 600
items takes hundredths of a second (1.2 million words two), and better rules apply to old suites
too. Texts of the test split are compared with the others; nobody's answers are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from optim import suite_health as items_say
from optim.suite_answers import detectable_difference
from optim.twins import GRAM, twins
from services.findings import Finding
from services.suites import SPLITS, Item, Suite

#: share of items that only one of two models has right, where no study has measured it
DISCORDANT = 0.1
#: a constant answer that is certainly so much better than chance is told
HEAD_START = 0.1
#: golds that are spread so unevenly by chance once in a thousand suites
UNEVEN = 0.001
#: names of twins that a finding gives
NAMED = 3
#: reports kept in this process
KEPT = 64
_known: dict[tuple[str, str], SuiteHealth] = {}


@dataclass(frozen=True, kw_only=True)
class Twin:
    """Two items that share a run of 13 words, or all of them."""

    items: tuple[str, str]
    splits: tuple[str, str]
    whole: bool
    #: the same text with another gold answer
    conflict: bool
    #: both are of one cluster: intervals know that they are not independent
    clustered: bool


@dataclass(frozen=True, kw_only=True)
class SuiteHealth:
    """What the items of one suite say."""

    suite: str
    digest: str
    form: str
    #: items of each split
    items: dict[str, int]
    #: the split that is searched first, then validation, then test
    twins: tuple[Twin, ...]
    #: accuracy of choosing at random; None unless items have options
    chance: float | None
    #: guessers that never read a question, learnt on search and judged on validation
    guessers: tuple[items_say.Guesser, ...]
    #: how golds are spread over positions; None unless items have options
    spread: items_say.Spread | None
    #: by split: smallest difference of two models' accuracies that it shows with power .8, where
    #: `DISCORDANT` of the items tell them apart; None: none at all, or no right and wrong
    detectable: dict[str, float | None]

    def twins_of(self, split: str, seen: str = "search") -> list[Twin]:
        """Twins with one item in each of two splits."""
        return [t for t in self.twins if sorted(t.splits) == sorted((split, seen))]

    def share_of_twins(self, split: str, seen: str = "search") -> float:
        """Share of a split's items that have a twin in another split."""
        ids = {t.items[t.splits.index(split)] for t in self.twins_of(split, seen)}
        return len(ids) / max(self.items[split], 1)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, each with its mend; nobody is refused for it."""
        return [*_twins(self), *_guessers(self), *_spread(self), *_size(self)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found = asdict(self)
        for data, one in zip(found["guessers"], self.guessers, strict=True):
            data |= {"share": one.share, "interval": one.interval}
        return {**found, "findings": [finding.to_dict() for finding in self.findings]}


def of_items(suite: Suite) -> SuiteHealth:
    """The report of a suite's items."""
    key = (suite.name, suite.digest)
    if key not in _known:
        while len(_known) >= KEPT:
            _known.pop(next(iter(_known)))
        _known[key] = _computed(suite)
    return _known[key]


def known(name: str, digest: str) -> SuiteHealth | None:
    """The report of a suite that this process has looked at already."""
    return _known.get((name, digest))


def _computed(suite: Suite) -> SuiteHealth:
    splits = [suite.split_of(item) for item in suite.items]
    # one set of labels for all items is no part of what an item says
    options = {item.choices for item in suite.items}
    found = twins([_text(item, with_options=len(options) > 1) for item in suite.items])
    choice = bool(suite.items[0].choices)
    shown = [item.choices for item in suite.items] if choice else []
    gold = [item.gold for item in suite.items] if choice else []
    learn, judge = (
        [i for i, split in enumerate(splits) if split == wanted]
        for wanted in ("search", "validation")
    )
    sizes = {str(split): splits.count(split) for split in SPLITS}
    return SuiteHealth(
        suite=suite.name,
        digest=suite.digest,
        form=suite.form,
        items=sizes,
        twins=tuple(
            _twin(suite, splits, i, j, bool(whole))
            for (i, j), whole in zip(found.pairs.tolist(), found.whole, strict=True)
        ),
        chance=items_say.chance(shown),
        guessers=tuple(items_say.guessers(shown, gold, learn, judge)) if choice else (),
        spread=items_say.gold_spread(shown, gold) if choice else None,
        detectable={
            split: None if suite.form == "text" else detectable_difference(n, DISCORDANT)
            for split, n in sizes.items()
        },
    )


def _text(item: Item, *, with_options: bool) -> str:
    """What an item asks, whatever its form; the order of options says nothing."""
    options = sorted(item.choices) if with_options else []
    return "\n".join(part for part in (item.context, item.prompt, item.text, *options) if part)


def _twin(suite: Suite, splits: list[Any], i: int, j: int, whole: bool) -> Twin:
    if SPLITS.index(splits[i]) > SPLITS.index(splits[j]):
        i, j = j, i
    one, other = suite.items[i], suite.items[j]
    return Twin(
        items=(one.id, other.id),
        splits=(splits[i], splits[j]),
        whole=whole,
        conflict=whole and gold_of(one) != gold_of(other),
        clustered=one.cluster is not None and one.cluster == other.cluster,
    )


def gold_of(item: Item) -> str:
    """The right answer of an item as text; empty for a form that states it in another way."""
    if item.choices:
        return item.choices[item.gold]
    return item.target or str(getattr(item, "expect", ""))


def _twins(health: SuiteHealth) -> Iterator[Finding]:
    for split, seen in (("validation", "search"), ("test", "search"), ("test", "validation")):
        if here := health.twins_of(split, seen):
            share = health.share_of_twins(split, seen)
            yield Finding(
                kind="twins",
                what=f"{round(share * health.items[split])} of {health.items[split]} {split} items "
                f"of {health.suite} have a twin in {seen}, the same text or {GRAM} words "
                f"of it ({_named(here)})",
                mend="Remove one of each pair: what was seen before is judged by again",
            )
    within = [t for t in health.twins if t.splits[0] == t.splits[1] and not t.clustered]
    if within:
        yield Finding(
            kind="repeated",
            what=f"{len(within)} pairs of items of {health.suite} are twins inside a split "
            f"({_named(within)})",
            mend="Remove one of each pair, or give twins the same cluster",
        )
    if conflicts := [t for t in health.twins if t.conflict]:
        yield Finding(
            kind="conflict",
            what=f"{len(conflicts)} pairs of items of {health.suite} ask the same and have "
            f"different golds ({_named(conflicts)})",
            mend="Correct the golds, or remove the items: nobody can have both right",
        )


def _named(found: list[Twin]) -> str:
    names = ", ".join(" and ".join(twin.items) for twin in found[:NAMED])
    return f"{names}, …" if len(found) > NAMED else names


def _guessers(health: SuiteHealth) -> Iterator[Finding]:
    if health.chance is None or not health.guessers:
        return
    if told := items_say.gives_away(health.guessers, health.chance):
        how = {"bayes": "The words of the options", "longest": "The longest option"}
        yield Finding(
            kind="gives-away",
            what=f"{how.get(told.kind, 'The shortest option')} alone has {_percent(told)} of "
            f"{health.suite} right without the question (validation; chance "
            f"{100 * health.chance:.0f} %)",
            mend="Rewrite the options so that right and wrong ones look alike",
        )
    constant = [one for one in health.guessers if one.kind in ("position", "option")]
    best = max(constant, key=lambda one: one.right)
    if best.interval[0] > health.chance + HEAD_START:
        yield Finding(
            kind="constant",
            what=f"{best.what} has {_percent(best)} of {health.suite} right (validation; chance "
            f"{100 * health.chance:.0f} %)",
            mend="Read its scores against this figure, or balance the golds",
        )


def _percent(one: items_say.Guesser) -> str:
    low, high = one.interval
    share = one.right / max(one.n, 1)
    return f"{100 * share:.0f} % (95 % {100 * low:.0f}–{100 * high:.0f})"


def _spread(health: SuiteHealth) -> Iterator[Finding]:
    spread = health.spread
    # where options are the same everywhere, a position is a class: see `constant`
    if spread is None or spread.fixed or spread.p is None or spread.p >= UNEVEN:
        return
    counts = ", ".join(map(str, spread.counts))
    yield Finding(
        kind="position",
        what=f"Golds of {health.suite} favour a position ({counts} items from the first on; "
        f"p = {spread.p:.1g})",
        mend="Shuffle the options of every item",
    )


def _size(health: SuiteHealth) -> Iterator[Finding]:
    if health.form == "text":
        return
    small = [split for split in ("search", "validation", "test") if not health.detectable[split]]
    if small:
        sizes = ", ".join(f"{split} {health.items[split]}" for split in small)
        yield Finding(
            kind="too-small",
            what=f"{health.suite} has too few items ({sizes}) to tell models apart that differ in "
            f"{100 * DISCORDANT:.0f} % of them (power 80 %)",
            mend="Add items: a split needs 77 for the largest such difference",
        )
