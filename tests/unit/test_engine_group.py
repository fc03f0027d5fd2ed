"""Ranks in step: threads stand for the ranks, joined by real socket pairs."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from services.errors import BadInput, TrialRejected
from workers.engine.channel import Channel
from workers.engine.group import Group, Stop

WORLD = 3


def on_every_rank(work: Callable[[Group], Any]) -> list[Any]:
    """What `work` returned, or raised, on each of three ranks."""
    pairs = [socket.socketpair() for _ in range(WORLD - 1)]
    groups = [Group(0, WORLD, [Channel(mine) for mine, _ in pairs])]
    groups += [Group(rank, WORLD, [Channel(pairs[rank - 1][1])]) for rank in range(1, WORLD)]
    results: list[Any] = [None] * WORLD

    def run(group: Group) -> None:
        try:
            results[group.rank] = work(group)
        except Exception as error:
            results[group.rank] = error

    threads = [threading.Thread(target=run, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for pair in pairs:
        for one in pair:
            one.close()
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_what_rank_0_shares_and_what_it_collects() -> None:
    shared = on_every_rank(lambda g: g.share({"op": "load"} if g.rank == 0 else None))
    assert shared == [{"op": "load"}] * WORLD
    assert on_every_rank(lambda g: g.collect(g.rank * 10)) == [[0, 10, 20], [], []]


def test_a_step_that_all_finish() -> None:
    assert on_every_rank(lambda g: g.agreed(lambda: g.rank)) == [0, 1, 2]


@pytest.mark.parametrize("failing", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_step_that_fails_on_some_fails_on_all(failing: tuple[int, ...]) -> None:
    def step(group: Group) -> int:
        if group.rank in failing:
            raise TrialRejected(f"of rank {group.rank}", where="recipe", mend="another one")
        return group.rank

    def work(group: Group) -> Any:
        with pytest.raises(TrialRejected) as refused:
            group.agreed(lambda: step(group))
        # and they are still in step
        return refused.value.line(), group.agreed(lambda: group.rank)

    line = f"recipe: of rank {failing[0]}. another one"
    assert on_every_rank(work) == [(line, rank) for rank in range(WORLD)]


def test_they_stop_at_the_same_message() -> None:
    def work(group: Group) -> int:
        for turn in range(10):
            # the others' own opinion does not count
            if group.stopped(turn == 6 if group.rank == 0 else turn == 2, together=True):
                return turn
        return -1

    assert on_every_rank(work) == [6] * WORLD


def test_a_stop_of_rank_0_reaches_those_who_are_still_at_work() -> None:
    stopped = threading.Barrier(WORLD)

    def step(group: Group) -> None:
        if group.rank == 0:
            raise Stop
        while not group.stopped(False, together=False):
            pass
        raise Stop

    def work(group: Group) -> str:
        with pytest.raises(Stop):
            group.agreed(lambda: step(group))
        stopped.wait(10)
        return str(group.agreed(lambda: group.rank))

    assert on_every_rank(work) == ["0", "1", "2"]


def test_an_early_success_of_rank_0_stops_nobody() -> None:
    done = threading.Event()

    def step(group: Group) -> int:
        if group.rank == 0:
            done.set()
            return 0
        done.wait(10)
        return sum(group.stopped(False, together=False) for _ in range(100))

    assert on_every_rank(lambda g: g.agreed(lambda: step(g))) == [0, 0, 0]


def test_a_rank_alone_needs_nobody() -> None:
    alone = Group(0, 1)
    assert alone.share({"a": 1}) == {"a": 1}
    assert alone.collect(5) == [5]
    assert alone.agreed(lambda: "value") == "value"
    assert alone.stopped(True, together=True)
    with pytest.raises(BadInput):
        alone.agreed(lambda: (_ for _ in ()).throw(BadInput("no")))
