"""lm-eval's three kinds of requests as token ids: log-likelihood of a continuation, rolling
log-likelihood of a text, generation until a string.

Which tokens are shown and scored is what lm-eval's Hugging Face back end shows and scores, so that
the numbers are its numbers. Requests are plain lists here: nothing imports lm-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.errors import BadInput
from services.lm_eval.generation import Generation
from workers.engine.encode import Continuation, Encoder

#: positions of a model that states no limit, as lm-eval assumes
DEFAULT_POSITIONS = 2048

#: kind, then its arguments: ("loglikelihood", context, continuation),
#: ("loglikelihood_rolling", text), ("generate_until", prompt, generation arguments)
Request = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Open:
    """A prompt to be continued, and the request that it answers."""

    request: int
    ids: list[int]
    how: Generation


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """R requests as token ids: what to score, and what to continue."""

    #: kind of each request
    kinds: tuple[str, ...]
    continuations: tuple[Continuation, ...] = field(repr=False)
    #: the request that each continuation belongs to, int64 [C]
    owners: np.ndarray
    prompts: tuple[Open, ...] = field(repr=False)
    #: requests that lost tokens on the left
    truncated: int = 0


def encode_requests(
    requests: Sequence[Request],
    encoder: Encoder,
    *,
    names: Sequence[str],
    where: str,
    truncate: bool = False,
) -> Encoded:
    """Token ids of requests; `names` says for messages which item each belongs to.

    Raises BadInput for a request that does not fit the model. `truncate` drops tokens from the left
    of it instead, as lm-eval does.
    """
    shaper = _Shaper(encoder, where, truncate)
    by_kind: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        by_kind.setdefault(request[0], []).append(number)
    rows: list[tuple[int, Continuation]] = []
    prompts: list[Open] = []
    for kind, numbers in by_kind.items():
        chosen = [(number, names[number], requests[number][1:]) for number in numbers]
        if kind == "loglikelihood":
            rows += shaper.pairs(chosen)
        elif kind == "loglikelihood_rolling":
            rows += shaper.windows(chosen)
        elif kind == "generate_until":
            prompts += shaper.prompts(chosen)
        else:
            raise BadInput(f"requests of kind {kind!r} are not known", where=where)
    return Encoded(
        kinds=tuple(request[0] for request in requests),
        continuations=tuple(row for _, row in rows),
        owners=np.array([number for number, _ in rows], dtype=np.int64),
        prompts=tuple(prompts),
        truncated=shaper.truncated,
    )


#: number of the request, name of its item, arguments
_Chosen = Sequence[tuple[int, str, Sequence[Any]]]


@dataclass
class _Shaper:
    encoder: Encoder
    where: str
    truncate: bool
    #: requests that lost tokens so far
    truncated: int = 0

    def pairs(self, chosen: _Chosen) -> list[tuple[int, Continuation]]:
        """Continuations of contexts: the tokens of the context alone, then those that the whole
        text has beyond so many. White space that ends a context belongs to the continuation."""
        contexts = self.encoder.encode([context.rstrip() for _, _, (context, _) in chosen])
        wholes = self.encoder.encode([context + text for _, _, (context, text) in chosen])
        found = []
        for (number, name, _), context, whole in zip(chosen, contexts, wholes, strict=True):
            at = f"{self.where}, item {name!r}"
            # nothing is left where both melt into one token: that token is scored
            rest = whole[len(context) :]
            ids, start = ([*context, *rest], len(context)) if rest else (whole, len(whole) - 1)
            if start < 1:
                ids, start = [_opening(self.encoder.tokenizer, at), *ids], 1
            cut = max(0, len(ids) - 1 - self.encoder.limit) if self.encoder.limit else 0
            self._check(ids, cut, start, at)
            found.append((number, Continuation(ids[cut:], start - cut)))
        return found

    def _check(self, ids: Sequence[int], cut: int, start: int, where: str) -> None:
        """Refuse what does not fit; what is scored is never cut, and needs a token before it."""
        if cut and (not self.truncate or cut >= start):
            raise BadInput(
                f"needs {len(ids) - 1} positions, the model has {self.encoder.limit}",
                where=where,
                mend="Take fewer examples, or leave the item out: nothing is cut off silently",
            )
        self.truncated += cut > 0
        if len(ids) < 2 or max(ids) >= self.encoder.vocabulary:
            raise BadInput(
                "encodes to nothing, or to tokens that the model does not know",
                where=where,
                mend="Put the tokenizer that belongs to the model beside it",
            )

    def windows(self, chosen: _Chosen) -> list[tuple[int, Continuation]]:
        """Whole texts, the first token after the opening (or end) token; a text that is longer
        than the model is cut into windows that score each token once, the last one as long as the
        others."""
        limit = self.encoder.limit or _stated_length(self.encoder.tokenizer)
        found = []
        encoded = self.encoder.encode([text for _, _, (text,) in chosen])
        for (number, name, _), row in zip(chosen, encoded, strict=True):
            at = f"{self.where}, item {name!r}"
            ids = [_opening(self.encoder.tokenizer, at), *row]
            self._check(ids, 0, 1, at)
            for end in [*range(limit + 1, len(ids), limit), len(ids)]:
                start = max(0, end - limit - 1)
                scored = limit if end < len(ids) else (end - 2) % limit + 1
                found.append((number, Continuation(ids[start:end], end - start - scored)))
        return found

    def prompts(self, chosen: _Chosen) -> list[Open]:
        """Prompts with how they are continued."""
        found = []
        encoded = self.encoder.encode([prompt for _, _, (prompt, _) in chosen])
        for (number, name, (_, arguments)), ids in zip(chosen, encoded, strict=True):
            at = f"{self.where}, item {name!r}"
            how = Generation.of(arguments, where=at)
            room = (self.encoder.limit or _stated_length(self.encoder.tokenizer)) - how.most
            ids = ids or [_opening(self.encoder.tokenizer, at)]
            if room < 1 or (len(ids) > room and not self.truncate):
                raise BadInput(
                    f"prompt of {len(ids)} and answer of {how.most} tokens do not fit the model's "
                    f"{self.encoder.limit} positions",
                    where=at,
                    mend="Set a smaller max_gen_toks in the task's generation_kwargs",
                )
            self.truncated += len(ids) > room
            found.append(Open(request=number, ids=ids[-room:], how=how))
        return found


def _stated_length(tokenizer: Any) -> int:
    stated = getattr(tokenizer, "model_max_length", None)
    # transformers writes "no limit" as a very large number
    return stated if stated is not None and stated < 10**9 else DEFAULT_POSITIONS


def _opening(tokenizer: Any, where: str) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise BadInput(
        "the tokenizer has neither an opening nor an end token to put before the text",
        where=where,
        mend="Name one in tokenizer_config.json",
    )
