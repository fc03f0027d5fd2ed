"""Rashomon capacity: how much the choice among near-equal models decides about single items.

The capacity of the channel from the model to its distribution over an item's options, found for
all items at once by the algorithm of Blahut and Arimoto (1972).
"""

from __future__ import annotations

import numpy as np

TOLERANCE_BITS = 1e-3
MOST_STEPS = 2000
#: numbers of the channels that are worked on at once: 32 MB
MOST_NUMBERS = 4_000_000


def rashomon_capacity(
    probabilities: np.ndarray,
    *,
    tolerance: float = TOLERANCE_BITS,
    most_steps: int = MOST_STEPS,
) -> np.ndarray:
    """float64 [N]: 2^C of every item, in [1, K]; C its capacity in bits, within `tolerance`.

    probabilities: float [M, N, K], of M models, each row summing to 1. C = max over p(model) of
    I(model; option) (Hsu & Calmon 2022; Watson-Daniels et al. 2024, 2402.07745). 1: all models
    say the same; K: among them every option is said with certainty. A lower bound is returned; at
    the end it is below the true capacity by `tolerance` at most, which is checked by Arimoto's
    upper bound, unless `most_steps` ended an item before (the remaining gap shrinks like 1/steps).
    Of K = 2 only the two extreme models matter, which makes it exact and quick.
    Raises ValueError for another shape, no models, or rows that do not sum to 1.
    """
    if probabilities.ndim != 3 or not probabilities.shape[0] or not probabilities.shape[2]:
        raise ValueError(f"probabilities: {probabilities.shape} is not [models, items, options]")
    models, items, options = probabilities.shape
    step = max(1, MOST_NUMBERS // (models * options))
    found = np.ones(items)
    for start in range(0, items, step):
        part = probabilities[:, start : start + step].astype(np.float64)
        found[start : start + step] = _of_some(part, tolerance, most_steps)
    return found


def _of_some(table: np.ndarray, tolerance: float, most_steps: int) -> np.ndarray:
    if not (np.abs(table.sum(axis=2) - 1) < 1e-6).all() or (table < 0).any():
        raise ValueError("probabilities: an item's options do not sum to 1")
    if table.shape[2] == 2:
        bits = _blahut_arimoto(_extremes(table), tolerance, most_steps)[0]
    else:
        channel = np.ascontiguousarray(table.transpose(1, 0, 2))
        bits = _capacity(channel, tolerance, most_steps)
    return np.asarray(np.exp2(np.clip(bits, 0, np.log2(table.shape[2]))))


def _extremes(table: np.ndarray) -> np.ndarray:
    """[N, 2, 2]: of two options, the models that find the first most and least likely; whatever
    lies between them is a mixture of both and adds no capacity."""
    first = table[..., 0]
    ends = np.stack([first.min(axis=0), first.max(axis=0)], axis=1)
    return np.stack([ends, 1 - ends], axis=2)


def _capacity(channel: np.ndarray, tolerance: float, most_steps: int) -> np.ndarray:
    """float64 [N], bits, of channels [N, M, K].

    No more models than options carry a capacity. So each item begins with the models that find
    one of its options likeliest, and whichever model is farthest from their best mixture comes
    in, until none is farther than the bound allows.
    """
    items, models, _ = channel.shape
    found, at = np.zeros(items), np.arange(items)
    own = _own(channel)
    inside = channel.argmax(axis=1)
    for _ in range(models):
        chosen = np.take_along_axis(channel, inside[:, :, None], axis=1)
        lower, output = _blahut_arimoto(chosen, tolerance / 2, most_steps)
        distance = own - np.matmul(channel, _log(output)[:, :, None])[:, :, 0]
        found[at] = lower
        far = distance.argmax(axis=1)
        gap = np.take_along_axis(distance, far[:, None], axis=1)[:, 0] - lower
        # a model that is in already is as near as `most_steps` let it come
        left = (gap > tolerance) & ~(inside == far[:, None]).any(axis=1)
        if not left.any():
            break
        at, channel, own = at[left], channel[left], own[left]
        inside = np.concatenate([inside[left], far[left, None]], axis=1)
    return found


def _blahut_arimoto(
    channel: np.ndarray, tolerance: float, most_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(capacities in bits, float64 [N], and their outputs [N, K]) of channels [N, M, K]; items
    leave as soon as the lower and the upper bound meet."""
    items, models, options = channel.shape
    found, outputs, at = np.zeros(items), np.zeros((items, options)), np.arange(items)
    own = _own(channel)
    inputs = np.full((items, models), 1.0 / models)
    for _ in range(most_steps):
        output = np.matmul(inputs[:, None, :], channel)[:, 0, :]
        distance = own - np.matmul(channel, _log(output)[:, :, None])[:, :, 0]
        weighed = inputs * np.exp2(distance)
        total = weighed.sum(axis=1)
        lower = np.log2(total)
        found[at], outputs[at] = lower, output
        left = distance.max(axis=1) - lower > tolerance
        if not left.any():
            break
        at, channel, own = at[left], channel[left], own[left]
        inputs = weighed[left] / total[left, None]
    return found, outputs


def _own(channel: np.ndarray) -> np.ndarray:
    """[N, M]: Σ p log₂ p of every model's options; 0 log 0 is 0."""
    return np.asarray((channel * _log(channel)).sum(axis=2))


def _log(probabilities: np.ndarray) -> np.ndarray:
    """log₂; 0 for 0, which is only ever taken times 0."""
    return np.asarray(np.log2(np.where(probabilities > 0, probabilities, 1.0)))
