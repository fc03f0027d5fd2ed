"""The resident pool: every checkpoint's values kept where forming a candidate reads them fastest.

A tensor that is the same in all of them is formed once. `workers.engine.loading` fills it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from optim.recipe import Recipe
from optim.steps import float32_weights, sums_to_one
from services.checkpoints import Checkpoint
from services.errors import BadInput
from workers.engine.layout import Layout, Slot
from workers.engine.tiers import Tier
from workers.engine.work import Work, sent, works_of


@dataclass(frozen=True, kw_only=True)
class Parent:
    """One checkpoint of the pool: the held part of every tensor, 1-D, in the file's dtype."""

    checkpoint: Checkpoint
    pieces: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Formed:
    """What one call of `Pool.form_` did to its buffer."""

    #: the slots that were written; the others hold what they held
    written: tuple[Slot, ...]
    #: the first tensor that is not finite in the buffer's dtype
    infinite: str | None


class Pool:
    """Checkpoints by digest, in one layout, on one tier."""

    def __init__(
        self,
        parents: Sequence[Parent],
        layout: Layout,
        *,
        tier: Tier,
        plan: str,
        identical: frozenset[str],
    ) -> None:
        self.parents = {parent.checkpoint.digest: parent for parent in parents}
        self.layout, self.tier = layout, tier
        #: what was chosen and why, for people
        self.plan = plan
        #: tensors that are the same bit for bit in every checkpoint, judged on whole tensors
        self.identical = identical
        self._formed: weakref.ref[Tensor] | None = None
        #: identical tensors that the buffer `_formed` holds as they are in the checkpoints
        self._held: set[str] = set()

    def form_(self, out: Tensor, recipe: Recipe) -> Formed:
        """Write the candidate into the flat buffer `out`, all of it but what it holds already.

        That is a tensor that is identical in all checkpoints, written by an earlier call with the
        same buffer: nobody else may write to it. Raises BadInput for unknown parents.
        """
        parents = self.parents_of(recipe)
        if self._formed is None or self._formed() is not out:
            self._formed, self._held = weakref.ref(out), set()
        written, works = [], []
        for slot in self.layout.slots:
            same = self.stays(slot.name, recipe)
            if same and slot.name in self._held:
                continue
            written.append(slot)
            (self._held.add if same else self._held.discard)(slot.name)
            weights = (1.0,) if same else recipe.weights_of(slot.name)
            pieces = [parent.pieces[slot.name] for parent in (parents[:1] if same else parents)]
            works += works_of(slot, out, pieces, weights, recipe.columns.get(slot.name))
        infinite = None
        for work, pieces in zip(works, self._beside(out, works), strict=True):
            if not work.form_(pieces):
                # so that the next candidate fails by it too
                self._held.discard(work.name)
                infinite = infinite or work.name
        return Formed(written=tuple(written), infinite=infinite)

    def stays(self, name: str, recipe: Recipe) -> bool:
        """Whether the candidate's tensor is the one that all checkpoints hold."""
        if name not in self.identical or name in recipe.columns:
            return False
        return sums_to_one(recipe.weights_of(name))

    def _beside(self, out: Tensor, works: Sequence[Work]) -> Iterator[list[Tensor]]:
        """The pieces of each work where `out` is, the next ones under way while these are used."""
        pieces = [work.pieces for work in works]
        return (
            iter(pieces)
            if self.tier == "device" or out.device.type == "cpu"
            else sent(pieces, out.device)
        )

    def parents_of(self, recipe: Recipe) -> list[Parent]:
        """The parents in the recipe's order; BadInput where it is not one for this pool."""
        for digest in recipe.parents:
            if digest not in self.parents:
                raise BadInput(
                    f"parent {digest[:12]}… is not in the resident pool",
                    where="recipe",
                    mend="Load the pool that the recipe was made for",
                )
        try:
            recipe.check_tensors({slot.name: slot.whole for slot in self.layout.slots})
            for row in recipe.rows:
                float32_weights(row)
        except ValueError as error:
            raise BadInput(str(error), where="recipe", mend="Correct its weights") from error
        return [self.parents[digest] for digest in recipe.parents]
