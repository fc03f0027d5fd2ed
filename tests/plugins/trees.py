"""What a token of a batch can see, written out: the meaning of heads, trees and plain rows."""

import torch

from workers.engine.tree import Batch


def seen_text(batch: Batch, at: int) -> list[int]:
    """The tokens that the logits in row `at` depend on, in the order of the text."""
    width = batch.inputs.shape[1]
    row, column = divmod(int(batch.positions[at]), width)
    mask = batch.mask()
    if mask is None:
        return batch.inputs[row, : column + 1].tolist()
    head = batch.head.inputs[0] if batch.head is not None else torch.zeros(0, dtype=torch.int64)
    tokens = torch.cat([head, batch.inputs[row]])
    depths = torch.cat([torch.arange(len(head)), batch.depths[row]])
    seen = mask[row, 0, column].nonzero()[:, 0]
    places = depths[seen].tolist()
    assert sorted(places) == list(range(len(places))), "every place of the text is seen once"
    return tokens[seen[torch.tensor(places).argsort()]].tolist()
