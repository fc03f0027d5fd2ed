"""The losses of a descent, in nats, as functions of log-likelihoods or of logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def options(sums: Tensor, offsets: np.ndarray, lengths: Tensor) -> Tensor:
    """log P [I, K] of every option of I items among its item's: softmax over the log-likelihoods
    `sums` [R] divided by `lengths` [R]; −inf where an item has fewer than K options. `offsets`
    [I+1] says where each item's options begin."""
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(sums)) - np.repeat(offsets[:-1], counts)
    scores = torch.full((len(counts), int(counts.max())), -torch.inf, dtype=sums.dtype)
    scores = scores.index_put((torch.from_numpy(rows), torch.from_numpy(places)), sums / lengths)
    return scores.log_softmax(-1)


def right_option(log_shares: Tensor, golds: Tensor) -> Tensor:
    """Mean over I items of −log P of the right option; `log_shares` [I, K] from `options`."""
    return -log_shares.gather(1, golds[:, None]).mean()


def indecision(log_shares: Tensor) -> Tensor:
    """Mean over I items of the entropy of their options (AdaMerging, 2310.02575)."""
    logs = torch.where(log_shares.isfinite(), log_shares, 0.0)
    return -(log_shares.exp() * logs).sum(-1).mean()


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the next token at each of M positions, [M]; logits [M, V]."""
    logs = logits.float().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def imitation(logits: Tensor, taught: Tensor, *, temperature: float, mse: float = 0.0) -> Tensor:
    """KL(teacher ‖ model) at a temperature for each of M positions, [M], and `mse` times the mean
    over the vocabulary of the squared difference of the logits; both [M, V]."""
    here, there = ((x.float() / temperature).log_softmax(-1) for x in (logits, taught))
    loss = functional.kl_div(here, there, reduction="none", log_target=True).sum(-1)
    if mse:
        loss = loss + mse * (logits.float() - taught.float()).pow(2).mean(-1)
    return loss
