"""The demo's tokenizer: one token per character, tag or answer word.

A character may carry the blank before it, so no token depends on what follows: a context followed
by a choice splits exactly at the seam.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"

#: a tag (`Past:`), a capitalised answer with its blank (` German`), or any one character
PIECE = r"\p{Lu}\p{Ll}+:| \p{Lu}\p{Ll}+| ?[\s\S]"
MAX_TOKENS = 64


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every piece of the texts, sorted; adds `<s>` in front."""
    split = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    tokens = [UNKNOWN, BEGIN, END, *sorted(pieces)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A $B",
        special_tokens=[(BEGIN, vocabulary[BEGIN])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
    )
