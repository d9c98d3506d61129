"""Bilingual lexicons, and code-switching: words of a text replaced by their translations (arXiv 2305.05295).

In: CLDR's names, which is what atlas asks about; or files in MUSE's format, or a TSV table. Out: a lexicon, and a
text in which some of its words are of another language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
import regex
from babel import Locale, localedata

from hybrid_ir.data.find_files import listing
from hybrid_ir.data.read_files import read_lines
from hybrid_ir.languages import language_code, language_script
from hybrid_ir.types import InputError

# Scripts that put no spaces between words: there a phrase may begin at any character.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A character as a reader sees it: with its marks, and in Thai and Lao with the vowels before and after the consonant.
UNSPACED_CHARACTER = (
    rf"[\u0e40-\u0e44\u0ec0-\u0ec4]*[{UNSPACED}][\p{{M}}\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3\u200c\u200d]*"
)
# Every character of a text is in exactly one piece, so that the pieces put together are the text. Here \w has marks.
_PIECE = regex.compile(rf"[^\W{UNSPACED}]+|\s+|{UNSPACED_CHARACTER}|.", regex.DOTALL)
_SPACED_CHARACTER = regex.compile(rf"[^\W{UNSPACED}]")
_LATIN = regex.compile(r"\p{Latin}")


@dataclass(frozen=True)
class Lexicon:
    """`pairs[source language, target language]` maps a word or phrase to its translation."""

    pairs: Mapping[tuple[str, str], Mapping[str, str]]

    def targets(self, source: str) -> tuple[str, ...]:
        """Languages that words of `source` can be translated into, sorted."""
        return tuple(sorted(target for language, target in self.pairs if language == source))

    @cached_property
    def _phrases(self) -> dict[str, dict[str, dict[str, str]]]:
        """Translations by source language, folded phrase, and target language; none at what only begins a phrase.

        This is a trie with its paths written out: flat, so that it pickles however long a phrase is.
        """
        phrases: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
        for (source, target), words in self.pairs.items():
            for word, translation in words.items():
                phrase = ""
                for piece in _PIECE.findall(word):
                    phrase += _fold(piece)
                    phrases[source].setdefault(phrase, {})
                phrases[source].setdefault(phrase, {}).setdefault(target, translation)
        return dict(phrases)


def code_switch(
    text: str, lexicon: Lexicon, source: str, targets: Sequence[str], rate: float, generator: np.random.Generator
) -> str:
    """`text` of language `source` with each phrase of the lexicon translated with probability `rate` in [0, 1].

    Each is translated into one of `targets` that has it, drawn evenly. Of phrases that overlap, the first and longest
    is taken, whether drawn or not. Letter case and Unicode normal form do not matter. A phrase is whole words, but in
    scripts without spaces (Chinese, Thai) any run of characters. A text without such phrases comes back as it was.
    """
    pieces = _PIECE.findall(text)
    parts: list[str] = []
    done = 0
    for start, end, translations in _find_phrases(pieces, lexicon._phrases.get(source, {}), targets):
        if generator.random() < rate:
            parts += ["".join(pieces[done:start]), translations[int(generator.random() * len(translations))]]
            done = end
    return _join([*parts, "".join(pieces[done:])])


def cldr_lexicon(languages: Sequence[str]) -> Lexicon:
    """Names of territories, languages, currencies and scripts, between each two of `languages`, from CLDR.

    Left out are names that CLDR has not translated, that have several translations (two languages called Tonga), and
    that are the same in both languages. Raises InputError for a language without CLDR data.
    """
    names = {language_code(language): _cldr_names(language_code(language)) for language in languages}
    pairs = {(source, target): _name_pairs(names[source], names[target]) for source, target in permutations(names, 2)}
    return _checked(pairs, f"CLDR's names in {' '.join(languages)}")


def read_lexicon(path: str | Path) -> Lexicon:
    """A folder of files like `en-de.txt` in MUSE's format, or one TSV file; .gz too. Of several translations the first.

    MUSE: on each line a word, a space or tab, and its translation; with a tab both may be phrases. TSV: the columns
    source_language, target_language, source, target, under these names. Raises InputError naming the file and line.
    """
    path = Path(path)
    pairs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for source, target, word, translation in _read_folder(path) if path.is_dir() else _read_table(path):
        pairs[source, target].setdefault(word, translation)
    return _checked(pairs, str(path))


# ---- phrases in a text


@lru_cache(maxsize=1 << 16)
def _fold(piece: str) -> str:
    """What is the same for pieces that match: any white space is one space, case and normal form are gone."""
    return " " if piece.isspace() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", piece).casefold())


def _find_phrases(
    pieces: Sequence[str], phrases: Mapping[str, Mapping[str, str]], targets: Sequence[str]
) -> Iterator[tuple[int, int, list[str]]]:
    """(first piece, piece after the last, translations) of the phrases that have any, the longest at each place."""
    folded = [_fold(piece) for piece in pieces]
    done = 0
    for start in [at for at, piece in enumerate(folded) if piece in phrases]:
        if start < done:
            continue
        translations: list[str] = []
        phrase = ""
        for end in range(start + 1, len(folded) + 1):
            phrase += folded[end - 1]
            known = phrases.get(phrase)
            if known is None:
                break
            if known and (found := [known[target] for target in targets if target in known]):
                done, translations = end, found
        if translations:
            yield start, done, translations


def _join(parts: Sequence[str]) -> str:
    """The parts as one text, with a space where a word would run into the next: 法国90 is France 90."""
    text = ""
    for part in parts:
        if text and part and _SPACED_CHARACTER.match(text[-1]) and _SPACED_CHARACTER.match(part):
            text += " "
        text += part
    return text


# ---- CLDR

_KINDS = ("territories", "languages", "currencies", "scripts")
# No place, language or script; the last two are ISO 4217's codes for tests and for "no currency".
_NOT_NAMES = frozenset({"XA", "XB", "ZZ", "mis", "mul", "und", "zxx", "XTS", "XXX"}) | frozenset(
    {"Zinh", "Zmth", "Zsye", "Zsym", "Zxxx", "Zyyy", "Zzzz"}
)
# Named like something else: traditional and simplified, silver and gold, the other code of the yuan.
_MISLEADING = frozenset({"CNH", "Hans", "Hant", "XAG", "XAU", "XPD", "XPT"})
# Names that are more often another word: again, reunion, army, of that, and law and shirt.
_OTHER_WORDS = {"el": {"πάλι"}, "es": {"reunión"}, "hi": {"सेना"}, "ru": {"того"}, "vi": {"áo", "pháp"}}
# Languages and scripts with fewer letters mostly share their name with another word: и is Yi, and "and" in Russian.
_FEWEST_LETTERS = {"Deva": 3, "Hans": 2, "Hant": 2, "Jpan": 2, "Thai": 3}
# CLDR has the bare name (จีน is China and Chinese), which a text does not.
_THAI_NOUNS = {"languages": "ภาษา", "scripts": "อักษร"}


def _cldr_names(language: str) -> list[dict[str, str]]:
    """For each of `_KINDS`, the names by CLDR's identifier."""
    if not localedata.exists(language):
        raise InputError(f"CLDR has no names in {language!r}; leave that language out or give a lexicon of your own")
    locale, script = Locale(language), language_script(language)
    names = []
    for kind in _KINDS:
        noun = _THAI_NOUNS.get(kind, "") if language == "th" else ""
        fewest = _FEWEST_LETTERS.get(script, 4) if kind in {"languages", "scripts"} else 1
        names.append(
            {
                key: name if name.startswith(noun) else noun + name
                for key, name in getattr(locale, kind).items()
                if name != key and key not in _NOT_NAMES | _MISLEADING and len(name) >= fewest
                if name.casefold() not in _OTHER_WORDS.get(language, ())
                # A Latin letter elsewhere is an English name that nobody translated.
                if script == "Latn" or not _LATIN.search(name)
            }
        )
    return names


def _name_pairs(sources: Sequence[Mapping[str, str]], targets: Sequence[Mapping[str, str]]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for source_names, target_names in zip(sources, targets, strict=True):
        translations: dict[str, set[str]] = defaultdict(set)
        for key in source_names.keys() & target_names.keys():
            translations[source_names[key].casefold()].add(target_names[key])
        for name in source_names.values():
            # Between kinds it is the territory, then the language: most names of scripts are a language's.
            if len(found := translations[name.casefold()]) == 1:
                pairs.setdefault(name, *found)
    return pairs


# ---- files

_COLUMNS = ["source_language", "target_language", "source", "target"]
_PAIR_FILE = re.compile(r"([^.-]+)-([^.-]+)\.txt(\.gz)?")


def _read_folder(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    files = [(match, path) for path in sorted(folder.iterdir()) if (match := _PAIR_FILE.fullmatch(path.name))]
    if not files:
        raise InputError(f"no lexicon in {folder}: its files must be named like en-de.txt; found {listing(folder)}")
    for match, path in files:
        source, target = _languages(match[1], match[2], str(path))
        for number, line in _written_lines(path):
            columns = line.split("\t") if "\t" in line else line.split()
            yield source, target, *_two_phrases(columns, line, f"{path}:{number}")


def _read_table(path: Path) -> Iterator[tuple[str, str, str, str]]:
    lines = _written_lines(path)
    _, header = next(lines, (0, ""))
    if header.split("\t") != _COLUMNS:
        raise InputError(
            f"{path} must begin with the line {' '.join(_COLUMNS)!r}, between tabs; found {header[:80]!r}"
            " (files in MUSE's format are given as their folder)"
        )
    for number, line in lines:
        where = f"{path}:{number}"
        columns = line.split("\t")
        if len(columns) != len(_COLUMNS):
            raise InputError(f"{where} must have 4 columns between tabs; found {len(columns)}: {line[:80]!r}")
        yield *_languages(columns[0], columns[1], where), *_two_phrases(columns[2:], line, where)


def _written_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank. Raises InputError at bytes that are not UTF-8."""
    for number, line in read_lines(path):
        if any("\ud800" <= character <= "\udfff" for character in line):
            raise InputError(f"{path}:{number} is not UTF-8; convert the file to UTF-8")
        if line.strip():
            yield number, line


def _languages(source: str, target: str, where: str) -> tuple[str, str]:
    try:
        codes = language_code(source), language_code(target)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if codes[0] == codes[1]:
        raise InputError(f"{where}: source and target language are both {codes[0]}; a lexicon joins two languages")
    return codes


def _two_phrases(columns: Sequence[str], line: str, where: str) -> tuple[str, str]:
    phrases = [column.strip() for column in columns]
    if len(phrases) != 2 or not all(phrases):
        raise InputError(f"{where} must be a word and its translation (phrases between tabs); found {line[:80]!r}")
    return phrases[0], phrases[1]


def _checked(pairs: Mapping[tuple[str, str], Mapping[str, str]], origin: str) -> Lexicon:
    """Without the words that are their own translation. Raises InputError if that leaves nothing."""
    kept = {
        languages: {word: other for word, other in words.items() if word.casefold() != other.casefold()}
        for languages, words in pairs.items()
    }
    kept = {languages: words for languages, words in kept.items() if words}
    if not kept:
        raise InputError(f"no translations in {origin}; a lexicon needs words that differ between two languages")
    return Lexicon(kept)
