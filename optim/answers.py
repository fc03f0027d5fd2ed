"""The answers of M candidates to N items, told apart: which of them are the same."""

from __future__ import annotations

import numpy as np


def ranked_answers(right: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """int64 [M, N]: each answer as its number among those of its item, the most frequent is 0.

    right: bool [M, N]; answer: uint64 [M, N], option indices or hashes as in `Predictions`. Two
    right answers are one answer, however they are spelled. Of equally frequent ones wrong come
    before right, then smaller before larger.
    """
    members, items = check_answers(right, answer)
    if not answer.size:
        return np.zeros((members, items), dtype=np.int64)
    plain = np.where(right, np.uint64(0), answer)
    order = np.lexsort((plain, right), axis=0)
    lined, sides = (np.take_along_axis(table, order, axis=0) for table in (plain, right))
    begins = np.ones((members, items), bool)
    begins[1:] = (lined[1:] != lined[:-1]) | (sides[1:] != sides[:-1])
    # runs of equal answers, numbered item after item
    run = np.cumsum(begins.T.ravel()) - 1
    sizes = np.bincount(run)
    owner = np.repeat(np.arange(items), begins.sum(axis=0))
    by_size = np.lexsort((-sizes, owner))
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[by_size] = np.arange(len(sizes)) - np.searchsorted(owner, owner[by_size])
    found = np.empty((members, items), dtype=np.int64)
    np.put_along_axis(found, order, rank[run].reshape(items, members).T, axis=0)
    return found


def differs(
    right: np.ndarray, answer: np.ndarray, base_right: np.ndarray, base_answer: np.ndarray
) -> np.ndarray:
    """bool [M, N]: another answer than the baseline's, [N] or [M, N]; two right ones are one."""
    return np.asarray((right != base_right) | (~right & ~base_right & (answer != base_answer)))


def check_answers(right: np.ndarray, answer: np.ndarray) -> tuple[int, int]:
    """(M, N); raises ValueError when the shapes do not fit."""
    if right.ndim != 2 or right.shape != answer.shape:
        raise ValueError(f"answers: {answer.shape} for {right.shape} right or wrong, not [M, N]")
    return right.shape[0], right.shape[1]
