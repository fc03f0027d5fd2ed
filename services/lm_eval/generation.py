"""lm-eval's generation arguments, as far as they mean greedy decoding; the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.errors import BadInput

#: lm-eval's default for the most new tokens
DEFAULT_MOST = 256
#: names of the most new tokens, the first one given counts
MOST_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
#: say how to sample, and nothing when there is no sampling
SAMPLING_KEYS = ("temperature", "do_sample", "top_p", "top_k", "min_p")
#: values that mean what greedy decoding does anyhow
GREEDY = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}
#: a stop string may be spread over so many tokens more than it has bytes
LOOK_BACK = 4


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Greedy decoding of at most `most` tokens, until one of the strings appears."""

    until: tuple[str, ...]
    most: int

    @classmethod
    def of(cls, arguments: Mapping[str, Any], *, where: str) -> Generation:
        """Read a task's `generation_kwargs`; BadInput for one that is not greedy decoding."""
        temperature = float(arguments.get("temperature") or 0)
        if arguments.get("do_sample", temperature > 0):
            raise BadInput(
                "the task samples its answers, so that two evaluations of one model would differ",
                where=where,
                mend="Set do_sample: false and temperature: 0 in its generation_kwargs",
            )
        given = {key for key, value in arguments.items() if GREEDY.get(key, ...) != value}
        if unknown := sorted(given - {"until", *MOST_KEYS, *SAMPLING_KEYS}):
            raise BadInput(
                f"generation argument {unknown[0]!r} is not supported",
                where=where,
                mend=f"Known: until, {', '.join(MOST_KEYS)}",
            )
        until = arguments.get("until") or []
        most = (arguments[key] for key in MOST_KEYS if arguments.get(key) is not None)
        return cls(
            until=tuple(filter(None, [until] if isinstance(until, str) else until)),
            most=int(next(most, DEFAULT_MOST)),
        )

    @property
    def looks_back(self) -> int:
        """How many tokens of the end are enough to find a stop string in."""
        return max((len(stop.encode()) for stop in self.until), default=0) + LOOK_BACK

    def stops(self, text: str) -> bool:
        """Whether the text holds a stop string."""
        return any(stop in text for stop in self.until)

    def cut(self, text: str) -> str:
        """The text before the first stop string of each kind."""
        for stop in self.until:
            text = text.split(stop, 1)[0]
        return text
