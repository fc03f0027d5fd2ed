"""Text to token ids: the one place that decides what the model is shown and what is scored.

The tokenizer's own opening tokens (`<s>`) are kept, closing ones are dropped, because the text goes
on. Nothing is ever truncated: an item that does not fit the model is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.errors import BadInput
from services.suites import Item


@dataclass(frozen=True)
class Continuation:
    """Token ids of a text, of which those from `start` on are scored given all before them."""

    ids: list[int]
    start: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Tokens that are to be continued, and by how many at most."""

    ids: tuple[int, ...]
    most: int


class Encoder:
    """Encodes with one tokenizer for one model: `limit` positions (None: no limit)."""

    def __init__(self, tokenizer: Any, *, limit: int | None, vocabulary: int) -> None:
        self.tokenizer, self.limit, self.vocabulary = tokenizer, limit, vocabulary
        probe = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        self._closing = next((i for i, special in enumerate(reversed(probe)) if not special), 0)
        opening = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self._opening = next((token for token in opening if token is not None), None)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids as the tokenizer gives them, without the special tokens it puts at the end."""
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        return [row[: len(row) - self._closing] for row in rows] if self._closing else rows

    def decode(self, ids: Sequence[int]) -> str:
        """Generated ids as text, special tokens left out, ends stripped."""
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def choices(self, items: Sequence[Item], where: str) -> list[list[Continuation]]:
        """Every option of every item as the continuation of its context.

        Context and option are encoded together, so that tokens may differ from those of the parts;
        the option is what lies beyond the number of tokens that the context has alone, and at least
        the last token. White space at the end of the context belongs to the option, as in lm-eval:
        most tokenizers join it to the word behind it. An option with nothing before it follows the
        opening (or end) token.
        """
        contexts = self.encode([item.context.rstrip() for item in items])
        wholes = iter(
            self.encode([item.context + choice for item in items for choice in item.choices])
        )
        return [
            [self._continuation(next(wholes), len(context), item, where) for _ in item.choices]
            for item, context in zip(items, contexts, strict=True)
        ]

    def texts(self, items: Sequence[Item], where: str) -> list[Continuation]:
        """Whole texts: all tokens but the first are scored, be the first `<s>` or not."""
        return [
            Continuation(self._checked(ids, len(ids) - 1, item, where), 1)
            for item, ids in zip(items, self.encode([item.text for item in items]), strict=True)
        ]

    def prompts(
        self, items: Sequence[Item], where: str, answer_tokens: int | None = None
    ) -> list[Prompt]:
        """What is to be continued for every item, and by how much.

        The most is `answer_tokens`, else two more than the target needs behind its prompt: an
        answer that goes on is cut there, which leaves it wrong.
        """
        prompts = self.encode([item.prompt for item in items])
        wholes = self.encode([item.prompt + item.target for item in items])
        out = []
        for item, prompt, whole in zip(items, prompts, wholes, strict=True):
            most = answer_tokens or max(len(whole) - len(prompt), 1) + 2
            prompt = prompt or self._opened([], item, where)
            ids = tuple(self._checked(prompt, len(prompt) + most - 1, item, where))
            out.append(Prompt(ids=ids, most=most))
        return out

    def _continuation(self, ids: list[int], context: int, item: Item, where: str) -> Continuation:
        if not ids:
            raise BadInput(
                "context and choice encode to no token at all",
                where=f"{where}, item {item.id!r}",
                mend="Give the choice a text that the tokenizer keeps",
            )
        start = min(context, len(ids) - 1)
        if start < 1:
            ids, start = self._opened(ids, item, where), 1
        return Continuation(self._checked(ids, len(ids) - 1, item, where), start)

    def _opened(self, ids: list[int], item: Item, where: str) -> list[int]:
        if self._opening is None:
            raise BadInput(
                "nothing stands before the first token to score, and the tokenizer opens no text",
                where=f"{where}, item {item.id!r}",
                mend="Give the item a context",
            )
        return [self._opening, *ids]

    def _checked(self, ids: list[int], positions: int, item: Item, where: str) -> list[int]:
        if self.limit is not None and positions > self.limit:
            raise BadInput(
                f"needs {positions} positions, the model has {self.limit}",
                where=f"{where}, item {item.id!r}",
                mend="Shorten the item, or leave it out: nothing is cut off silently",
            )
        if ids and max(ids) >= self.vocabulary:
            raise BadInput(
                f"token {max(ids)} is beyond the model's {self.vocabulary} embeddings",
                where=f"{where}, item {item.id!r}",
                mend="Put the tokenizer that belongs to the model beside it",
            )
        return ids
