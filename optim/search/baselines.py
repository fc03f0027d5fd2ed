"""Weights of the named baselines that every study evaluates before it searches.

Pure functions of earlier results: what to evaluate next, never the evaluation itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optim.search.base import FAILED

Weights = tuple[float, ...]
#: sort key of `optim.search.quality`: smaller is better
Quality = tuple[float, ...]


def single_weights(n: int, i: int) -> Weights:
    """Parent i alone: the recipe that returns it bit for bit."""
    if not 0 <= i < n:
        raise ValueError(f"parent: {i} is not one of 0 to {n - 1}")
    return tuple(float(j == i) for j in range(n))


def uniform(n: int, members: Sequence[int] | None = None) -> Weights:
    """Equal shares of all parents, or of `members` only."""
    chosen = set(range(n) if members is None else members)
    if not chosen or not chosen <= set(range(n)):
        raise ValueError(f"members: {sorted(chosen)} are not some of 0 to {n - 1}")
    return tuple(1.0 / len(chosen) if j in chosen else 0.0 for j in range(n))


def softmax(values: Sequence[float], temperature: float) -> Weights:
    """w_i ∝ exp(−values_i / temperature): LM-Cocktail (2311.13534); values are minimised."""
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not above 0")
    best = min(values)
    mass = [math.exp((best - value) / temperature) for value in values]
    return tuple(m / math.fsum(mass) for m in mass)


def greedy_order(qualities: Sequence[Quality]) -> tuple[int, ...]:
    """Parents from best to worst by the quality of each alone; equal ones keep the pool's order."""
    return tuple(sorted(range(len(qualities)), key=lambda i: qualities[i]))


def greedy_next(order: Sequence[int], results: Mapping[Weights, Quality]) -> Weights | None:
    """The next soup that the greedy recipe (Wortsman et al. 2203.05482) has to see, or None.

    `order`: all parents, best single first. `results`: quality of everything evaluated so far by
    its weights, with at least that of the best single. A parent joins when the soup with it is
    no worse than the soup without; one that failed alone is not tried.
    """
    return _greedy(order, results)[1]


def greedy_soup(order: Sequence[int], results: Mapping[Weights, Quality]) -> Weights:
    """The greedy soup as far as the results go; final once `greedy_next` returns None."""
    return _greedy(order, results)[0]


def _greedy(
    order: Sequence[int], results: Mapping[Weights, Quality]
) -> tuple[Weights, Weights | None]:
    n, members = len(order), [order[0]]
    soup = single_weights(n, order[0])
    if soup not in results:
        raise ValueError(f"results: none for parent {order[0]} alone, with whom the soup begins")
    for parent in order[1:]:
        if results.get(single_weights(n, parent), (0.0,))[0] == FAILED:
            continue
        trial = uniform(n, [*members, parent])
        if trial not in results:
            return soup, trial
        if results[trial] <= results[soup]:
            members, soup = [*members, parent], trial
    return soup, None
