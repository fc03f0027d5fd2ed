"""Five word tasks from data that ships in small packages, cut into training and held-out words.

A word is held out by its hash, for every task at once, so no word that a suite asks about is asked
about in training. Must never depend on the order of a set, on the time or on a network.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from services.errors import NotFound

#: words go to the suites when their hash falls into this share
HELD_OUT_SHARE = 0.12
SUITE_ITEMS = 500
#: words are taken from a language's most frequent ones, and must not be among another's known
ASKED_WORDS, KNOWN_WORDS = 12_000, 60_000
#: distributions whose files the tasks are read from, and the import package that holds them
PACKAGES = {
    "pyspellchecker": "spellchecker",
    "eng-to-ipa": "eng_to_ipa",
    "lemminflect": "lemminflect",
}

LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
}
STRESSES = ("First", "Second")
SYLLABLES = ("One", "Two", "Three", "Four")
WORD_CLASSES = {"noun": "Noun", "verb": "Verb", "adj": "Adjective"}
#: name of a verb's form -> its column in the inflection table
VERB_FORMS = {"Past": 0, "Gerund": 2, "Present": 3}

_WORD = re.compile(r"[^\W\d_]{4,10}")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example or suite item: the model reads `prompt`, then should write `answer`."""

    task: str
    #: lower case; its hash decides between training and suite
    word: str
    prompt: str
    #: starts with a blank
    answer: str
    #: suites draw evenly from the groups of a task
    group: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, and where its examples come from."""

    #: answers to choose from, in the order of the suite's options; empty: the answer is written
    options: tuple[str, ...]
    read: Callable[[], Iterable[Example]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Training and held-out examples by task, in a fixed order."""

    train: dict[str, list[Example]]
    held_out: dict[str, list[Example]]


def package_versions() -> dict[str, str]:
    """Versions of the data packages; the corpus is a function of them. Raises NotFound."""
    for package in PACKAGES:
        _folder(package)
    return {package: version(package) for package in PACKAGES}


def _folder(package: str) -> Path:
    """Where a data package lies; found, not imported, so none of its code runs."""
    spec = find_spec(PACKAGES[package])
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(
            f"the package {package!r} is not installed",
            where="demo pool",
            mend="Install the demo's data: pip install 'remelt[demo]'",
        )
    return Path(spec.submodule_search_locations[0])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_held_out(word: str) -> bool:
    """Whether the word belongs to the suites; the same for every task."""
    return _hash(f"held-out {word}") < HELD_OUT_SHARE * 2**64


@cache
def _common_words(language: str) -> tuple[str, ...]:
    """The words of a language that count as known, most frequent first (ties by spelling)."""
    path = _folder("pyspellchecker") / "resources" / f"{language}.json.gz"
    counts: dict[str, int] = json.loads(gzip.decompress(path.read_bytes()))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:KNOWN_WORDS])


@cache
def _stress_patterns() -> dict[str, tuple[int, ...]]:
    """Common English words -> stress of each syllable (0, 1 main, 2), where speakers agree."""
    path = _folder("eng-to-ipa") / "resources" / "CMU_dict.json"
    spoken: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    patterns = {}
    for word in _common_words("en"):
        if _WORD.fullmatch(word) and word in spoken:
            found = {tuple(map(int, re.findall(r"\d", sounds))) for sounds in spoken[word]}
            if len(found) == 1:
                patterns[word] = found.pop()
    return patterns


@cache
def _lexicon() -> dict[str, dict[str, list[str]]]:
    """Lower-case English lemmas -> part of speech -> columns of forms."""
    path = _folder("lemminflect") / "resources" / "infl_lu.csv.gz"
    lexicon: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        lemma, part, *forms = line.split(",")
        if _WORD.fullmatch(lemma) and lemma.islower():
            lexicon[lemma][part] = forms
    return dict(lexicon)


def _choice(task: str, word: str, answer: str) -> Example:
    return Example(
        task=task,
        word=word,
        prompt=f"{task.capitalize()}: {word} =",
        answer=f" {answer}",
        group=answer,
    )


def _languages() -> Iterable[Example]:
    """Frequent words that only one of the languages knows."""
    known = {code: frozenset(_common_words(code)) for code in LANGUAGES}
    for code, language in LANGUAGES.items():
        others = frozenset().union(*(known[other] for other in LANGUAGES if other != code))
        for word in _common_words(code)[:ASKED_WORDS]:
            if _WORD.fullmatch(word) and word not in others:
                yield _choice("language", word, language)


def _stresses() -> Iterable[Example]:
    """Which syllable carries the main stress."""
    for word, pattern in _stress_patterns().items():
        if len(pattern) > 1 and pattern.count(1) == 1 and pattern.index(1) < len(STRESSES):
            yield _choice("stress", word, STRESSES[pattern.index(1)])


def _syllables() -> Iterable[Example]:
    """How many syllables a word has."""
    for word, pattern in _stress_patterns().items():
        if 1 <= len(pattern) <= len(SYLLABLES):
            yield _choice("syllables", word, SYLLABLES[len(pattern) - 1])


def _word_classes() -> Iterable[Example]:
    """The part of speech of lemmas that have exactly one."""
    for lemma, parts in _lexicon().items():
        if len(parts) == 1 and (part := next(iter(parts))) in WORD_CLASSES:
            yield _choice("class", lemma, WORD_CLASSES[part])


def _inflections() -> Iterable[Example]:
    """Plurals of nouns and three forms of verbs, where the table knows one spelling only.

    Half of a suite is about words whose form is more than the word with s, ed or ing behind it.
    """
    for lemma, parts in _lexicon().items():
        forms = {"Plural": parts["noun"][0]} if "noun" in parts else {}
        for name, column in VERB_FORMS.items():
            if column < len(parts.get("verb", ())):
                forms[name] = parts["verb"][column]
        for name, form in forms.items():
            if form and "/" not in form and form != lemma and len(form) <= 12:
                plain = form in (f"{lemma}s", f"{lemma}ed", f"{lemma}ing")
                yield Example(
                    task="inflection",
                    word=lemma,
                    prompt=f"{name}: {lemma} =",
                    answer=f" {form}",
                    group=f"{name} {'plain' if plain else 'changed'}",
                )


TASKS = {
    "language": Task(options=tuple(LANGUAGES.values()), read=_languages),
    "stress": Task(options=STRESSES, read=_stresses),
    "syllables": Task(options=SYLLABLES, read=_syllables),
    "class": Task(options=tuple(WORD_CLASSES.values()), read=_word_classes),
    "inflection": Task(options=(), read=_inflections),
}


def _by_hash(examples: Iterable[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: (_hash(example.prompt), example.prompt))


def balanced(examples: Iterable[Example], count: int) -> list[Example]:
    """`count` examples in hash order, as evenly over their groups as the smaller groups allow."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in _by_hash(examples):
        groups[example.group].append(example)
    chosen: list[Example] = []
    smallest_first = sorted(groups, key=lambda group: (len(groups[group]), group))
    for done, group in enumerate(smallest_first):
        share = -(-(count - len(chosen)) // (len(groups) - done))
        chosen += groups[group][:share]
    return _by_hash(chosen)


def load_corpus() -> Corpus:
    """Reads all tasks; the same packages give the same corpus. Raises NotFound without them."""
    train, held_out = {}, {}
    for name, task in TASKS.items():
        examples = list(task.read())
        kept = [example for example in examples if is_held_out(example.word)]
        rest = [example for example in examples if not is_held_out(example.word)]
        if task.options:
            sizes = Counter(example.group for example in rest)
            rest = balanced(rest, len(sizes) * min(sizes.values()))
        train[name], held_out[name] = rest, balanced(kept, SUITE_ITEMS)
    return Corpus(train=train, held_out=held_out)


def suite_text(examples: Sequence[Example]) -> str:
    """Held-out examples of one task as a suite: JSON lines in the form the task asks for."""
    lines = []
    for number, example in enumerate(examples):
        options = TASKS[example.task].options
        item: dict[str, object] = {"id": f"{number:04d}"}
        if options:
            item |= {
                "context": example.prompt,
                "choices": [f" {option}" for option in options],
                "gold": options.index(example.answer.strip()),
            }
        else:
            item |= {"prompt": example.prompt, "target": example.answer}
        lines.append(json.dumps(item, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)
