"""Suites: items with one way of scoring, parsed from JSON Lines, and their three splits.

Pure text in, values out: no files, no database. An item's split depends on the stored seed and on
the item itself only, so adding items never moves an old one from the test split into the search.
The items of an lm-eval task that has rules of its own also carry what it asks (`services.lm_eval`).
"""

from services.suites.parse import ANSWER_TOKENS, MOST_ANSWER_TOKENS, NAME, parse_suite
from services.suites.suite import SPLITS, Expect, Item, Normalise, Split, SplitBy, Suite

__all__ = [
    "ANSWER_TOKENS",
    "MOST_ANSWER_TOKENS",
    "NAME",
    "SPLITS",
    "Expect",
    "Item",
    "Normalise",
    "Split",
    "SplitBy",
    "Suite",
    "parse_suite",
]
